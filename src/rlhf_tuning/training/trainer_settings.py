"""What all phases ask of TRL's trainers alike."""

from typing import Any

import torch

from rlhf_tuning.errors import RunError

#: So many rows are encoded whether or not the steps will see them all: it takes seconds, and the trainer draws from all.
MOST_SPARE_ROWS = 20_000


def shared_settings(
    *, output_dir: str, steps: int, learning_rate: float, seed: int, compute: torch.dtype
) -> dict[str, Any]:
    """Return trainer arguments: exactly so many steps, a log at each, nothing saved or sent anywhere by the trainer.

    Args:
        output_dir: A scratch folder; the phases save what they make themselves.
        steps: Optimizer steps. The first twentieth warms the learning rate up.
        learning_rate: The peak.
        seed: Of the order of the rows, and of samples.
        compute: Of matrix products.
    """
    gpu = torch.cuda.is_available()
    return {
        "output_dir": output_dir,
        "max_steps": steps,
        "learning_rate": learning_rate,
        "warmup_steps": steps // 20,
        "bf16": compute == torch.bfloat16,
        # Costs a forward pass, which only memory that runs short is worth.
        "activation_checkpointing": gpu,
        # So that policy and reference, or two passes, give an answer one log-probability.
        "disable_dropout": True,
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
