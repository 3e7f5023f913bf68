"""A tuned model becomes a version in the Vertex AI Model Registry, served by vLLM.

How Vertex serves vLLM, and where that is written:

- The image is Model Garden's build of vLLM, the one that Google's pages and notebooks deploy open models with
  (https://cloud.google.com/vertex-ai/generative-ai/docs/open-models/vllm/use-vllm). It reads weights from `gs://` in
  parallel, answers predictions on `/generate` and health checks on `/ping`, and its arguments begin with the program.
  `vllm/vllm-openai` of Docker Hub does neither, and Vertex takes images from Artifact Registry alone
  (https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements).
- Vertex copies `artifactUri` and tells the container where in AIP_STORAGE_URI; that copy is all that the container may read
  by itself (https://cloud.google.com/vertex-ai/docs/general/custom-service-account), and `$(AIP_STORAGE_URI)` in an
  argument stands for it (ModelContainerSpec in the reference).
- vLLM needs more shared memory than the 64 MB of a container
  (https://cloud.google.com/vertex-ai/docs/predictions/deploy-genai); Google's notebooks give it 16 GB, and two hours.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_tuning import cloud_storage, environment
from rlhf_tuning.errors import ModelError, UserError
from rlhf_tuning.google_cloud.vertex_api import Json, VertexApi
from rlhf_tuning.google_errors import persistently
from rlhf_tuning.manifest import parsed_manifest
from rlhf_tuning.models.model_reference import content_fingerprint
from rlhf_tuning.registry import CHAMPION_ALIAS, CHAMPIONS, PREFERENCE_ROWS
from rlhf_tuning.serving import vllm
from rlhf_tuning.serving.vllm import ServingPlan
from rlhf_tuning.step import say

#: Seen in a deployment that Model Garden itself made in July 2026.
SERVING_IMAGE = "us-docker.pkg.dev/vertex-ai/vertex-vision-model-garden-dockers/pytorch-vllm-serve:20260127_0916_RC01"
PORT, PREDICT_ROUTE, HEALTH_ROUTE = 8080, "/generate", "/ping"

#: On every model and endpoint that is ours. A label's key has no dots, its value at most 63 letters, digits, - and _.
OURS = {"managed_by": "rlhf-pipelines"}
_OURS_FILTER = 'labels.managed_by="rlhf-pipelines"'
_CONTENT = "rlhf-content"
#: Of the container; those who ask an endpoint read it there, since the bucket with the manifest may be closed to them.
_PLAN = "RLHF_SERVING_PLAN"
MANIFEST = "manifest.json"

_UPLOAD_SECONDS, _UPLOAD_PATIENCE = 3600.0, 600.0
_MOST_DESCRIPTION = 500


@dataclass(frozen=True, kw_only=True)
class UploadedModel:
    """A version in the registry, and whether this upload made it."""

    resource_name: str
    created: bool


def upload_to_vertex(
    api: VertexApi,
    *,
    model_dir: str,
    name: str,
    manifest: Mapping[str, Any],
    preference_rows: str = "",
    serving_machine: str = "",
    encryption_spec_key_name: str = "",
    aliases: Sequence[str] = ("default",),
    serving_image: str = "",
) -> UploadedModel:
    """Register a tuned model as a version, and point `aliases` to it.

    Versions of one display name have one parent. The same content, served the same way, is one version, also when an answer
    of Vertex's is lost: what was asked for is looked for before it is asked for again. Its first manifest stays, with what
    a person decided of it: a step that kfp's cache answers leaves the same folder again.

    Args:
        api: Project and region.
        model_dir: The tuned model, under the Cloud Storage mount; its manifest is written beside it.
        name: Display name of the model.
        manifest: What made the model.
        preference_rows: File of the rows that it was trained on, kept beside the manifest; empty when there is none.
        serving_machine: What it is to be served on; the cheapest that it fits on when empty.
        encryption_spec_key_name: Customer-managed key.
        aliases: Names that are to mean this version from now on.
        serving_image: Another build of vLLM with the routes of Model Garden's, which is taken when empty.

    Raises:
        ModelError: If the folder holds no model that can be served, or is not in Cloud Storage.
        UserError: If Vertex AI refuses.
        RunError: If Vertex AI fails.
    """
    folder = Path(model_dir)
    uri = cloud_storage_uri(folder)
    plan = vllm.plan_serving(folder, manifest["parameters"], serving_machine)
    serving_image = serving_image or SERVING_IMAGE
    content = _content_label(folder, plan, serving_image)
    model: Json = {
        "displayName": name[:128],
        "versionDescription": _description(manifest, uri),
        "labels": {**OURS, _CONTENT: content},
        "versionAliases": list(aliases),
        "artifactUri": uri,
        "containerSpec": _container(plan, serving_image),
    }
    if encryption_spec_key_name:
        model["encryptionSpec"] = {"kmsKeyName": encryption_spec_key_name}
    with api.explaining(f"model {name}", sought=False):
        found = _find(api, model["displayName"], content)
        if found is not None:
            resource_name = _version_name(found)
            say(f"The same content is already registered as {resource_name}")
            if aliases:
                name_version(api, resource_name, aliases=aliases)
            return UploadedModel(resource_name=resource_name, created=False)
        (folder / MANIFEST).write_text(_manifest_text(manifest), encoding="utf-8")
        if preference_rows:
            shutil.copyfile(preference_rows, folder / PREFERENCE_ROWS)
        return UploadedModel(resource_name=_upload(api, model, content), created=True)


def serving_plan(model: Mapping[str, Any]) -> ServingPlan | None:
    """Return how a registered model is served and asked, or None when it was not uploaded by us."""
    for variable in model.get("containerSpec", {}).get("env", []):
        if variable["name"] == _PLAN:
            return ServingPlan.from_json(variable["value"])
    return None


def resource_id(display_name: str) -> str:
    """Return the id that a model or endpoint of a display name gets: asked for twice, it is made once."""
    slug = re.sub(r"[^a-z0-9]+", "-", display_name.lower())[:40].strip("-")
    return "-".join(filter(None, ("rlhf", slug, hashlib.sha256(display_name.encode()).hexdigest()[:8])))


def cloud_storage_uri(folder: Path) -> str:
    """Return the `gs://` name of a folder under the Cloud Storage mount.

    Raises:
        ModelError: If it is elsewhere.
    """
    if not folder.is_relative_to(environment.GCS_MOUNT):
        raise ModelError(
            f"The tuned model is in {folder}, and the Vertex AI Model Registry takes models from Cloud Storage alone. Run "
            "the pipeline on Vertex, with a pipeline root gs://BUCKET/FOLDER."
        )
    return f"gs://{folder.relative_to(environment.GCS_MOUNT).as_posix()}"


def ours(api: VertexApi, kind: str, display_name: str) -> Json | None:
    """Return the model or endpoint of ours with a display name; the oldest, should there be several."""
    listed = api.list(f"{api.parent}/{kind}", kind, filter=_OURS_FILTER)
    named = [item for item in listed if item["displayName"] == display_name]
    return min(named, key=lambda item: str(item.get("createTime", "")), default=None)


def find_champion(api: VertexApi, display_name: str) -> Json | None:
    """Return the version that is `champion`, or else `default` or `challenger`; None when there is no such version."""
    parent = ours(api, "models", display_name[:128])
    if parent is None:
        return None
    by_alias = {
        alias: version
        for version in api.list(f"{parent['name']}:listVersions", "models")
        for alias in version.get("versionAliases", [])
    }
    version = next((by_alias[alias] for alias in CHAMPIONS if alias in by_alias), None)
    return {**version, "name": f"{parent['name']}@{version['versionId']}"} if version else None


def named_version(api: VertexApi, name: str) -> Json:
    """Return the version of a model of ours that `projects/.../models/ID@VERSION` or `DISPLAY NAME@VERSION` means.

    Raises:
        ModelError: If no version is named, or there is no such model.
    """
    model, at, version = name.rpartition("@")
    if not at:
        raise ModelError(f"{name} names no version. Write {name}@VERSION, with the number that its run told.")
    if not name.startswith("projects/"):
        found = ours(api, "models", model)
        if found is None:
            raise ModelError(f"There is no model {model} of ours in project {api.project}, {api.location}.")
        model = str(found["name"]).partition("@")[0]
    return api.get(f"{model}@{version}")


def version_name(version: Mapping[str, Any]) -> str:
    """Return the resource name of a version that the service told of, with its number."""
    return f"{str(version['name']).partition('@')[0]}@{version['versionId']}"


def name_version(
    api: VertexApi, resource_name: str, *, aliases: Collection[str], without: Collection[str] = ()
) -> None:
    """Let aliases mean a version from now on, and others not mean it any more."""
    merged = [*aliases, *(f"-{alias}" for alias in without)]
    with api.explaining(f"model {resource_name}"):
        persistently(lambda: api.post(f"{resource_name}:mergeVersionAliases", {"versionAliases": merged}))


def set_label(api: VertexApi, version: Mapping[str, Any], name: str, value: str) -> None:
    """Put a label on a version."""
    full_name = version_name(version)
    labels = {**version.get("labels", {}), name: value}
    api.patch(full_name, {"name": full_name, "labels": labels}, mask="labels")


def read_manifest(version: Mapping[str, Any]) -> Json:
    """Return what made a version, and what was decided of it.

    Raises:
        UserError: If Cloud Storage refuses, or has none, or it is damaged.
    """
    address = f"{version['artifactUri']}/{MANIFEST}"
    with _storage(address):
        text = cloud_storage.read_text(address)
    return parsed_manifest(text, address)


def write_manifest(version: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Write what is known of a version from now on.

    Raises:
        UserError: If Cloud Storage refuses.
    """
    address = f"{version['artifactUri']}/{MANIFEST}"
    with _storage(address):
        cloud_storage.write_text(address, _manifest_text(manifest))


