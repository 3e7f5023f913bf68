"""Models that are only asked: a base model, or one of the local registry by its name."""

from pathlib import Path

from rlhf_tuning import registry
from rlhf_tuning.models.model_reference import ResolvedModel, local_folder, resolve_reference
from rlhf_tuning.models.packaged_models import ALIASES


def folder_if_registered(reference: str, registry_dir: str = "") -> str:
    """Return a registered model's folder, and any other reference as it is.

    Args:
        reference: A base model reference, or a model of the local registry.
        registry_dir: Folder of the registry; its default place when empty.
    """
    root = Path(registry_dir).expanduser() if registry_dir else None
    name = reference.removeprefix("models/").partition("@")[0]
    if (
        name not in ALIASES
        and not local_folder(reference)
        and name in {found.name for found in registry.list_models(root)}
    ):
        return str(registry.named_model(reference, root).folder)
    return reference


def resolve_registered(reference: str, *, parameter: str, registry_dir: str) -> ResolvedModel:
    """Check that a model exists which is only asked, and say which one exactly it is.

    Args:
        reference: A base model reference, or a model of the local registry.
        parameter: What holds it, for messages.
        registry_dir: Folder of the registry; its default place when empty.

    Raises:
        ModelError: If there is no such model.
    """
    return resolve_reference(folder_if_registered(reference, registry_dir), parameter=parameter)
