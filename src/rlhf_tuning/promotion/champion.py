"""The champion: the registered model that a new one must beat, and whose data a recurring run is held against.

Each target keeps its models elsewhere; a line in `FINDERS` says which function finds the champion there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlhf_tuning import cloud_storage, registry
from rlhf_tuning.manifest import parsed_manifest
from rlhf_tuning.promotion.upload import generated_name


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A registered model.

    Args:
        resource_name: Its name and version.
        promoted: Whether it beat the champion before it; not so for a first version that Vertex AI called `default` itself.
        model: Its folder, as `large_model_reference` takes it.
        fingerprint: Changes when its content does.
        preference_rows: File of the rows that it was trained on; empty where that is not known.
        adapter: Its LoRA adapter, as `warm_start_adapter` takes it; empty where it has none.
        beaten: How many versions were held against it, or where none was promoted against the base model, and did not win.
    """

    resource_name: str
    promoted: bool
    model: str
    fingerprint: str
    preference_rows: str
    adapter: str
    beaten: int


@dataclass(frozen=True, kw_only=True)
class ModelToBeat:
    """The model that a new one is compared with.

    Args:
        champion: Its resource name; empty for the base model.
        model: Where it is, as `large_model_reference` takes it.
        fingerprint: Changes when its weights do.
        earlier_tries: How many versions were already held against it and did not win.
    """

    champion: str
    model: str
    fingerprint: str
    earlier_tries: int


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
    promoted = registry.CHAMPION_ALIAS in version.aliases
    return Champion(
        resource_name=version.resource_name,
        promoted=promoted,
        model=str(version.path / "model"),
        fingerprint=version.fingerprint,
        preference_rows=str(rows) if rows.is_file() else "",
        adapter=f"{version.name}@{version.version}" if (adapter / "adapter_config.json").is_file() else "",
        beaten=registry.count_versions(version.path.parent, after=version.version if promoted else 0),
    )


def local_name(model_display_name: str, large_model_reference: str) -> str:
    """Return the name that a run's model has in the local registry."""
    return registry.registry_name(model_display_name) or generated_name(large_model_reference)


def vertex_champion(model_display_name: str, large_model_reference: str, place: Place) -> Champion | None:
    """Return the champion in the Vertex AI Model Registry, or None before the first run.

    Its rows and its adapter are read where the run that made it left them, through the Cloud Storage mount.

    Raises:
        UserError: If Vertex AI refuses.
        RunError: If Vertex AI fails.
    """
    from rlhf_tuning.google_cloud import vertex_registry
    from rlhf_tuning.google_cloud.vertex_api import VertexApi

    api = VertexApi(project=place.project, location=place.location)
    name = model_display_name or generated_name(large_model_reference)
    with api.explaining(f"model {name}", sought=False):
        version = vertex_registry.find_champion(api, name)
    if version is None:
        return None
    folder = cloud_storage.mounted(str(version["artifactUri"])) or Path()
    rows, manifest = folder / registry.PREFERENCE_ROWS, folder / vertex_registry.MANIFEST
    made_from = parsed_manifest(manifest.read_text(encoding="utf-8"), manifest) if manifest.is_file() else {}
    promoted = registry.CHAMPION_ALIAS in version.get("versionAliases", [])
    with api.explaining(f"model {name}", sought=False):
        beaten = vertex_registry.count_versions(api, version, after=int(version["versionId"]) if promoted else 0)
    return Champion(
        resource_name=str(version["name"]),
        promoted=promoted,
        model=str(version["artifactUri"]),
        fingerprint=vertex_registry.content_of(version),
        preference_rows=str(rows) if rows.is_file() else "",
        adapter=str(made_from.get("adapter", "")),
        beaten=beaten,
    )


def model_to_beat(
    target: str,
    *,
    model_display_name: str,
    large_model_reference: str,
    large_model_fingerprint: str,
    place: Place,
) -> ModelToBeat:
    """Return the promoted champion, or the base model where there is none yet.

    Args:
        target: Where the run registers its models. Where that has no registry, the base model is always the one to beat.
        model_display_name: Name of the model; made from the base model's when empty.
        large_model_reference: Base model.
        large_model_fingerprint: Of that model's weights.
        place: Where the registry is.

    Raises:
        ModelError: If the champion's files were changed after it was registered.
        UserError: If the registry refuses.
        RunError: If the registry fails.
    """
    champion = FINDERS[target](model_display_name, large_model_reference, place) if target in FINDERS else None
    tries = champion.beaten if champion else 0
    if champion is None or not champion.promoted:
        return ModelToBeat(
            champion="", model=large_model_reference, fingerprint=large_model_fingerprint, earlier_tries=tries
        )
    return ModelToBeat(
        champion=champion.resource_name,
        model=champion.model,
        fingerprint=champion.fingerprint,
        earlier_tries=tries,
    )


#: Target to the function that finds the champion where that target registers its models. Kubeflow has no registry: a
#: model there is a folder and a manifest for KServe, and nothing lists its versions.
FINDERS: dict[str, Callable[[str, str, Place], Champion | None]] = {
    "local": local_champion,
    "vertex": vertex_champion,
}
