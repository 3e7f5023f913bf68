"""Loading base models: dtype and device, and whether they fit.

Weights are read from safetensors only and `trust_remote_code` stays off, so that loading a model never runs its code.
"""

import gc
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from rlhf_tuning import environment, limits, machine, step
from rlhf_tuning.accelerators import LEARNING, MOST_WEIGHTS
from rlhf_tuning.distributed import sharding
from rlhf_tuning.errors import ModelError
from rlhf_tuning.models import architecture
from rlhf_tuning.models.model_reference import model_source, weight_bytes
from rlhf_tuning.models.scoring_model import name_trunk, scoring_model
from rlhf_tuning.models.stored_weights import misfit
from rlhf_tuning.ops import attention, processor

logger = logging.getLogger(__name__)


def device() -> torch.device:
    """Return the device that models run on: the first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def release_memory() -> None:
    """Give the memory of models that nobody holds any more back to the machine, so that other processes can have it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fork_random_numbers() -> AbstractContextManager[None]:
    """Leave torch's random numbers as they were, those of other processes' GPUs alone."""
    return torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else [])


def choose_dtype(dtype: str) -> torch.dtype:
    """Return the dtype for frozen weights and matrix products.

    `auto` is bfloat16 where the hardware multiplies it natively (CUDA from Ampere on, CPUs with AVX512-BF16 or AMX) and
    float32 elsewhere. Trained weights are always kept in float32.
    """
    if dtype == "float32":
        return torch.float32
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = processor.multiplies_bfloat16()
        if dtype == "bfloat16" and not native:
            _say_slow()
    return torch.bfloat16 if native or dtype == "bfloat16" else torch.float32


@cache
def _say_slow() -> None:
    step.say("Warning: dtype is bfloat16, which is several times slower than float32 on this processor. auto is not.")


def _attention(dtype: torch.dtype | str) -> str | None:
    """Return transformers' attention to use; None for torch's fused one where a model has it, else the model's own.

    For bfloat16 training on a CPU the fused one is the slower one.
    """
    return "eager" if dtype == torch.bfloat16 and not torch.cuda.is_available() else None


def load_causal_lm(
    reference: str,
    *,
    dtype: torch.dtype | str,
    shard: bool = False,
    beside: int = 0,
    compute: torch.dtype | None = None,
    on_cpu: bool = False,
) -> Any:
    """Load a causal language model onto the device, ready for inference.

    Args:
        reference: The model.
        dtype: Of its weights; `auto` is that of the stored ones.
        shard: Whether several processes may each hold a part of it; they do if it is too large for each (`is_too_large`).
        beside: Bytes that will be needed beside each weight, such as `accelerators.LEARNING`.
        compute: Of the products of layers that are divided, where it is not `dtype`.
        on_cpu: Whether it stays in the machine's memory, wherever others would go.

    Raises:
        ModelError: If the weights cannot be loaded.
    """
    if on_cpu:
        return _load_whole(reference, dtype=dtype)
    return _load(reference, dtype=dtype, shard=shard, beside=beside, compute=compute)


def load_scoring_model(
    reference: str,
    *,
    dtype: torch.dtype,
    shard: bool = False,
    beside: int = 0,
    compute: torch.dtype | None = None,
) -> Any:
    """Load a causal language model's trunk with a score head, which starts random, see `scoring_model`.

    Args:
        reference: The model.
        dtype: Of its weights.
        shard: Like `beside` and `compute`, as for `load_causal_lm`.

    Raises:
        ModelError: If the weights cannot be loaded.
    """
    return _load(reference, dtype=dtype, shard=shard, beside=beside, compute=compute, scores=True)


def causal_lm(model: Any) -> Any:
    """Return the model of transformers inside a PeftModel, or the model itself."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def check_context(model: Any, *, prompt_sequence_length: int, target_sequence_length: int) -> None:
    """Refuse sequences that are longer than the positions a model was made for.

    Raises:
        ParameterError: Naming both lengths and the model's limit.
    """
    limits.check_context(
        architecture.positions(model.config),
        prompt_sequence_length=prompt_sequence_length,
        target_sequence_length=target_sequence_length,
    )


def beside(*, full: bool, copies: int = 0) -> int:
    """Return the bytes that learning needs beside each weight.

    Args:
        full: Whether all weights learn; otherwise those that do are few.
        copies: Further copies of the weights, where all learn.
    """
    return LEARNING + copies * torch.float32.itemsize if full else 0


def check_memory(reference: str, *, dtype: torch.dtype, rank: str = "", full: bool = False, copies: int = 0) -> None:
    """Refuse, before it is loaded, a model that cannot fit on a GPU, whether it learns or only answers.

    Counted is what stays there: weights, and for those that learn a gradient and AdamW's two averages, in float32. Layers
    are divided over several GPUs where all that is too large for each (`is_too_large`).

    Args:
        reference: The base model.
        dtype: Of frozen weights.
        rank: Name of the parameter that is the adapter's rank; empty where the model only answers.
        full: Whether all weights learn.
        copies: Further copies of the weights, where all learn.

    Raises:
        ModelError: Naming what is needed, what there is, and what to do.
    """
    memory = gpu_memory()
    if memory is None:
        return
    weight = torch.float32.itemsize if full else dtype.itemsize
    extra = beside(full=full, copies=copies)
    all_weights, layers = _weight_counts(reference)
    needed = (weight + extra) * all_weights
    if layers and is_too_large(reference, torch.float32 if full else dtype, beside=extra):
        # A part of every layer, and two layers whole: the one at work and the next.
        needed -= (weight + extra) * (sum(layers) - sum(layers) // environment.process_count())
        needed += dtype.itemsize * 2 * max(layers)
    if needed > memory:
        doing = f"training it with {rank} {0 if full else 'above 0'}" if rank else "answering with it"
        raise ModelError(
            f"The model {reference!r} does not fit: {doing} takes more than {needed / 1e9:.3g} GB of each GPU, which has "
            f"{memory / 1e9:.3g} GB. "
            f"Use more GPUs, GPUs with more memory, {f'a {rank} above 0, ' if full else ''}or a smaller model."
        )


def check_disk(reference: str, *, output: Path | None = None, full: bool = False) -> None:
    """Refuse, before it is loaded, a model for which the disk is too small: as it is fetched, and as it will be saved.

    What is on Cloud Storage is looked at where it is copied.

    Args:
        reference: The model.
        output: Where the tuned model is saved, in whole; None where it is not.
        full: Whether all weights learn, so that they are saved in float32.

    Raises:
        MachineError: Naming what is needed, what there is, and what to do.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    stored, missing = weight_bytes(reference)
    cache = Path(HF_HUB_CACHE)
    machine.check_room(
        cache,
        missing,
        what=f"The model {reference!r}",
        remedy="Free some space, name a folder on a larger disk with HF_HOME, or take a smaller model.",
    )
    if output is not None:
        saved = torch.float32.itemsize * _weight_counts(reference)[0] if full else stored
        together = missing if machine.same_disk(cache, output) else 0
        machine.check_room(
            output,
            saved + together,
            what=f"The tuned model{f', with {reference!r} itself,' if together else ''}",
            remedy="Free some space, or let the run write elsewhere.",
        )


