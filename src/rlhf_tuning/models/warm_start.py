"""A warm start: a training continues a LoRA adapter instead of beginning a new one. Needs neither torch nor transformers.

The adapter may be of any method. Only the tuned model starts elsewhere. The reference stays the base model with the adapter
off, so KL is measured to the original base, as are the gains of preference tuning, and the adapter that comes out holds
everything learnt since then.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_tuning import registry
from rlhf_tuning.errors import ModelError, ParameterError
from rlhf_tuning.models.model_reference import local_folder, resolve_reference, split_revision

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"

#: How models call their output head.
_HEADS = ("lm_head", "embed_out", "output_layer")


@dataclass(frozen=True, kw_only=True)
class ResolvedAdapter:
    """An adapter that fits, and a fingerprint that changes with its content. Both empty for none.

    Args:
        folder: As `adapter_folder` takes it in another step, which may run on another machine.
        fingerprint: Of its files.
    """

    folder: str = ""
    fingerprint: str = ""


def resolve_adapter(
    reference: str,
    *,
    large_model_reference: str,
    large_model_fingerprint: str,
    rank: int,
    rank_parameter: str = "lora_dim",
    registry_dir: str = "",
) -> ResolvedAdapter:
    """Check that an adapter fits the run before anything is spent, and say which one exactly it is.

    Args:
        reference: A folder, a gs:// folder, or a registered model such as `my-model@champion`; empty for none.
        large_model_reference: Base model of the run.
        large_model_fingerprint: Of that model's weights.
        rank: Of the run's adapter.
        rank_parameter: What gives that rank.
        registry_dir: Folder of the registry; its default place when empty.

    Raises:
        ModelError: If there is no such adapter, or it is one of another base model or no language model's.
        ParameterError: If its rank is not the run's.
    """
    if not reference:
        return ResolvedAdapter()
    if rank == 0:
        raise ParameterError(
            f"warm_start_adapter is {reference!r} and {rank_parameter} 0: full fine-tuning has no adapter to start from. "
            f"Give the adapter's rank as {rank_parameter}, or no warm_start_adapter."
        )
    try:
        folder = local_folder(reference)
    except ModelError as error:
        raise ModelError(f"warm_start_adapter: {error}") from None
    base_fingerprint = ""
    if folder is None:
        try:
            version = registry.resolve_model(reference, Path(registry_dir).expanduser() if registry_dir else None)
        except ModelError as error:
            raise ModelError(f"warm_start_adapter is {reference!r}, which is no folder here: {error}") from None
        folder = version.path / "adapter"
        fingerprints = version.manifest.get("fingerprints")
        base_fingerprint = str(fingerprints.get("large_model", "")) if isinstance(fingerprints, dict) else ""
    settings = _read(folder, reference)
    if not _same_base(folder, settings, base_fingerprint, large_model_reference, large_model_fingerprint):
        raise ModelError(
            f"warm_start_adapter is {reference!r}, an adapter of another base model ({_base_of(folder, settings)}) than "
            f"large_model_reference ({large_model_reference}). Use an adapter of the same base, or none."
        )
    if settings.get("task_type") not in (None, "CAUSAL_LM"):
        raise ModelError(
            f"warm_start_adapter is {reference!r}, an adapter that scores or sorts texts ({settings['task_type']}), such as "
            "a reward model's, and writes none. Use one of a tuned model, or none."
        )
    if settings.get("r") != rank:
        raise ParameterError(
            f"warm_start_adapter is {reference!r}, an adapter of rank {settings.get('r')}, but {rank_parameter} is {rank}. "
            f"Set {rank_parameter} to {settings.get('r')}, or use no warm_start_adapter."
        )
    targets = settings.get("target_modules") or []
    for name in [targets] if isinstance(targets, str) else targets:
        if name.rsplit(".", 1)[-1] in _HEADS:
            raise ModelError(
                f"warm_start_adapter is {reference!r}, an adapter on the output head too ({name}), which does not learn "
                "here. Use an adapter of the layers, or none."
            )
    digest = hashlib.sha256((folder / CONFIG_FILE).read_bytes())
    with (folder / WEIGHTS_FILE).open("rb") as stream:
        digest.update(hashlib.file_digest(stream, "sha256").digest())
    return ResolvedAdapter(
        folder=reference if reference.startswith("gs://") else str(folder), fingerprint=f"sha256:{digest.hexdigest()}"
    )


def adapter_folder(reference: str) -> Path:
    """Return the folder of a resolved adapter, copied if it is on Cloud Storage and no mount shows it."""
    return local_folder(reference) or Path(reference)


def _read(folder: Path, reference: str) -> dict[str, Any]:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ModelError(
                f"warm_start_adapter is {reference!r}, but {folder / name} does not exist, so there is no LoRA adapter. "
                "Give a folder that save_pretrained of peft wrote, or a registered model that was tuned with LoRA."
            )
    try:
        settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"warm_start_adapter: {folder / CONFIG_FILE} is not valid JSON ({error}).") from None
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise ModelError(f"warm_start_adapter is {reference!r}, which is no LoRA adapter ({folder / CONFIG_FILE}).")
    return settings


def _same_base(folder: Path, settings: dict[str, Any], base_fingerprint: str, reference: str, fingerprint: str) -> bool:
    if base_fingerprint:
        return base_fingerprint == fingerprint
    base = _base_of(folder, settings)
    if base in (reference, split_revision(reference)[0]):
        return True
    try:
        return resolve_reference(base, parameter="base of warm_start_adapter").fingerprint == fingerprint
    except ModelError:
        return False


def _base_of(folder: Path, settings: dict[str, Any]) -> str:
    """Return the base model as our own adapters have it, by the name in the run; others have only a path."""
    for ours in (folder / registry.TUNING_SETTINGS, folder / "reinforcement.json"):  # the name before 0.2
        if ours.is_file():
            return str(json.loads(ours.read_text(encoding="utf-8"))["large_model_reference"])
    return str(settings.get("base_model_name_or_path") or "unknown")
