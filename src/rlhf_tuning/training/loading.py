"""What every method loads before it trains: the tokenizer, and the base model that is to learn, if it fits."""

from pathlib import Path
from typing import Any, Protocol

import torch

from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer


class _Settings(Protocol):
    """What the settings of every method say of its base model."""

    @property
    def large_model_reference(self) -> str: ...

    @property
    def prompt_sequence_length(self) -> int: ...

    @property
    def target_sequence_length(self) -> int: ...

    @property
    def dtype(self) -> str: ...


def load_text_format(config: _Settings) -> TextFormat:
    """Return the text format of a base model, with its tokenizer.

    Raises:
        ModelError: If the tokenizer cannot be loaded.
    """
    return TextFormat(
        load_tokenizer(config.large_model_reference),
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )


def load_base(
    config: _Settings, *, rank: str, output: Path | None, seed: int, scores: bool = False, copies: int = 0
) -> tuple[Any, torch.dtype]:
    """Load the base model that is to learn, if memory, disk and the positions that it was made for suffice.

    Args:
        config: The settings.
        rank: Name of the setting that is the rank of its adapter; where that is 0 all weights learn, in float32.
        output: Where the tuned model is saved, in whole; None where it is not.
        seed: Of all random numbers from here on.
        scores: Whether it gets a score head in the place of its output head.
        copies: Further copies of the weights that there will be, where all learn.

    Returns:
        The model, and the dtype of matrix products.

    Raises:
        ModelError: If it does not fit on the GPU, or cannot be loaded.
        MachineError: If the disk is too small.
        ParameterError: If prompts and answers may be longer than its positions.
    """
    reference, full = config.large_model_reference, getattr(config, rank) == 0
    compute = base_model.choose_dtype(config.dtype)
    base_model.check_memory(reference, dtype=compute, rank=rank, full=full, copies=copies)
    base_model.check_disk(reference, output=output, full=full)
    torch.manual_seed(seed)
    load = base_model.load_scoring_model if scores else base_model.load_causal_lm
    model = load(
        reference,
        dtype=torch.float32 if full else compute,
        shard=True,
        beside=base_model.beside(full=full, copies=copies),
        compute=compute,
    )
    base_model.check_context(
        model,
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )
    return model, compute
