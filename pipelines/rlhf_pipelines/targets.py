"""Where compiled pipelines run, what their steps run on there, and how often a failed step starts again.

The pipelines say nothing of it (they run anywhere); it is put into the compiled pipeline, as constants: values that
come from pipeline parameters are understood by newer backends only, and each backend has its own words. Steps in the
trainer image get the machine that is asked for, all others a small one.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rlhf_tuning import environment
from rlhf_tuning.accelerators import GPUS, Gpu, machine_name
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.images import TRAINER_IMAGE
from rlhf_tuning.planning.prices import ListPrice, list_price

#: A compiled pipeline as kfp's YAML holds it.
Spec = dict[str, Any]

#: In the order of the help. `local` stands for kfp's local runner: it has no resources to give, and warns of each, and would
#: sit out the waits before retries, so it gets neither.
TARGETS = ("local", "vertex", "kubeflow")

#: What the GPU steps run on when nobody says: on Vertex one of the GPUs of which the old job had eight; on Kubeflow
#: whatever NVIDIA GPU the cluster has.
DEFAULT_MACHINES = {"vertex": "a100-80gb", "kubeflow": "gpu"}

#: Secret of a cluster's namespace from which steps that load a base model take the token of the Hugging Face hub.
HUB_SECRET, HUB_SECRET_KEY = "huggingface", "token"
#: Secret from which steps that judge, or reward by a judge, take the key of a language-model judge.
JUDGE_SECRET, JUDGE_SECRET_KEY = "rlhf-judge", "api-key"
#: Secret from which the step that labels prompts takes the key of a teacher behind a server.
TEACHER_SECRET, TEACHER_SECRET_KEY = "rlhf-teacher", "api-key"


#: A step that asks by limits cannot ask for more (Google's page on machine types for a pipeline step).
_MOST_VERTEX_CPU, _MOST_VERTEX_MEMORY = 96, 624
_WITHOUT_MOUNT = ("a3-ultragpu-8g",)


#: The longest pause between retries. So Vertex reads it; Argo, on Kubeflow, counts it from the start of the first attempt: a
#: step that fails later is not retried, and one that was retried is killed then. So there it is a week.
_LONGEST_PAUSE = {"vertex": "3600s", "kubeflow": "604800s"}


#: kfp's names for the components of conditions, and those that it makes of them.
_OF_A_CONDITION = re.compile(r"(comp-condition(?:-branches)?-\d+)(?:-\d+)*")


#: The step that asks a teacher.
_LABELS_DEMONSTRATIONS = "exec-label-demonstrations"
#: The step that asks two models and a judge.
_LABELS_PREFERENCES = "exec-label-preferences"
#: The step that rewards answers, for which a judge may be asked.
_REWARDS_ANSWERS = "exec-train-policy"
#: The step that pays for a machine of its own.
_DEPLOYS = "exec-deploy-model"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the GPU steps of a pipeline run on: so many of a GPU, and what comes with them."""

    name: str
    gpu: Gpu
    count: int

    @property
    def machine_type(self) -> str:
        """Return the Compute Engine machine, or an empty string where Vertex offers none."""
        return self.gpu.machine_types.get(self.count, "")

    @property
    def cpu(self) -> int:
        """Return the virtual CPUs that come with its GPUs."""
        return self.gpu.cpu * self.count

    @property
    def memory(self) -> int:
        """Return the GB of memory that come with its GPUs."""
        return self.gpu.memory * self.count


def machines(target: str) -> dict[str, Machine]:
    """Return every machine of a target by its name, such as `l4` or `a100-80gb-x8`."""
    found = [
        Machine(name=machine_name(kind, count), gpu=gpu, count=count)
        for kind, gpu in GPUS.items()
        for count in (1, 2, 4, 8)
    ]
    offered = {"local": [], "vertex": [machine for machine in found if machine.machine_type], "kubeflow": found}
    return {machine.name: machine for machine in offered[target]}


