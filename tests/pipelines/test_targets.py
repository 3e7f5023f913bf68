import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl, kubernetes

from rlhf_pipelines.compile import compile_for_submission
from rlhf_pipelines.targets import (
    DEFAULT_MACHINES,
    GPUS,
    HUB_SECRET,
    HUB_SECRET_KEY,
    Machine,
    cautions,
    choose_machine,
    fit_to_kubeflow,
    fit_to_vertex,
    machines,
)
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.images import LIGHT_IMAGE, TRAINER_IMAGE

#: The machine types of Compute Engine with these accelerators: name to Vertex's name of the accelerator, how many there
#: are, virtual CPUs, and memory in GiB (which Google calls GB). From Google's pages on accelerator-optimized machines.
COMPUTE_ENGINE = {
    "g2-standard-4": ("NVIDIA_L4", 1, 4, 16),
    "g2-standard-8": ("NVIDIA_L4", 1, 8, 32),
    "g2-standard-12": ("NVIDIA_L4", 1, 12, 48),
    "g2-standard-16": ("NVIDIA_L4", 1, 16, 64),
    "g2-standard-24": ("NVIDIA_L4", 2, 24, 96),
    "g2-standard-32": ("NVIDIA_L4", 1, 32, 128),
    "g2-standard-48": ("NVIDIA_L4", 4, 48, 192),
    "g2-standard-96": ("NVIDIA_L4", 8, 96, 384),
    "a2-highgpu-1g": ("NVIDIA_TESLA_A100", 1, 12, 85),
    "a2-highgpu-2g": ("NVIDIA_TESLA_A100", 2, 24, 170),
    "a2-highgpu-4g": ("NVIDIA_TESLA_A100", 4, 48, 340),
    "a2-highgpu-8g": ("NVIDIA_TESLA_A100", 8, 96, 680),
    "a2-megagpu-16g": ("NVIDIA_TESLA_A100", 16, 96, 1360),
    "a2-ultragpu-1g": ("NVIDIA_A100_80GB", 1, 12, 170),
    "a2-ultragpu-2g": ("NVIDIA_A100_80GB", 2, 24, 340),
    "a2-ultragpu-4g": ("NVIDIA_A100_80GB", 4, 48, 680),
    "a2-ultragpu-8g": ("NVIDIA_A100_80GB", 8, 96, 1360),
    "a3-highgpu-1g": ("NVIDIA_H100_80GB", 1, 26, 234),
    "a3-highgpu-2g": ("NVIDIA_H100_80GB", 2, 52, 468),
    "a3-highgpu-4g": ("NVIDIA_H100_80GB", 4, 104, 936),
    "a3-highgpu-8g": ("NVIDIA_H100_80GB", 8, 208, 1872),
    "a3-megagpu-8g": ("NVIDIA_H100_MEGA_80GB", 8, 208, 1872),
    "a3-ultragpu-8g": ("NVIDIA_H200_141GB", 8, 224, 2952),
}


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def check(text: str) -> str:
    return text


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train(large_model_reference: str) -> str:
    return large_model_reference


def compiled(pipeline: Any, folder: Path) -> list[dict[str, Any]]:
    """What kfp itself writes."""
    compiler.Compiler().compile(pipeline, str(folder / "pipeline.yaml"))
    return list(yaml.load_all((folder / "pipeline.yaml").read_text(), yaml.CSafeLoader))


def plain_pipeline() -> Any:
    @dsl.pipeline(name="phase")
    def phase(text: str) -> str:
        return train(large_model_reference=text).output

    @dsl.pipeline(name="toy")
    def toy(text: str = "x") -> str:
        return phase(text=check(text=text).output).output

    return toy


def resources(spec: dict[str, Any], label: str) -> dict[str, Any]:
    return spec["deploymentSpec"]["executors"][label]["container"]["resources"]


def test_for_vertex_the_spec_is_what_kfp_compiles_from_its_own_setters(tmp_path: Path) -> None:
    @dsl.pipeline(name="phase")
    def phase(text: str) -> str:
        task = train(large_model_reference=text).set_cpu_limit("24").set_memory_limit("96G")
        task.set_accelerator_type("NVIDIA_L4").set_accelerator_limit(2)
        return task.set_retry(1, backoff_duration="300s").output

    @dsl.pipeline(name="toy")
    def toy(text: str = "x") -> str:
        first = check(text=text).set_cpu_limit("4").set_memory_limit("16G").set_retry(2, backoff_duration="30s")
        return phase(text=first.output).output

    (spec,) = compiled(plain_pipeline(), tmp_path)
    fit_to_vertex(spec, choose_machine("vertex", "l4-x2"))
    assert [spec] == compiled(toy, tmp_path)


