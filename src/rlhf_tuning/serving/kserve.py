"""A tuned model on Kubernetes: the InferenceService that serves it with KServe's Hugging Face runtime, which runs vLLM.

The runtime takes the model's name and vLLM's arguments, reads the weights from where KServe's storage initializer put them,
and answers under `/openai/v1`: `chat/completions` for a model with a chat template, `completions` for one without.
Read from https://kserve.github.io/website/docs/model-serving/generative-inference/overview and the pages beneath it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlhf_tuning import __version__
from rlhf_tuning.errors import ModelError
from rlhf_tuning.models.model_reference import content_fingerprint
from rlhf_tuning.registry import registry_name
from rlhf_tuning.serving import vllm
from rlhf_tuning.serving.vllm import MACHINES, ServingPlan

#: What KServe's storage initializer reads, of the places where a pipeline may put its artifacts.
_STORAGE = ("gs://", "s3://", "pvc://", "hdfs://", "https://")
#: A service's name becomes a part of host names, together with its namespace.
_MOST_NAME = 40
_SHARED_MEMORY = "shared-memory"


def write_kserve(
    *,
    model_dir: str,
    model_uri: str,
    name: str,
    manifest: Mapping[str, Any],
    service_path: str,
    manifest_path: str,
    promote: bool,
    serving_machine: str = "",
) -> str:
    """Write the InferenceService of a tuned model, and beside it the model's manifest; return the model's location.

    Args:
        model_dir: The tuned model.
        model_uri: Where it lies, as KServe is to find it.
        name: Display name of the model.
        manifest: What made it.
        service_path: The YAML file to write, for `kubectl apply -f`.
        manifest_path: The JSON file to write.
        promote: Whether the model is shown to be better than the base model, which the service's annotations tell.
        serving_machine: Says how many GPUs, and on GKE of which kind; as many as the model needs, of any kind, when empty.

    Raises:
        ModelError: If the folder holds no model that can be served, or KServe cannot read it from where it is.
    """
    plan = vllm.plan_serving(Path(model_dir), manifest["parameters"], serving_machine)
    storage_uri = kserve_uri(model_uri)
    service = inference_service(
        name,
        storage_uri,
        plan,
        manifest,
        content_fingerprint(Path(model_dir)),
        promote=promote,
        gke_accelerator=MACHINES[serving_machine].gke if serving_machine else "",
    )
    written = "# kubectl apply --filename THIS_FILE --namespace NAMESPACE\n" + yaml.safe_dump(service, sort_keys=False)
    for path, text in (
        (service_path, written),
        (manifest_path, json.dumps(dict(manifest), indent=2, ensure_ascii=False) + "\n"),
    ):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    return storage_uri


def kserve_uri(uri: str) -> str:
    """Return a location in KServe's words: for it MinIO is S3, whose address a secret of the cluster names.

    Raises:
        ModelError: If KServe cannot read from there.
    """
    if uri.startswith("minio://"):
        return "s3://" + uri.removeprefix("minio://")
    if not uri.startswith(_STORAGE):
        raise ModelError(
            f"The tuned model is at {uri}, which KServe cannot read. Run the pipeline with a pipeline root that starts with "
            f"{', '.join(_STORAGE[:2])} or minio://."
        )
    return uri


def inference_service(
    name: str,
    storage_uri: str,
    plan: ServingPlan,
    manifest: Mapping[str, Any],
    fingerprint: str,
    *,
    promote: bool,
    gke_accelerator: str = "",
) -> dict[str, Any]:
    """Return the InferenceService of a model, as Kubernetes takes it.

    Args:
        name: Display name of the model.
        storage_uri: Where it lies.
        plan: How it is served.
        manifest: What made it.
        fingerprint: Of its content.
        promote: Whether it is shown to be better than the base model.
        gke_accelerator: Kind of GPU, as a node of GKE has it in its label; any GPU of any cluster when empty.
    """
    service_name = kubernetes_name(name)
    count = str(plan.gpus)
    resources = {"cpu": str(4 * plan.gpus), "memory": f"{_memory(plan)}Gi", "nvidia.com/gpu": count}
    model: dict[str, Any] = {
        "modelFormat": {"name": "huggingface"},
        "args": [f"--model_name={service_name}", "--backend=vllm", *plan.vllm_arguments()],
        "storageUri": storage_uri,
        "resources": {"requests": dict(resources), "limits": dict(resources)},
    }
    # Nodes with GPUs keep other pods away by this taint; not every cluster lets pods that ask for a GPU through by itself.
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    predictor: dict[str, Any] = {"model": model, "tolerations": [toleration]}
    if gke_accelerator:
        predictor["nodeSelector"] = {"cloud.google.com/gke-accelerator": gke_accelerator}
    if plan.gpus > 1:
        # GPUs that share a model talk through shared memory, of which a container has 64 MB by itself.
        model["volumeMounts"] = [{"name": _SHARED_MEMORY, "mountPath": "/dev/shm"}]
        predictor["volumes"] = [{"name": _SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}]
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": service_name,
            "labels": {
                "app.kubernetes.io/managed-by": "rlhf-pipelines",
                "rlhf-pipelines/content": fingerprint.removeprefix("sha256:")[:63],
            },
            "annotations": {
                "rlhf-pipelines/version": __version__,
                "rlhf-pipelines/base-model": str(manifest["base_model"]),
                "rlhf-pipelines/promoted": str(promote).lower(),
                "rlhf-pipelines/ask": "/openai/v1/chat/completions" if plan.chat_template else "/openai/v1/completions",
                "rlhf-pipelines/instruction": plan.instruction,
                "rlhf-pipelines/instruction-role": plan.instruction_role,
            },
        },
        "spec": {"predictor": predictor},
    }


def kubernetes_name(name: str) -> str:
    """Return a name as Kubernetes takes it: small letters, digits and dashes, beginning with a letter."""
    plain = re.sub(r"[^a-z0-9]+", "-", registry_name(name.lower(), _MOST_NAME - len("model-"))).strip("-")
    return plain if plain[:1].isalpha() else f"model-{plain}".strip("-")


def _memory(plan: ServingPlan) -> int:
    """Return GB of main memory: weights pass through it on their way to the GPUs."""
    return max(16, MACHINES[plan.machine].memory)
