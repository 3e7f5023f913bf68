"""The manifest of a registered model, as it is read again.

Whoever registers a model says of it what he likes. What this project itself reads there is checked here, once, so that a
manifest that somebody changed by hand, or that is cut off, is named as damaged wherever a model is listed or used.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from rlhf_tuning.errors import ModelError

#: What a person is asked of a promoted version, and decides: the part of its manifest, and its possible statuses.
APPROVAL = "approval"
PENDING, APPROVED, REJECTED = "pending", "approved", "rejected"

#: Those of an evaluation's measures that a list of models shows.
_WIN_RATE = re.compile(r"\w+_win_rate(_low|_high)?")
_MOST_SHOWN = 40


def parsed_object(text: str, place: object) -> dict[str, Any]:
    """Return the JSON object of a registry's file.

    Args:
        text: What the file holds.
        place: Its path or address, for messages.

    Raises:
        ModelError: If that is something else.
    """
    try:
        value = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise damaged(f"{place} is missing or not JSON ({error})") from error
    if not isinstance(value, dict):
        raise damaged(f"{place} does not hold a JSON object")
    return value


def parsed_manifest(text: str, place: object) -> dict[str, Any]:
    """Return the manifest of a version.

    Args:
        text: What its file holds.
        place: The path or address of that, for messages.

    Raises:
        ModelError: If it is no manifest.
    """
    manifest = parsed_object(text, place)
    if fault := manifest_fault(manifest):
        raise damaged(f"in {place} {fault}")
    return manifest


def damaged(what: str) -> ModelError:
    """Return the error that tells what is damaged in a registry."""
    return ModelError(f"The registry is damaged: {what}. Put that file right, or register the model again.")


def manifest_fault(manifest: Mapping[str, Any]) -> str:
    """Return what is wrong with a manifest, as `approval.status` is `"x"`; empty where nothing is."""
    evaluation = manifest.get("evaluation")
    for name, value in evaluation.items() if isinstance(evaluation, Mapping) else ():
        if _WIN_RATE.fullmatch(str(name)) and not _is_share(value):
            return f"evaluation.{name} is {_shown(value)}, which is no number from 0 to 1"
    return _approval_fault(manifest[APPROVAL]) if APPROVAL in manifest else ""


def _approval_fault(approval: object) -> str:
    if not isinstance(approval, Mapping):
        return f"{APPROVAL} is {_shown(approval)}, which is no object"
    status = approval.get("status")
    if status not in (PENDING, APPROVED, REJECTED):
        return f"{APPROVAL}.status is {_shown(status)}, which is not {PENDING}, {APPROVED} or {REJECTED}"
    for name in ("champion",) if status == PENDING else ("champion", "by", "reason", "decided"):
        if not isinstance(approval.get(name), str):
            return f"{APPROVAL}.{name} is {_shown(approval.get(name))}, which is no text"
    if not isinstance(approval.get("deployment"), Mapping | None):
        return f"{APPROVAL}.deployment is {_shown(approval['deployment'])}, which is no object"
    return ""


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= round(value, 6) <= 1


def _shown(value: object) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
