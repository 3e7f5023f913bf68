"""From what a run left behind to a version in the local model registry."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_tuning import __version__, registry
from rlhf_tuning.google_cloud import vertex_registry
from rlhf_tuning.google_cloud.vertex_api import VertexApi
from rlhf_tuning.models.model_reference import split_revision
from rlhf_tuning.promotion.approval import PROMOTED, ask_locally, described, is_rejected
from rlhf_tuning.step import say


def upload_to_local_registry(
    *,
    model_dir: str,
    adapter_dir: str,
    reward_model_dir: str,
    evaluation_path: str,
    large_model_reference: str,
    fingerprints: Mapping[str, str],
    model_display_name: str,
    instruction: str,
    registry_dir: str,
    promote: bool,
    champion: str,
    require_approval: bool = False,
) -> registry.ModelVersion:
    """Register a tuned model with a manifest of what made it.

    A promoted one gets the aliases `champion` and `default`, any other `challenger`; a promoted one that waits for approval
    too.

    Args:
        model_dir: The tuned model, merged.
        adapter_dir: The adapter, if any, and the settings of the training.
        reward_model_dir: The reward model and the settings of phase 1; empty where there was none.
        evaluation_path: The comparison with the base model.
        large_model_reference: Base model.
        fingerprints: Of the base model and of the datasets' content.
        model_display_name: Any text; the name in the registry is made from it, or from the base model's when it is empty.
        instruction: That the model was tuned with.
        registry_dir: Folder of the registry; its default place when empty.
        promote: The gate's decision.
        champion: Resource name of the model that it was held against; empty for the base model.
        require_approval: Whether a person approves what the gate promotes.
    """
    name = registry.registry_name(model_display_name) or generated_name(large_model_reference)
    folder = Path(registry_dir).expanduser() if registry_dir else None
    manifest = model_manifest(
        adapter_dir=adapter_dir,
        reward_model_dir=reward_model_dir,
        evaluation_path=evaluation_path,
        large_model_reference=large_model_reference,
        fingerprints=fingerprints,
        model_display_name=model_display_name,
        instruction=instruction,
    )
    version = registry.register_model(
        model_dir=model_dir,
        adapter_dir=adapter_dir,
        name=name,
        manifest=manifest,
        aliases=(),
        preference_rows=preference_rows(reward_model_dir or adapter_dir),
        registry_dir=folder,
    )
    found = registry.find_champion(name, folder)
    called = calling(
        version.resource_name,
        version.manifest,
        promote=promote,
        champion=champion,
        present=found.resource_name if found and registry.CHAMPION_ALIAS in found.aliases else "",
        require_approval=require_approval,
    )
    version = registry.name_version(version, called.aliases)
    say(f"Registered {version.resource_name} ({', '.join(version.aliases)})")
    return ask_locally(version, champion=champion) if called.waits else version


class Called(NamedTuple):
    """What a new version is called, and whether it waits for approval."""

    aliases: tuple[str, ...]
    waits: bool = False


def name_on_vertex(
    api: VertexApi,
    uploaded: vertex_registry.UploadedModel,
    *,
    name: str,
    promote: bool,
    champion: str,
    require_approval: bool,
) -> Called:
    """Give an uploaded version of the Vertex AI Model Registry its aliases, and return them.

    Args:
        api: Project and region.
        uploaded: The version.
        name: Display name of the model.
        promote: The gate's decision.
        champion: Resource name of the model that it was held against; empty for the base model.
        require_approval: Whether a person approves what the gate promotes.

    Raises:
        UserError: If Vertex AI or Cloud Storage refuses.
        RunError: If Vertex AI fails.
    """
    with api.explaining(f"model {name}"):
        # Of a version that is new nothing can have been decided.
        manifest = {} if uploaded.created else vertex_registry.read_manifest(api.get(uploaded.resource_name))
    called = calling(
        uploaded.resource_name,
        manifest,
        promote=promote,
        champion=champion,
        present=vertex_registry.present_champion(api, name),
        require_approval=require_approval,
    )
    vertex_registry.name_version(api, uploaded.resource_name, aliases=called.aliases)
    return called


def calling(
    version: str, manifest: Mapping[str, Any], *, promote: bool, champion: str, present: str, require_approval: bool
) -> Called:
    """Return what a registered version is called.

    Args:
        version: Its resource name. The same content is the same version, so it may be known from an earlier upload.
        manifest: What is known of it.
        promote: The gate's decision.
        champion: Resource name of the model that it was held against; empty for the base model.
        present: Resource name of the champion of now; empty when there is none.
        require_approval: Whether a person approves what the gate promotes.
    """
    if promote and present == version:
        return Called(PROMOTED)  # by this upload, which is tried again
    if promote and present != champion:
        say(
            f"Not promoted: it beat {champion or 'the base model'}, but {present} became champion in the meantime. Run the "
            "pipeline again to hold it against that one."
        )
    elif promote and is_rejected(manifest):
        say(f"Not promoted: {described(version, manifest)}. rlhf approve takes that back.")
    elif promote and require_approval:
        return Called((registry.CHALLENGER_ALIAS,), waits=True)
    elif promote:
        return Called(PROMOTED)
    return Called((registry.CHALLENGER_ALIAS,))


def preference_rows(folder: str) -> str:
    """Return the file of the rows that a reward model or an adapter learnt from; empty where it did not keep them."""
    rows = Path(folder) / registry.PREFERENCE_ROWS
    return str(rows) if rows.is_file() else ""


def model_manifest(
    *,
    adapter_dir: str,
    reward_model_dir: str,
    evaluation_path: str,
    large_model_reference: str,
    fingerprints: Mapping[str, str],
    model_display_name: str,
    instruction: str,
) -> dict[str, Any]:
    """Return what made a tuned model: the same for every registry. The parameters are those of the upload."""
    evaluation = _json(Path(evaluation_path))
    return {
        "display_name": model_display_name,
        "method": registry.method_of(adapter_dir),
        "base_model": large_model_reference,
        "fingerprints": dict(fingerprints),
        "parameters": {
            **_json(Path(adapter_dir) / registry.TUNING_SETTINGS),
            "instruction": instruction,
            "instruction_role": _instruction_role(evaluation, instruction),
        },
        **{name: evaluation[name] for name in ("supervised", "teacher") if name in evaluation},
        **(_reward_model(Path(reward_model_dir)) if reward_model_dir else {}),
        "evaluation": evaluation["metrics"],
        "versions": {"rlhf-pipelines": __version__},
    }


def _reward_model(folder: Path) -> dict[str, Any]:
    return {
        "reward_model": _json(folder / "reward_model.json"),
        "reward_model_evaluation": _json(folder / "evaluation.json"),
    }


def generated_name(large_model_reference: str, method: str = "rlhf") -> str:
    """Return a registry name made from a base model's and the method's, such as `smollm2-135m-instruct-rlhf`."""
    last = split_revision(large_model_reference)[0].rstrip("/").rsplit("/", 1)[-1]
    return (registry.registry_name(last.lower()) or "model") + f"-{method}"


def _instruction_role(evaluation: dict[str, Any], instruction: str) -> str:
    """Return in which turn the rows have the instruction: chat rows in a system turn, text rows in the user's."""
    first_turns = [answer["prompt"][0] for answer in evaluation["answers"]]
    return "system" if {"role": "system", "content": instruction} in first_turns else "user"


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
