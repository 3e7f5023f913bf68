"""What all phases ask of TRL's trainers alike, and how much goes through a model in one pass."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlhf_tuning import step
from rlhf_tuning.accelerators import LEARNING
from rlhf_tuning.distributed import memory, processes, sharding
from rlhf_tuning.errors import ModelError, RunError
from rlhf_tuning.models import architecture
from rlhf_tuning.models.warm_start import WEIGHTS_FILE, adapter_folder
from rlhf_tuning.ops import linear
from rlhf_tuning.planning.forecast import activation_bytes
from rlhf_tuning.training.training_log import micro_batch

#: So many rows are encoded whether or not the steps will see them all: it takes seconds, and the trainer draws from all.
MOST_SPARE_ROWS = 20_000

#: Tokens in one pass, with which a GPU is busy: assumed, not measured.
_TOKENS_AT_A_TIME = 16_384
#: The share of free memory that activations may be counted to take: the formula is off by a tenth, and rows are padded.
_COUNTED_ON = 0.7


@dataclass(frozen=True, kw_only=True)
class Passes:
    """One forward and backward pass: how many `rows` it holds, and whether activations are worked out anew, not kept."""

    rows: int
    checkpointing: bool


def passes(
    model: Any, *, share: int, most: int, tokens: int, full: bool, compute: torch.dtype, beside: float = 0.0
) -> Passes:
    """Decide what a pass holds, by the length of rows and the memory that is free.

    All processes decide the same. Results do not depend on it, save with `rpo_alpha`, see `preference_loss`.

    On a GPU as many rows as keep it busy and fit. Activations are worked out anew where not even one row's would fit. On a
    CPU `most`. Where memory has run out once half as many, and on a GPU with activations worked out anew, though more would
    then fit.

    Args:
        model: Of transformers, on its device, with nothing beside it that training adds.
        share: Rows of a step in this process, of which a pass holds a divisor.
        most: Rows that a CPU takes at a time; a GPU may take more where they are short.
        tokens: Of the longest row.
        full: Whether all weights learn.
        compute: Of matrix products.
        beside: Bytes that will be held beside the model, other than what its learning takes.
    """
    free = memory.free()
    chosen = Passes(rows=micro_batch(share, most), checkpointing=False)
    if free < math.inf:
        held = sum(part.numel() for part in sharding.parts(model).values())
        room = _COUNTED_ON * (free - beside - (LEARNING * held if full else 0))
        chosen = _on_gpu(model, room, share=share, most=most, tokens=tokens, full=full, compute=compute)
    everyones = processes.gather(chosen)
    rows = memory.at_a_time(min(each.rows for each in everyones))
    return Passes(rows=micro_batch(share, rows), checkpointing=any(each.checkpointing for each in everyones))


def _on_gpu(model: Any, room: float, *, share: int, most: int, tokens: int, full: bool, compute: torch.dtype) -> Passes:
    try:
        shape = architecture.from_config(model.config, name="the model")
    except ModelError:  # nobody can count what it takes
        return Passes(rows=micro_batch(share, most), checkpointing=True)
    most = max(most, _TOKENS_AT_A_TIME // tokens)
    for checkpointing in (False, True):
        row = activation_bytes(
            shape, 1, tokens, c=compute.itemsize, lora=not full, cpu=False, checkpointing=checkpointing
        )
        if row <= room:
            rows = micro_batch(share, min(most, int(room / row)))
            return Passes(rows=rows, checkpointing=checkpointing or memory.has_run_out())
    return Passes(rows=1, checkpointing=True)


def shared_settings(
    *, output_dir: str, steps: int, learning_rate: float, seed: int, compute: torch.dtype, checkpointing: bool = False
) -> dict[str, Any]:
    """Return trainer arguments: exactly so many steps, a log at each, nothing saved or sent anywhere by the trainer.

    Args:
        output_dir: A scratch folder; the phases save what they make themselves.
        steps: Optimizer steps. The first twentieth warms the learning rate up.
        learning_rate: The peak.
        seed: Of the order of the rows, and of samples.
        compute: Of matrix products.
        checkpointing: Whether activations are worked out anew in the backward pass.
    """
    gpu = torch.cuda.is_available()
    return {
        "output_dir": output_dir,
        "max_steps": steps,
        "learning_rate": learning_rate,
        "warmup_steps": steps // 20,
        "bf16": compute == torch.bfloat16,
        "activation_checkpointing": checkpointing,
        "seed": seed,
        "logging_steps": 1,
        # A loss that is not finite is to be seen, not shown as 0.
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": gpu,
        "use_cpu": not gpu,
        # Where there are several processes: every weight that learns has a part in every pass.
        "ddp_find_unused_parameters": False,
    }


def new_adapter(model: Any, rank: int, *, warm_start: str = "") -> Any:
    """Return the LoRA adapter that a causal language model learns by; None for rank 0, where all its weights learn.

    Args:
        model: The base model.
        rank: Of the adapter.
        warm_start: Folder of an adapter that this one is to continue, see `continue_adapter`; empty for none.
    """
    from peft import LoraConfig

    if not rank:
        return None
    if warm_start:
        found = LoraConfig.from_pretrained(adapter_folder(warm_start))
        found.inference_mode, found.lora_dropout = False, 0.0
        return found
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        exclude_modules=linear.left_alone(model.base_model),
    )


def continue_adapter(model: Any, warm_start: str) -> str:
    """Put a trained adapter's weights in the place of the new one's, and return its folder; empty without one.

    A trainer is handed a new adapter and not this one, which TRL would take for the reference.

    Args:
        model: With the adapter that `new_adapter` returned.
        warm_start: Folder of the trained one; empty for none.

    Raises:
        ModelError: If its weights do not fit.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    if not warm_start:
        return ""
    folder = adapter_folder(warm_start)
    weights = load_file(folder / WEIGHTS_FILE)
    new = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    if new != {name: tensor.shape for name, tensor in weights.items()}:
        raise ModelError(
            f"The adapter in {folder} does not fit the base model: its weights have other names or shapes. Use an adapter "
            "of the same base, or no warm_start_adapter."
        )
    set_peft_model_state_dict(model, weights)
    step.say(f"Training starts from the adapter in {folder}; the reference stays the base model")
    return str(folder)


