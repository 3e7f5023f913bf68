"""What a run knows of the teacher that labelled its data, and how large models are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_tuning.evaluation.phase_gains import Size
from rlhf_tuning.models import base_model
from rlhf_tuning.models.model_reference import weight_bytes
from rlhf_tuning.models.packaged_models import ALIASES


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The teacher of a distillation, as the metadata of what it labelled tells.

    Args:
        reference: Its reference; behind a server its name there.
        fingerprint: Changes when its weights do, as far as they are seen.
        is_loaded: Whether a step loaded it, so that its weights are at hand.
        tokens_per_second: How fast it answered; 0 where that was not measured.
    """

    reference: str
    fingerprint: str
    is_loaded: bool
    tokens_per_second: float

    @classmethod
    def of(cls, labelled: Mapping[str, Any]) -> "Teacher | None":
        """Return the teacher that labelled an artifact; None where nobody did."""
        if not labelled.get("teacher"):
            return None
        return cls(
            reference=str(labelled["teacher"]),
            fingerprint=str(labelled.get("teacher_fingerprint", "")),
            is_loaded=bool(labelled.get("teacher_is_loaded")),
            tokens_per_second=float(labelled.get("teacher_tokens_per_second", 0.0)),
        )

    def as_manifest(self) -> dict[str, Any]:
        """Return what the manifest of its student says of it."""
        return {"reference": self.reference, "fingerprint": self.fingerprint, "is_loaded": self.is_loaded}


def size_of(name: str, reference: str, tokens_per_second: object = 0.0) -> Size:
    """Return a model's size; nothing of one that is not at hand.

    Args:
        name: How people call it.
        reference: The model; empty where it is behind a server.
        tokens_per_second: As the metadata of its answers has it.
    """
    at_hand = bool(reference)
    return Size(
        name=name,
        parameters=base_model.parameter_count(reference) if at_hand else 0,
        bytes=weight_bytes(reference).stored if at_hand and reference not in ALIASES else 0,
        tokens_per_second=float(str(tokens_per_second or 0.0)),
    )