@contextmanager
def _storage(address: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"There is no {address}, in which a run of ours says what made the model.") from None
    except Exception as error:
        why = cloud_storage.reason(error, role="objectUser")
        if why is None:
            raise
        raise UserError(f"{address}: {why}") from error


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(dict(manifest), indent=2, ensure_ascii=False) + "\n"


def count_versions(api: VertexApi, version: Json, *, after: int) -> int:
    """Return how many versions beyond a number the model has whose version this is."""
    versions = api.list(f"{version['name'].partition('@')[0]}:listVersions", "models")
    return sum(int(other["versionId"]) > after for other in versions)


def present_champion(api: VertexApi, display_name: str) -> str:
    """Return the resource name of the version that is `champion` now; empty when there is none."""
    with api.explaining(f"model {display_name}", sought=False):
        version = find_champion(api, display_name)
    return str(version["name"]) if version and CHAMPION_ALIAS in version.get("versionAliases", []) else ""


def is_champion(api: VertexApi, resource_name: str) -> bool:
    """Say whether a version is `champion` now.

    Args:
        api: Project and region.
        resource_name: `projects/.../models/ID@VERSION`.
    """
    with api.explaining(f"model {resource_name}"):
        return CHAMPION_ALIAS in api.get(resource_name).get("versionAliases", [])