@pytest.mark.parametrize("name", ["gpu", "h100-x4"])
def test_for_kubeflow_both_specs_are_what_kfp_compiles_from_its_own_setters(tmp_path: Path, name: str) -> None:
    machine = choose_machine("kubeflow", name)
    cpu, memory = ("3", "12G") if name == "gpu" else ("78", "702G")

    @dsl.pipeline(name="phase")
    def phase(text: str) -> str:
        task = train(large_model_reference=text).set_cpu_request(cpu).set_memory_request(memory)
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(machine.count)
        task.set_retry(1, backoff_duration="300s", backoff_max_duration="604800s")
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit="8Gi")
        kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
        kubernetes.use_secret_as_env(task, HUB_SECRET, {HUB_SECRET_KEY: "HF_TOKEN"}, optional=True)
        if name != "gpu":
            kubernetes.add_node_selector(task, "cloud.google.com/gke-accelerator", "nvidia-h100-80gb")
        return task.output

    @dsl.pipeline(name="toy")
    def toy(text: str = "x") -> str:
        first = (
            check(text=text).set_cpu_request("1").set_memory_request("4G").set_cpu_limit("4").set_memory_limit("16G")
        )
        first.set_retry(2, backoff_duration="30s", backoff_max_duration="604800s")
        return phase(text=first.output).output

    (spec,) = compiled(plain_pipeline(), tmp_path)
    platform_spec = fit_to_kubeflow(spec, machine)
    assert [spec, platform_spec] == compiled(toy, tmp_path)


@pytest.mark.parametrize(
    ("pipeline", "step", "key"),
    [
        ("rlhf_pipeline", "exec-evaluate", "RLHF_JUDGE_API_KEY"),
        ("distillation_pipeline", "exec-label-demonstrations", "RLHF_TEACHER_API_KEY"),
        ("rlaif_pipeline", "exec-label-preferences", "RLHF_JUDGE_API_KEY"),
        ("reward_tuning_pipeline", "exec-train-policy", "RLHF_JUDGE_API_KEY"),
    ],
)
def test_a_key_reaches_the_steps_that_ask_and_no_others(pipeline: str, step: str, key: str) -> None:
    platform = compile_for_submission(pipeline, "kubeflow", "", {})["platform_spec"]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    variables = {
        label: [pair["envVar"] for secret in config.get("secretAsEnv", []) for pair in secret["keyToEnv"]]
        for label, config in executors.items()
    }
    assert variables[step] == ["HF_TOKEN", key]
    others = {label for label, names in variables.items() if key in names} - {step}
    assert others <= {"exec-evaluate", "exec-train-policy"}, "which judge and reward"


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def test_argo_retries_a_step_that_fails_after_days_and_lets_the_retry_run_as_long(tmp_path: Path) -> None:
    """Argo ends a retry, and any further one, when so much time has passed since the first attempt began."""
    (spec,) = compiled(plain_pipeline(), tmp_path)
    fit_to_kubeflow(spec, choose_machine("kubeflow"))
    policies = [
        task["retryPolicy"]
        for graph in (spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part))
        for task in graph["tasks"].values()
        if "retryPolicy" in task
    ]
    assert len(policies) == 2
    for policy in policies:
        assert seconds(policy["backoffDuration"]) <= 300
        assert seconds(policy["backoffMaxDuration"]) == 7 * 24 * 3600


