"""The champion of a recurring tune: the registered model whose data a new run is held against.

Each target keeps its models elsewhere; a line in `FINDERS` says which function finds the champion there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlhf_tuning import registry
from rlhf_tuning.errors import UserError
from rlhf_tuning.upload import generated_name, registry_name


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A registered model.

    Args:
        resource_name: Its name and version.
        preference_rows: File of the rows that it was trained on; empty where that is not known.
        adapter: Folder of its LoRA adapter; empty where it has none.
    """

    resource_name: str
    preference_rows: str
    adapter: str


def local_champion(model_display_name: str, large_model_reference: str, registry_dir: str) -> Champion | None:
    """Return the champion in the local registry, or None before the first run.

    Args:
        model_display_name: Name of the model; made from the base model's when empty, as the upload does.
        large_model_reference: Base model.
        registry_dir: Folder of the registry; its default place when empty.

    Raises:
        ModelError: If its files were changed after it was registered.
    """
    name = local_name(model_display_name, large_model_reference)
    version = registry.find_champion(name, Path(registry_dir).expanduser() if registry_dir else None)
    if version is None:
        return None
    rows, adapter = version.path / registry.PREFERENCE_ROWS, version.path / "adapter"
    return Champion(
        resource_name=version.resource_name,
        preference_rows=str(rows) if rows.is_file() else "",
        adapter=str(adapter) if (adapter / "adapter_config.json").is_file() else "",
    )


def local_name(model_display_name: str, large_model_reference: str) -> str:
    """Return the name that a run's model has in the local registry."""
    return registry_name(model_display_name) or generated_name(large_model_reference)


def remote_champion_is_not_known(
    model_display_name: str, large_model_reference: str, registry_dir: str
) -> Champion | None:
    """Refuse: a registry other than the local one does not give back the rows that its models were trained on.

    Raises:
        UserError: Always.
    """
    raise UserError(
        "recurring_rlhf_pipeline counts new preferences against the local model registry only, for now. On this target "
        "schedule rlhf_pipeline, or run recurring_rlhf_pipeline with rlhf run."
    )


#: Target to the function that finds the champion where that target registers its models.
FINDERS: dict[str, Callable[[str, str, str], Champion | None]] = {
    "local": local_champion,
    "vertex": remote_champion_is_not_known,
    "kubeflow": remote_champion_is_not_known,
}