def content_of(version: Json) -> str:
    """Return what changes with a version's content; empty when it was not uploaded by us."""
    return str(version.get("labels", {}).get(_CONTENT, ""))


def _upload(api: VertexApi, model: Json, content: str) -> str:
    name = str(model["displayName"])
    parent = ours(api, "models", name)
    done = api.create(
        f"{api.parent}/models:upload",
        {"model": model, **({"parentModel": parent["name"]} if parent else {"modelId": resource_id(name)})},
        existing=lambda: _find(api, name, content),
        patience=_UPLOAD_PATIENCE,
        seconds=_UPLOAD_SECONDS,
    )
    return _version_name(done)


def _version_name(done: Json) -> str:
    return f"{done['model']}@{done['modelVersionId']}"


def _find(api: VertexApi, display_name: str, content: str) -> Json | None:
    """Return the version with this content, as the upload would have answered."""
    parent = ours(api, "models", display_name)
    if parent is None:
        return None
    for version in api.list(f"{parent['name']}:listVersions", "models"):
        if content_of(version) == content:
            return {"model": parent["name"], "modelVersionId": version["versionId"]}
    return None


def _content_label(folder: Path, plan: ServingPlan, serving_image: str) -> str:
    lines = (content_fingerprint(folder, leave_out=(MANIFEST, PREFERENCE_ROWS)), plan.to_json(), serving_image)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:63]


def _container(plan: ServingPlan, serving_image: str) -> Json:
    return {
        "imageUri": serving_image,
        "args": [
            *("python", "-m", "vllm.entrypoints.api_server"),
            "--host=0.0.0.0",
            f"--port={PORT}",
            "--model=$(AIP_STORAGE_URI)",
            *plan.vllm_arguments(),
            "--disable-log-stats",
        ],
        "env": [{"name": _PLAN, "value": plan.to_json()}],
        "ports": [{"containerPort": PORT}],
        "predictRoute": PREDICT_ROUTE,
        "healthRoute": HEALTH_ROUTE,
        "sharedMemorySizeMb": str(16 * 1024),
        "deploymentTimeout": "7200s",
    }


def _description(manifest: Mapping[str, Any], uri: str) -> str:
    numbers = ", ".join(
        f"{name} {value:.3g}" for name, value in manifest["evaluation"].items() if isinstance(value, int | float)
    )
    text = (
        f"Tuned with human preferences from {manifest['base_model']}. Manifest: {uri}/{MANIFEST}. Evaluation: {numbers}"
    )
    return text if len(text) <= _MOST_DESCRIPTION else text[: _MOST_DESCRIPTION - 3] + "..."
