"""Runs a pipeline's steps in containers: takes the place of the part of kfp's DockerRunner that starts them.

kfp lets the engine remove a container as soon as it ends and takes one that has gone for a success; under load failed
steps pass that way. Here a container stays until its exit status has been read. It also gets what kfp has no setting for:
the caches, the data that the parameters name, the user who runs the command, memory, and a GPU if there is one.
"""

import codecs
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_pipelines.executor_command import python_in_place_of_shell
from rlhf_pipelines.image_choice import as_environment
from rlhf_pipelines.local.containers.engine import RUN_LABEL
from rlhf_pipelines.local.containers.mounts import Mount, choose_mounts
from rlhf_tuning import environment
from rlhf_tuning.errors import RlhfError, RunError
from rlhf_tuning.parameters import Value
from rlhf_tuning.step import emit

#: Settings of this shell that mean the same in a container.
_PASSED_ON = (
    *("RLHF_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "TORCH_", "PYTORCH_", "CUDA_", "NCCL_", "OMP_", "MKL_"),
    *("TQDM_", "GOOGLE_CLOUD_", "PYTHONSAFEPATH", "PYTHONIOENCODING", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"


@dataclass(frozen=True, kw_only=True)
class ContainerSettings:
    """What every container of a run gets.

    Args:
        run_id: Marks the containers of this run.
        images: The components' image to the one that takes its place.
        user: User and group id, as the engine takes them.
        groups: The user's other groups.
        environment: Variables.
        mounts: Files and folders of this machine.
        network: As the engine calls it; empty for its default.
        memory_bytes: Most memory; 0 for no limit.
        shared_memory_bytes: Size of /dev/shm.
        gpus: Whether to pass on every GPU.
        no_selinux_labels: Whether files here must be reached without SELinux labels for containers.
    """

    run_id: str
    images: Mapping[str, str]
    user: str
    groups: Sequence[int]
    environment: Mapping[str, str]
    mounts: Sequence[Mount]
    network: str
    memory_bytes: int
    shared_memory_bytes: int
    gpus: bool
    no_selinux_labels: bool


def choose_settings(
    *,
    run_id: str,
    images: Mapping[str, str],
    arguments: Mapping[str, Value],
    pipeline_root: Path,
    engine: Mapping[str, Any],
    environ: Mapping[str, str],
) -> ContainerSettings:
    """Return the settings for a run.

    Args:
        run_id: Marks the run's containers.
        images: The components' image to the one that takes its place.
        arguments: The pipeline's.
        pipeline_root: Folder that receives everything.
        engine: What the engine says of itself.
        environ: This process's environment.
    """
    from huggingface_hub import constants

    passed = {name: value for name, value in environ.items() if name.startswith(_PASSED_ON)}
    hub = Path(constants.HF_HOME), Path(constants.HF_HUB_CACHE)
    cloud = Path(environ.get(_CREDENTIALS) or "~/.config/gcloud/application_default_credentials.json").expanduser()
    if cloud.is_file():
        passed[_CREDENTIALS] = os.path.abspath(cloud)
    memory = int(engine["MemTotal"])
    security = " ".join(engine.get("SecurityOptions") or [])
    rootless = "rootless" in security
    return ContainerSettings(
        run_id=run_id,
        images=images,
        # What the steps write belongs to the user. The root of a rootless engine is the user already.
        user="0:0" if rootless else f"{os.getuid()}:{os.getgid()}",
        groups=() if rootless else tuple(os.getgroups()),
        environment={
            **passed,
            **as_environment(images),
            "RLHF_CACHE_DIR": str(environment.CACHE_DIR),
            "RLHF_REGISTRY_DIR": str(environment.REGISTRY_DIR),
            "HF_HOME": str(hub[0]),
            "HF_HUB_CACHE": str(hub[1]),
        },
        mounts=choose_mounts(
            arguments,
            writable=(pipeline_root, environment.CACHE_DIR, environment.REGISTRY_DIR, *hub),
            readable=(cloud,),
        ),
        network=environment.DOCKER_NETWORK,
        # The step is then what the kernel ends when memory runs out, not whatever else runs here.
        memory_bytes=int(memory * 0.95) if engine.get("MemoryLimit") else 0,
        # As on the machine itself; counted when used. The engine's own 64 MB are too few for loaders of data and NCCL.
        shared_memory_bytes=memory // 2,
        gpus=_has_gpu(engine, environ),
        no_selinux_labels="selinux" in security,
    )


def _has_gpu(engine: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    hidden = environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return not hidden and ("nvidia" in engine.get("Runtimes", {}) or Path("/dev/nvidiactl").exists())


def run_kfp_tasks_with(settings: ContainerSettings) -> None:
    """Make kfp's DockerRunner start containers our way."""
    from kfp.local import docker_task_handler

    def run_docker_container(client: Any, image: str, command: list[str], volumes: object, **arguments: Any) -> int:
        # kfp's own folders are in our mounts; a task's variables win over those of this shell.
        variables = {**settings.environment, **(arguments.get("environment") or {})}
        try:
            return run_container(client, settings.images.get(image, image), command, settings, variables)
        except RlhfError as error:
            emit("error", step=image, text=str(error), status=error.exit_status)
            return error.exit_status

    docker_task_handler.run_docker_container = run_docker_container


def run_container(
    client: Any, image: str, command: Sequence[str], settings: ContainerSettings, variables: Mapping[str, str]
) -> int:
    """Run a command in a container to its end, print what it prints, and return its exit status.

    Raises:
        RunError: If the engine cannot run it.
    """
    import docker
    import requests

    program, *arguments = python_in_place_of_shell(command)
    try:
        container = client.containers.create(
            image,
            entrypoint=[program],  # in place of what an image may bring
            command=arguments,
            labels={RUN_LABEL: settings.run_id},
            environment=dict(variables),
            working_dir=str(Path.cwd()),  # relative paths mean the same inside
            user=settings.user,
            group_add=list(settings.groups),
            init=True,  # collects processes that lost their parent, and lets Python die of signals as elsewhere
            security_opt=["no-new-privileges", *(["label=disable"] if settings.no_selinux_labels else [])],
            shm_size=settings.shared_memory_bytes,
            mounts=[
                docker.types.Mount(mount.path, mount.path, type="bind", read_only=mount.read_only)
                for mount in settings.mounts
            ],
            **({"mem_limit": settings.memory_bytes} if settings.memory_bytes else {}),
            **({"network_mode": settings.network} if settings.network else {}),
            **(_gpu_arguments() if settings.gpus else {}),
        )
        try:
            # Attached before it starts, so that nothing it says is missed.
            output = container.attach(stream=True, stdout=True, stderr=True)
            container.start()
            _print_all(output)
            status = int(container.wait(timeout=None)["StatusCode"])
        finally:
            container.remove(force=True, v=True)
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise RunError(explain_refusal(error)) from error
    if status > 128 and (words := signal.strsignal(status - 128)):
        print(words)  # as a shell says it: "Killed"
    return status


def _gpu_arguments() -> dict[str, Any]:
    import docker

    return {
        "device_requests": [docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])],
        # As NVIDIA asks for deep learning: pinned memory, and deep stacks.
        "ulimits": [
            docker.types.Ulimit(name="memlock", soft=-1, hard=-1),
            docker.types.Ulimit(name="stack", soft=67108864, hard=67108864),
        ],
    }


def _print_all(output: Any) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    for chunk in output:
        # Whole lines, for kfp indents what is printed, and an event must stay one line.
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        for line in lines:
            print(line, flush=True)
    if rest:
        print(rest, flush=True)


def explain_refusal(error: Exception) -> str:
    """Return why the engine did not run a step, and what to do where that is known."""
    text = str(error)
    if "no space left on device" in text.lower():
        return "The disk of the Docker engine is full. Free some space, for instance with: docker system prune"
    if "could not select device driver" in text or "nvidia-container-cli" in text:
        return (
            "This machine has a GPU that the Docker engine cannot pass on. Install the NVIDIA Container Toolkit, or set "
            "CUDA_VISIBLE_DEVICES= (to nothing) to run on the CPU."
        )
    return f"The Docker engine could not run the step: {text}"