def step_order(lengths: Sequence[int], *, steps: int, batch_size: int, seed: int) -> list[int]:
    """Return the rows of every step: all rows in an order drawn anew each time they are used up; in a step the long first.

    Passes of a step then hold rows of like length, in whatever number of processes.

    Args:
        lengths: Tokens of each row.
        steps: How many steps there are.
        batch_size: Rows of a step.
        seed: Of the order.
    """
    random_source = random.Random(seed)
    drawn: list[int] = []
    while len(drawn) < steps * batch_size:
        drawn += random_source.sample(range(len(lengths)), len(lengths))
    order: list[int] = []
    for start in range(0, steps * batch_size, batch_size):
        order += sorted(drawn[start : start + batch_size], key=lambda row: -lengths[row])
    return order


def one_device(arguments: Any) -> Any:
    """Keep a trainer on one GPU where several are visible: TRL's trainers refuse torch's DataParallel."""
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def check_steps(taken: int, *, asked: int, label: str) -> None:
    """Refuse a training that ended early, where nothing of ours stopped it.

    Raises:
        RunError: If it took fewer steps than it was asked for.
    """
    if taken < asked:
        raise RunError(
            f"{label} took {taken:,} of the {asked:,} steps that it was asked for, and nothing says why. Nothing was saved."
        )


def drop_printing(trainer: Any) -> None:
    """The Trainer's own callback prints a dictionary at every step; `TrainingLog` says it once, in words."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