def choose_machine(target: str, name: str = "") -> Machine:
    """Return the machine of that name, of that Compute Engine name on Vertex, or the target's default when empty.

    Raises:
        ParameterError: If the target has no such machine.
    """
    if target not in DEFAULT_MACHINES:
        raise ParameterError(
            f"--machine is {name!r}, but --target {target} runs on this machine as it is. "
            f"Leave --machine out, or choose another target: {' or '.join(DEFAULT_MACHINES)}."
        )
    by_name = machines(target)
    wanted = (name or DEFAULT_MACHINES[target]).lower().removesuffix("-x1")
    for machine in by_name.values():
        if wanted == machine.name or (target == "vertex" and wanted == machine.machine_type):
            return machine
    longer = sorted((other for other in by_name if other.startswith(wanted)), key=len)  # a100 is two kinds
    near = longer[:2] or difflib.get_close_matches(wanted, by_name, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ParameterError(f"--machine is {name!r}, which {target} does not have.{hint} Machines: {', '.join(by_name)}.")


def machine_price(name: str, location: str, *, spot: bool = False) -> ListPrice | None:
    """Return the list price of a machine in a region; None where there is none.

    Args:
        name: Of the machine, ours or Compute Engine's.
        location: The region; where it is empty, that which Google's own tools read from the environment.
        spot: Whether it is a Spot machine.

    Raises:
        ParameterError: If a list of one's own cannot be read.
    """
    wanted = name.lower().removesuffix("-x1")
    known = next((found for found in machines("vertex").values() if wanted in (found.name, found.machine_type)), None)
    names = (known.name, known.machine_type) if known else (wanted,)
    return list_price(names, location or environment.GOOGLE_CLOUD_REGION, spot=spot)


def cautions(target: str, machine: Machine) -> list[str]:
    """Return what a person should know of a machine before a run is paid for."""
    if target != "vertex":
        return []
    found = []
    if machine.count not in machine.gpu.on_demand:
        found.append(
            f"{machine.name} is {machine.machine_type}, which Google Cloud offers as Spot or Flex-start VMs"
            f"{'' if machine.count < 8 else ' or with a reservation'}, not on demand; a step that is compiled here asks for "
            "it on demand, so it may fail for want of resources. a100-80gb is on demand."
        )
    if machine.cpu > _MOST_VERTEX_CPU or machine.memory > _MOST_VERTEX_MEMORY:
        found.append(
            f"{machine.name} is {machine.machine_type} with {machine.cpu} CPUs and {machine.memory} GB. A step can ask for "
            f"{_MOST_VERTEX_CPU} and {_MOST_VERTEX_MEMORY} at most, and whether Vertex takes this machine by its GPUs alone "
            "was never tried: start with a run of a few steps."
        )
    if machine.machine_type in _WITHOUT_MOUNT:
        found.append(
            f"{machine.name} is {machine.machine_type}, on which the mount of Cloud Storage, which every step needs, is "
            "reported not to come up (github.com/GoogleCloudPlatform/gcsfuse/issues/4333)."
        )
    return found


def containers(spec: Spec) -> Iterator[tuple[str, Spec]]:
    """Yield the label and the container of every step of a compiled pipeline."""
    for label, executor in spec["deploymentSpec"]["executors"].items():
        if "container" in executor:
            yield label, executor["container"]


def fit_to_vertex(spec: Spec, machine: Machine) -> None:
    """Put Vertex's resources and retries into a compiled pipeline.

    Vertex runs each step as a CustomJob on the supported machine that matches accelerator, CPU limit and memory limit most
    closely. (Only a step that is wrapped as a CustomJob itself, as google-cloud-pipeline-components does it, can name a
    machine type; ours are not.) The limits are what the machine has, so that nothing else is closer: one L4 comes in five
    sizes. Only one machine has so many A100, H100 or H200, so that the accelerator should decide alone where the limits are
    cut to the most that a step can ask for. kfp's G is 10^9 bytes and Google's GB 2^30, so what is asked for is there.
    """
    _number_conditions(spec)
    for label, container in containers(spec):
        if _uses_gpu(container):
            container["resources"] = _resources(
                cpu_limit=min(machine.cpu, _MOST_VERTEX_CPU),
                memory_limit=min(machine.memory, _MOST_VERTEX_MEMORY),
                accelerator=machine.gpu.vertex,
                count=machine.count,
            )
        else:
            # e2-standard-4, which Vertex also takes when nothing is said, and the smallest of the general machines.
            container["resources"] = _resources(cpu_limit=4, memory_limit=16)
        _set_retries(spec, label, target="vertex", gpu=_uses_gpu(container))


def _number_conditions(spec: Spec) -> None:
    """Name the components of conditions in the order of the graph.

    kfp gives the conditions of every nested pipeline the same names. Where it nests two such pipelines in a third, chance
    says what it then makes of these names, so that one pipeline would be compiled to many.
    """
    renamed: dict[str, str] = {}
    counts: Counter[str] = Counter()

    def walk(graph: Spec) -> None:
        for _, task in sorted(graph["tasks"].items()):
            name = task["componentRef"]["name"]
            if found := _OF_A_CONDITION.fullmatch(name):
                counts[found[1]] += 1
                renamed[name] = found[1] if counts[found[1]] == 1 else f"{found[1]}-{counts[found[1]]}"
            if "dag" in spec["components"][name]:
                walk(spec["components"][name]["dag"])

    walk(spec["root"]["dag"])
    for part in (spec["root"], *spec["components"].values()):
        for task in part.get("dag", {}).get("tasks", {}).values():
            reference = task["componentRef"]
            reference["name"] = renamed.get(reference["name"], reference["name"])
    spec["components"] = {renamed.get(name, name): component for name, component in spec["components"].items()}


def fit_to_kubeflow(spec: Spec, machine: Machine) -> Spec:
    """Put Kubernetes' resources and retries into a compiled pipeline, and return the platform spec that goes with it.

    A GPU step requests three quarters of what comes with its GPUs, since the node's own daemons need some, and may use
    all that is free; a CPU step requests little.
    """
    executors: Spec = {}
    for label, container in containers(spec):
        config: Spec = {}
        if _uses_gpu(container):
            container["resources"] = _resources(
                cpu_request=machine.cpu * 3 // 4,
                memory_request=machine.memory * 3 // 4,
                accelerator="nvidia.com/gpu",
                count=machine.count,
            )
            # Kubernetes gives 64 MiB, too little for torch's processes, which pass tensors through it.
            config["emptyDirMounts"] = [
                {"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "8Gi"}
            ]
            config["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
            if machine.gpu.gke:
                config["nodeSelector"] = {"labels": {"cloud.google.com/gke-accelerator": machine.gpu.gke}}
        else:
            container["resources"] = _resources(cpu_request=1, memory_request=4, cpu_limit=4, memory_limit=16)
        secrets = [_secret(HUB_SECRET, HUB_SECRET_KEY, "HF_TOKEN")] if _loads_a_model(spec, label) else []
        if _judges(spec, label) or label.startswith((_LABELS_PREFERENCES, _REWARDS_ANSWERS)):
            secrets.append(_secret(JUDGE_SECRET, JUDGE_SECRET_KEY, "RLHF_JUDGE_API_KEY"))
        if label.startswith(_LABELS_DEMONSTRATIONS):
            secrets.append(_secret(TEACHER_SECRET, TEACHER_SECRET_KEY, "RLHF_TEACHER_API_KEY"))
        if secrets:
            config["secretAsEnv"] = secrets
        if config:
            executors[label] = config
        _set_retries(spec, label, target="kubeflow", gpu=_uses_gpu(container))
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}


def _secret(name: str, key: str, variable: str) -> Spec:
    """Return what puts a secret into an environment variable, where the cluster has it: most runs need none."""
    return {
        "secretName": name,
        "secretNameParameter": {"runtimeValue": {"constant": name}},
        "keyToEnv": [{"secretKey": key, "envVar": variable}],
        "optional": True,
    }


def _uses_gpu(container: Spec) -> bool:
    return bool(container["image"] == TRAINER_IMAGE)


def _loads_a_model(spec: Spec, label: str) -> bool:
    return any(
        {"large_model_reference", "large_model_a_reference"}
        & set(component.get("inputDefinitions", {}).get("parameters", {}))
        for component in spec["components"].values()
        if component.get("executorLabel") == label
    )


def writes_report(spec: Spec, label: str) -> bool:
    """Say whether a step is the one that writes the report of a tuned model."""
    return _gets(spec, label, "tuned_predictions")


def _judges(spec: Spec, label: str) -> bool:
    """Say whether a step judges answers: a tuned model's, or those of methods that are compared."""
    return _gets(spec, label, "tuned_predictions", "base_predictions")


def _gets(spec: Spec, label: str, *artifacts: str) -> bool:
    return any(
        not component["inputDefinitions"].get("artifacts", {}).keys().isdisjoint(artifacts)
        for component in spec["components"].values()
        if component.get("executorLabel") == label and "inputDefinitions" in component
    )


def _resources(*, accelerator: str = "", count: int = 0, **amounts: int) -> Spec:
    """Return the resources of a container as kfp's setters write them: for older backends and newer ones.

    Args:
        accelerator: Name of the accelerator, if any.
        count: How many of them.
        amounts: `cpu_limit`, `cpu_request`, `memory_limit` and `memory_request`, in CPUs and GB.
    """
    resources: Spec = {}
    for name, amount in amounts.items():
        what, kind = name.split("_")
        resources[f"{what}{kind.title()}"] = float(amount)
        resources[f"resource{what.title()}{kind.title()}"] = f"{amount}{'G' if what == 'memory' else ''}"
    if accelerator:
        resources["accelerator"] = {
            "type": accelerator,
            "resourceType": accelerator,
            "count": str(count),
            "resourceCount": str(count),
        }
    return resources


def _set_retries(spec: Spec, label: str, *, target: str, gpu: bool) -> None:
    """Let the tasks of a container start again when they fail, later each time.

    Backends cannot tell a person's mistake (exit status 2) from a lost machine, so both are retried. CPU steps, which read
    storage and the model hub, cost little: two retries. GPU steps get one: a machine that cannot be had, is taken away or
    breaks is worth one more start, but a step that fails after hours must not cost them three times. (Argo takes a pod that
    was deleted for no failure, and does not retry it.) Mistakes of a person show before: Validate Inputs refused them, or
    they end a GPU step in its first minutes. Deployment is not retried: it asks again by itself what may pass, and a model
    that does not answer sensibly would cost GPU hours each time.
    """
    if label == _DEPLOYS:
        return
    policy = {
        "maxRetryCount": 1 if gpu else 2,
        "backoffDuration": "300s" if gpu else "30s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": _LONGEST_PAUSE[target],
    }
    components = {name for name, component in spec["components"].items() if component.get("executorLabel") == label}
    graphs = [
        spec["root"]["dag"],
        *(component["dag"] for component in spec["components"].values() if "dag" in component),
    ]
    for graph in graphs:
        for task in graph["tasks"].values():
            if task["componentRef"]["name"] in components:
                task["retryPolicy"] = dict(policy)
