"""The champion of a recurring tune: the registered model whose data a new run is held against.

Each target keeps its models elsewhere; a line in `FINDERS` says which function finds the champion there.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlhf_tuning import registry
from rlhf_tuning.errors import UserError
from rlhf_tuning.model_reference import local_folder
from rlhf_tuning.upload import generated_name, registry_name


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A registered model.

    Args:
        resource_name: Its name and version.
        preference_rows: File of the rows that it was trained on; empty where that is not known.
        adapter: Its LoRA adapter, as `warm_start_adapter` takes it; empty where it has none.
    """

    resource_name: str
    preference_rows: str
    adapter: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where to look: the folder of the local registry, or the project and region of Vertex AI's."""

    registry_dir: str = ""
    project: str = ""
    location: str = ""


def local_champion(model_display_name: str, large_model_reference: str, place: Place) -> Champion | None:
    """Return the champion in the local registry, or None before the first run.

    Args:
        model_display_name: Name of the model; made from the base model's when empty, as the upload does.
        large_model_reference: Base model.
        place: Where the registry is.

    Raises:
        ModelError: If its files were changed after it was registered.
    """
    name = local_name(model_display_name, large_model_reference)
    version = registry.find_champion(name, Path(place.registry_dir).expanduser() if place.registry_dir else None)
    if version is None:
        return None
    rows, adapter = version.path / registry.PREFERENCE_ROWS, version.path / "adapter"
    return Champion(
        resource_name=version.resource_name,
        preference_rows=str(rows) if rows.is_file() else "",
        adapter=f"{version.name}@{version.version}" if (adapter / "adapter_config.json").is_file() else "",
    )


def local_name(model_display_name: str, large_model_reference: str) -> str:
    """Return the name that a run's model has in the local registry."""
    return registry_name(model_display_name) or generated_name(large_model_reference)


def vertex_champion(model_display_name: str, large_model_reference: str, place: Place) -> Champion | None:
    """Return the champion in the Vertex AI Model Registry, or None before the first run.

    Its rows and its adapter are read where the run that made it left them, through the Cloud Storage mount.

    Raises:
        UserError: If Vertex AI refuses.
        RunError: If Vertex AI fails.
    """
    from rlhf_tuning import vertex_registry
    from rlhf_tuning.vertex_api import VertexApi

    api = VertexApi(project=place.project, location=place.location)
    name = model_display_name or generated_name(large_model_reference)
    with api.explaining(f"model {name}", sought=False):
        version = vertex_registry.find_champion(api, name)
    if version is None:
        return None
    folder = local_folder(str(version["artifactUri"])) or Path()
    rows, manifest = folder / registry.PREFERENCE_ROWS, folder / vertex_registry.MANIFEST
    made_from = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    return Champion(
        resource_name=str(version["name"]),
        preference_rows=str(rows) if rows.is_file() else "",
        adapter=str(made_from.get("adapter", "")),
    )


def kubeflow_champion_is_not_known(
    model_display_name: str, large_model_reference: str, place: Place
) -> Champion | None:
    """Refuse: on Kubeflow a model is a folder and a manifest for KServe, and nothing lists its versions.

    Raises:
        UserError: Always.
    """
    raise UserError(
        "recurring_rlhf_pipeline counts new preferences against a model registry, and Kubeflow has none that this project "
        "registers in. Schedule rlhf_pipeline there, or run recurring_rlhf_pipeline on Vertex or with rlhf run."
    )


#: Target to the function that finds the champion where that target registers its models.
FINDERS: dict[str, Callable[[str, str, Place], Champion | None]] = {
    "local": local_champion,
    "vertex": vertex_champion,
    "kubeflow": kubeflow_champion_is_not_known,
}
