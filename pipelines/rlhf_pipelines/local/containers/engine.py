"""The Docker engine behind `rlhf run --runner docker`: reached, checked, and rid of a run's containers."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf_pipelines.local.process_group import GRACE_SECONDS
from rlhf_tuning.errors import ParameterError, RunError
from rlhf_tuning.images import IMAGES

#: On every container of a run, with the run's id.
RUN_LABEL = "rlhf-pipelines.run"
_NEEDED_FREE_BYTES = 500 * 10**6


def connect() -> Any:
    """Return a client of the engine that `docker` itself would use: DOCKER_HOST, the context, or the usual socket.

    Raises:
        ParameterError: If no engine answers.
    """
    import docker
    import requests

    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise ParameterError(
            f"--runner docker needs a Docker engine, which cannot be used: {_reason(error)}. Start Docker, name an "
            "engine with DOCKER_HOST, or leave out --runner to run without containers."
        ) from None
    return client


def check_engine() -> None:
    """Check, before a run begins, that an engine answers and has room to write.

    Raises:
        ParameterError: If no engine answers.
        RunError: If its disk is full.
    """
    client = connect()
    try:
        data = Path(client.info()["DockerRootDir"])
    finally:
        client.close()
    # The engine of a virtual machine has its disk elsewhere.
    with suppress(OSError):
        free = shutil.disk_usage(data).free
        if free < _NEEDED_FREE_BYTES:
            raise RunError(
                f"Only {free / 1e6:.0f} MB are free on the disk of the Docker engine ({data}). Free some space, for "
                "instance with: docker system prune"
            )


def check_images(client: Any, images: Iterable[str]) -> None:
    """Check that the engine has the images. Nothing is pulled: a name without a registry could be anyone's.

    Raises:
        ParameterError: Naming what is missing, and how to get it.
    """
    import docker

    missing = []
    for image in sorted(set(images)):
        try:
            client.images.get(image)
        except docker.errors.ImageNotFound:
            missing.append(image)
    if missing:
        ours = [image for image in missing if image in IMAGES.values()]
        others = [image for image in missing if image not in ours]
        help_ = ["Build them with: make images (for a machine without a GPU: make images CPU=1)."] if ours else []
        help_ += ["Or name others with --image light=... --image trainer=..."] if ours else []
        help_ += [f"Fetch it with: docker pull {image}" for image in others]
        raise ParameterError("\n".join([f"The Docker engine does not have {' and '.join(missing)}.", *help_]))


def remove_containers(run_id: str) -> None:
    """Stop and remove what runs of a run: Python is asked first, so that it can end cleanly, and killed after that.

    Raises:
        RunError: If the engine does not do it.
    """
    import docker
    import requests

    try:
        client = docker.from_env()
        try:
            for container in client.containers.list(all=True, filters={"label": f"{RUN_LABEL}={run_id}"}):
                with suppress(docker.errors.NotFound):  # it has gone of itself
                    try:
                        container.stop(timeout=int(GRACE_SECONDS))
                    finally:  # at once when we are interrupted again
                        container.remove(force=True, v=True)
        finally:
            client.close()
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise RunError(
            f"The run's containers may still run, for the Docker engine did not stop them: {_reason(error)}. Stop them "
            f"with: docker rm --force $(docker ps --all --quiet --filter label={RUN_LABEL}={run_id})"
        ) from None


#: What the system says, wrapped several times by the client, and what it means here.
_REASONS = {
    "No such file or directory": "its socket does not exist",
    "Permission denied": "its socket is closed to you (on Linux: join the group docker)",
    "Connection refused": "nothing answers at its address",
}


def _reason(error: Exception) -> str:
    text = str(error)
    return next((reason for words, reason in _REASONS.items() if words in text), text.rstrip("."))
