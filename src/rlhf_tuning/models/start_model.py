"""What is tuned on preferences: the base model, or what a supervised phase made of it. Needs neither torch nor transformers.

The supervised model, merged, takes the base model's place in all that follows: reward models and policy adapt it, it is the
reference, and KL is measured to it, so there is one copy of the weights as there is without such a phase.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_tuning import registry
from rlhf_tuning.models.model_reference import content_fingerprint
from rlhf_tuning.step_times import STEP_TIMES, Carrier, Took, as_metadata

#: Folder inside a supervised model that others start from: what its training left, for the report and the manifest.
RECORD = "supervised_tuning"
#: File there: the metadata of the model's artifact, since later steps get its folder alone.
MADE_FROM = "made_from.json"


class Start(NamedTuple):
    """Where policy and reward model start, named as the steps' parameters are."""

    large_model_reference: str
    large_model_fingerprint: str
    reward_model_reference: str
    reward_model_fingerprint: str


def start_from(base: Start, model_dir: str) -> Start:
    """Return where the phases after a supervised one start.

    Args:
        base: Where they would start without. A reward model with a base of its own keeps it.
        model_dir: The supervised model, merged.
    """
    supervised = (model_dir, content_fingerprint(Path(model_dir)))
    shared = base.reward_model_reference == base.large_model_reference
    return Start(*supervised, *(supervised if shared else base[2:]))


def keep_record(model_dir: str, *, adapter_dir: str, made_from: Mapping[str, Any], times: Sequence[Took] = ()) -> None:
    """Keep with a supervised model what its training left.

    Args:
        model_dir: The model, merged.
        adapter_dir: What the training left.
        made_from: The metadata of the model's artifact.
        times: Of the steps so far, its training as the last.
    """
    record = Path(model_dir) / RECORD
    record.mkdir(exist_ok=True)
    for name in (registry.TUNING_SETTINGS, registry.HELD_OUT_LOSS, "metrics.jsonl", registry.BUDGET):
        if (Path(adapter_dir) / name).exists():
            shutil.copyfile(Path(adapter_dir) / name, record / name)
    (record / MADE_FROM).write_text(
        json.dumps({**made_from, **({STEP_TIMES: as_metadata(times)} if times else {})}), encoding="utf-8"
    )


def made_from(model_dir: str) -> dict[str, Any]:
    """Return what a supervised model was made from, as its artifact's metadata says it."""
    found: dict[str, Any] = json.loads((Path(model_dir) / RECORD / MADE_FROM).read_text(encoding="utf-8"))
    return found


def record_of(model_dir: str) -> str:
    """Return the folder with what the training of a supervised model left; empty where there is none."""
    return str(Path(model_dir) / RECORD) if model_dir else ""


def is_start(reference: str) -> bool:
    """Say whether a supervised phase made this model for others to start from.

    Args:
        reference: A base model's reference, or the supervised model's folder.
    """
    return (Path(reference) / RECORD / MADE_FROM).is_file()


def times_of(reference: str) -> list[Carrier]:
    """Return what carries the times of the steps that made a supervised model; nothing for a model that none made.

    Args:
        reference: A base model's reference, or the supervised model's folder.
    """
    return [Carrier(uri="", metadata=made_from(reference))] if is_start(reference) else []


def supervised_settings(model_dir: str) -> dict[str, Any]:
    """Return the settings of the phase that made a supervised model."""
    settings: dict[str, Any] = json.loads(
        (Path(model_dir) / RECORD / registry.TUNING_SETTINGS).read_text(encoding="utf-8")
    )
    return settings
