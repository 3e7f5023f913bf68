"""How `rlhf models` shows the local model registry."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_pipelines.cli.display import printable
from rlhf_pipelines.cli.text_table import text_table

if TYPE_CHECKING:
    from rlhf_tuning.registry import ModelVersion

#: The measures of an evaluation, the one that is worth most first, and how people read them.
_MEASURES = {
    "true": "scorer",
    "language_model": "language model",
    "gemini": "Gemini",
    "local_model": "local model",
    "held_out_reward": "held-out reward model",
    "demonstrated": "held-out answers",
    "reward": "the optimised reward",
}
_HEADINGS = ("MODEL", "VERSION", "ALIASES", "CREATED", "BASE MODEL", "WIN RATE", "APPROVAL")


def as_table(models: Sequence["ModelVersion"]) -> str:
    """Return the models as aligned columns. The win rate is the tuned model's over its base model.

    What waits for approval, or did, has a column where there is such a model.
    """
    if not models:
        return "The registry holds no model yet. `rlhf run --sample` makes one."
    rows = [
        (
            _name(model),
            str(model.version),
            ", ".join(model.aliases) or "-",
            model.created[:16].replace("T", " "),
            str(model.manifest.get("base_model", "-")),
            _win_rate(model.manifest),
            _approval(model.manifest),
        )
        for model in models
    ]
    asked = any(row[-1] for row in rows)
    return text_table([row if asked else row[:-1] for row in (_HEADINGS, *rows)])


def as_details(model: "ModelVersion") -> str:
    """Return what is known of one version, a line each; its manifest has more."""
    from rlhf_tuning.promotion.approval import described
    from rlhf_tuning.registry import METHODS

    manifest = model.manifest
    parameters = manifest.get("parameters")
    known = {
        "aliases": ", ".join(model.aliases) or "-",
        "created": model.created[:16].replace("T", " "),
        "method": METHODS.get(str(manifest.get("method")), "-"),
        "base model": str(manifest.get("base_model", "-")),
        "win rate": _win_rate(manifest),
        "approval": described(model.resource_name, manifest) if "approval" in manifest else "",
        "folder": str(model.path),
        "parameters": ", ".join(f"{name} {value}" for name, value in parameters.items() if value != "")
        if isinstance(parameters, dict)
        else "",
    }
    lines = [f"{name:<12}{printable(value)}" for name, value in known.items() if value]
    return "\n".join([printable(f"{_name(model)}@{model.version}"), *lines])


def as_json(models: Sequence["ModelVersion"]) -> str:
    """Return the models with their whole manifests as JSON."""
    return json.dumps(
        [
            {
                "name": model.name,
                "version": model.version,
                "aliases": list(model.aliases),
                "resource_name": model.resource_name,
                "path": str(model.path),
                "created": model.created,
                "manifest": model.manifest,
            }
            for model in models
        ],
        indent=2,
        ensure_ascii=False,
    )


def _name(model: "ModelVersion") -> str:
    """Return the name in the registry, and the one that the run was given where that is another."""
    given = str(model.manifest.get("display_name") or model.name)
    return model.name if given == model.name else f"{model.name} ({given})"


def _approval(manifest: Mapping[str, object]) -> str:
    approval = manifest.get("approval")
    if not isinstance(approval, dict):
        return ""
    return f"{approval['status']} by {approval['by']}" if "by" in approval else "waits"


def _win_rate(manifest: Mapping[str, object]) -> str:
    """Return the headline of the evaluation by its best judge: `73% (65% to 80%) by scorer`."""
    evaluation = manifest.get("evaluation")
    if not isinstance(evaluation, dict):
        return "-"
    for measure, words in _MEASURES.items():
        names = [f"{measure}_win_rate{end}" for end in ("", "_low", "_high")]
        if all(name in evaluation for name in names):
            rate, low, high = (evaluation[name] for name in names)
            return f"{rate:.0%} ({low:.0%} to {high:.0%}) by {words}"
    return "-"
