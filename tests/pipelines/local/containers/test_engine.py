import os
import shutil
import socket
import sys

import pytest

from rlhf_pipelines.local.containers.engine import RUN_LABEL, check_engine, check_images, connect, remove_containers
from rlhf_tuning.errors import ParameterError, RunError
from rlhf_tuning.images import IMAGES, LIGHT_IMAGE


def test_a_missing_engine_is_told_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(ParameterError, match=r"its socket does not exist\. Start Docker, .*DOCKER_HOST, .*--runner"):
        check_engine()


def test_an_engine_that_does_not_answer_is_told(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(ParameterError, match="nothing answers at its address"):
            connect()


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="takes root to become someone without permission"
)
def test_a_closed_socket_is_told(monkeypatch, tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/s")
        monkeypatch.chdir("/")
        os.seteuid(65534)
        try:
            with pytest.raises(ParameterError, match=r"closed to you|does not exist"):
                connect()
        finally:
            os.seteuid(0)


@pytest.mark.docker
def test_an_engine_that_answers_passes():
    check_engine()


@pytest.mark.docker
def test_a_full_disk_of_the_engine_is_told(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 10**7))
    with pytest.raises(RunError, match=r"Only 10 MB are free on the disk of the Docker engine .*docker system prune"):
        check_engine()


@pytest.mark.docker
def test_missing_images_are_named_with_the_command_that_makes_or_fetches_them(engine, monkeypatch):
    check_images(engine, [LIGHT_IMAGE])
    monkeypatch.setitem(IMAGES, "trainer", "rlhf-pipelines/trainer:0.0.0")
    with pytest.raises(ParameterError, match=r"does not have rlhf-pipelines/trainer:0\.0\.0\.\nBuild .*: make images"):
        check_images(engine, ["rlhf-pipelines/trainer:0.0.0", LIGHT_IMAGE])
    with pytest.raises(
        ParameterError, match=r"^The Docker engine does not have r/x:1\.\nFetch it with: docker pull r/x:1$"
    ):
        check_images(engine, ["r/x:1"])


@pytest.mark.docker
def test_only_the_containers_of_one_run_are_removed(engine):
    import docker

    started = [
        engine.containers.run(LIGHT_IMAGE, ["sleep", "60"], detach=True, init=True, labels={RUN_LABEL: run_id})
        for run_id in ("test-one", "test-two")
    ]
    try:
        remove_containers("test-one")
        with pytest.raises(docker.errors.NotFound):
            engine.containers.get(started[0].id)
        assert engine.containers.get(started[1].id).status == "running"
    finally:
        remove_containers("test-two")