@pytest.mark.parametrize("machine", machines("vertex").values(), ids=lambda machine: machine.name)
def test_the_limits_choose_exactly_the_machine_that_is_meant(tmp_path: Path, machine: Machine) -> None:
    (spec,) = compiled(plain_pipeline(), tmp_path)
    fit_to_vertex(spec, machine)
    asked = resources(spec, "exec-train")
    assert asked["cpuLimit"] <= 96
    assert asked["memoryLimit"] <= 624
    candidates = [
        (cpu - asked["cpuLimit"], gib * 2**30 - asked["memoryLimit"] * 10**9, name)
        for name, (accelerator, count, cpu, gib) in COMPUTE_ENGINE.items()
        if accelerator == asked["accelerator"]["type"] and str(count) == asked["accelerator"]["count"]
    ]
    # Whichever way Vertex finds the closest match: as the smallest machine that is enough, or by distance.
    assert min(one for one in candidates if min(one[:2]) >= 0)[2] == machine.machine_type
    assert min((abs(cpu), abs(memory), name) for cpu, memory, name in candidates)[2] == machine.machine_type


def test_what_comes_with_a_gpu_is_what_its_machines_have() -> None:
    for machine in machines("vertex").values():
        assert COMPUTE_ENGINE[machine.machine_type] == (
            machine.gpu.vertex,
            machine.count,
            machine.gpu.cpu * machine.count,
            machine.gpu.memory * machine.count,
        )


def test_the_accelerators_names_are_ones_that_vertex_knows() -> None:
    from google.cloud.aiplatform_v1.types import AcceleratorType

    for gpu in GPUS.values():
        assert not gpu.vertex or gpu.vertex in AcceleratorType.__members__


def test_steps_of_the_trainer_image_get_the_gpu_and_no_others(tmp_path: Path) -> None:
    (plain,) = compiled(plain_pipeline(), tmp_path)
    for fit, target in ((fit_to_vertex, "vertex"), (fit_to_kubeflow, "kubeflow")):
        spec = copy.deepcopy(plain)
        fit(spec, choose_machine(target))
        assert "accelerator" in resources(spec, "exec-train")
        assert "accelerator" not in resources(spec, "exec-check")


@pytest.mark.parametrize(
    ("target", "asked", "found"),
    [
        ("vertex", "l4", "l4"),
        ("vertex", "L4-x1", "l4"),
        ("vertex", "a100-80gb-x8", "a100-80gb-x8"),
        ("vertex", "a2-ultragpu-8g", "a100-80gb-x8"),
        ("vertex", "h200-x8", "h200-x8"),
        ("vertex", "", DEFAULT_MACHINES["vertex"]),
        ("kubeflow", "h200", "h200"),
        ("kubeflow", "gpu-x2", "gpu-x2"),
        ("kubeflow", "", "gpu"),
    ],
)
def test_a_machine_is_found_by_the_names_that_people_give_it(target: str, asked: str, found: str) -> None:
    assert choose_machine(target, asked).name == found


@pytest.mark.parametrize(
    ("target", "asked", "hint"),
    [
        ("vertex", "a100", "Did you mean a100-40gb or a100-80gb?"),
        ("vertex", "a100-80g", "Did you mean a100-80gb"),
        ("vertex", "h200", "Did you mean h200-x8?"),
        ("vertex", "gpu", "Machines: l4, l4-x2, "),
        ("kubeflow", "a2-ultragpu-8g", "Machines: l4, l4-x2, "),
        ("kubeflow", "h10", "Did you mean h100"),
    ],
)
def test_an_unknown_machine_is_answered_with_the_nearest_ones(target: str, asked: str, hint: str) -> None:
    with pytest.raises(ParameterError) as caught:
        choose_machine(target, asked)
    assert f"--machine is '{asked}', which {target} does not have." in str(caught.value)
    assert hint in str(caught.value)


def test_a_local_run_has_no_machine_to_choose() -> None:
    with pytest.raises(ParameterError, match="--target local runs on this machine as it is"):
        choose_machine("local", "l4")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("on demand, so it may fail", {"h100", "h100-x2", "h100-x4", "h200-x8"}),
        (
            "A step can ask for 96 and 624 at most",
            {"a100-40gb-x8", "a100-80gb-x4", "a100-80gb-x8", "h100-x4", "h100-x8", "h200-x8"},
        ),
        ("the mount of Cloud Storage, which every step needs", {"h200-x8"}),
    ],
)
def test_what_vertex_may_not_give_comes_with_a_caution(words: str, names: set[str]) -> None:
    told = {name: " ".join(cautions("vertex", machine)) for name, machine in machines("vertex").items()}
    assert {name for name, text in told.items() if words in text} == names
    for name in ("h100", "gpu-x2"):
        assert cautions("kubeflow", choose_machine("kubeflow", name)) == []