def is_too_large(reference: str, dtype: torch.dtype, *, beside: int = 0) -> bool:
    """Say whether a model's layers are divided over the processes: RLHF_SHARD is 1, or each GPU has too little room.

    With one process they never are.

    Args:
        reference: The model.
        dtype: Of its weights.
        beside: Bytes that are needed beside each weight, such as `accelerators.LEARNING`.
    """
    if environment.process_count() == 1:
        return False
    if environment.SHARD == "1":
        return True
    memory = gpu_memory()
    if memory is None:
        return False
    return (dtype.itemsize + beside) * _weight_counts(reference)[0] > MOST_WEIGHTS * memory


def parameter_count(reference: str) -> int:
    """Return how many weights a model has; 0 where it cannot be read."""
    return _weight_counts(reference)[0]


def gpu_memory() -> int | None:
    """Return the bytes of this process's GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


@cache
def _weight_counts(reference: str) -> tuple[int, list[int]]:
    """Return how many weights a model has, and each of its layers; none where it cannot be read: loading says why."""
    try:
        model = _without_weights(reference)
    except (OSError, ValueError, KeyError):
        return 0, []
    layers = [sum(weight.numel() for weight in layer.parameters()) for layer in sharding.layers(model)]
    return sum(weight.numel() for weight in model.parameters()), layers


def _without_weights(reference: str, *, dtype: torch.dtype | None = None, scores: bool = False) -> Any:
    """Return a model on the meta device."""
    config = AutoConfig.from_pretrained(**model_source(reference, weights=False), trust_remote_code=False)
    settings = {} if dtype is None else {"dtype": dtype, "attn_implementation": _attention(dtype)}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, **settings)
        _prepare(model)
        return scoring_model(model) if scores else model


def _prepare(model: Any) -> None:
    """Name a model's trunk, and take out its dropout: two passes give an answer one log-probability.

    transformers keeps the share that attention drops as a number, which TRL, that looks for layers of dropout, leaves there.
    The config stays, and is saved, as it is.
    """
    name_trunk(model)
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or isinstance(module, torch.nn.Dropout)):
                setattr(module, name, 0.0)


def _load(
    reference: str,
    *,
    dtype: torch.dtype | str,
    shard: bool,
    beside: int,
    compute: torch.dtype | None,
    scores: bool = False,
) -> Any:
    if shard and isinstance(dtype, torch.dtype) and is_too_large(reference, dtype, beside=beside):
        return sharding.load_sharded(
            lambda: _load_whole(reference, dtype=dtype, scores=scores),
            lambda: _without_weights(reference, dtype=dtype, scores=scores),
            device(),
            compute=compute,
        )
    return _load_whole(reference, dtype=dtype, scores=scores).to(device())


def _load_whole(reference: str, *, dtype: torch.dtype | str, scores: bool = False) -> Any:
    source = model_source(reference)
    # A progress bar in a log file is a flood of lines.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            **source,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told like those that are missing
            dtype=dtype,
            attn_implementation=_attention(dtype),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"Cannot load the model {reference!r}: {error}") from error
    if problem := misfit(_needed(model, scores=scores), told):
        raise ModelError(f"Cannot load the model {reference!r}: {problem}")
    _prepare(model)
    if _attention(dtype) == "eager":
        attention.quicken(model)
    return scoring_model(model) if scores else model


def _needed(model: Any, *, scores: bool) -> Iterator[str]:
    """Yield the names of the weights that must be stored: all, but for an output head that is taken off."""
    output = model.get_output_embeddings() if scores else None
    spare = {id(weight) for weight in output.parameters()} if output is not None else set()
    for name, weight in model.named_parameters():
        if id(weight) not in spare or weight is model.get_input_embeddings().weight:
            yield name
