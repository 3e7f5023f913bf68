import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlhf_pipelines.local.containers.mounts import Mount
from rlhf_pipelines.local.containers.task import choose_settings, explain_refusal, run_container
from rlhf_tuning import environment
from rlhf_tuning.errors import RunError
from rlhf_tuning.images import LIGHT_IMAGE, TRAINER_IMAGE

GIB = 2**30
ENGINE = {"MemTotal": 16 * GIB, "MemoryLimit": True, "Runtimes": {"runc": {}}, "SecurityOptions": ["name=seccomp"]}


@pytest.fixture
def choose(tmp_path, monkeypatch):
    """Choose settings for a run in `tmp_path`, with the caches there too."""
    monkeypatch.setattr(environment, "CACHE_DIR", tmp_path / "cache")
    monkeypatch.setattr(environment, "REGISTRY_DIR", tmp_path / "models")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub" / "cache"))

    def choose(*, environ=None, network="none", **engine):
        settings = choose_settings(
            run_id="test",
            images={},
            arguments={},
            pipeline_root=tmp_path / "root",
            engine={**ENGINE, **engine},
            environ=environ or {},
        )
        return dataclasses.replace(settings, network=network)

    return choose


def test_the_step_runs_as_the_user_who_started_it(choose, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "getgid", lambda: 1001)
    monkeypatch.setattr(os, "getgroups", lambda: [1001, 27])
    assert choose().user == "1000:1001"
    assert choose().groups == (1001, 27)
    # The root of a rootless engine is that user.
    assert choose(SecurityOptions=["name=rootless"]).user == "0:0"


def test_memory_leaves_room_for_the_machine_and_shared_memory_is_half_of_it(choose):
    assert choose().memory_bytes < 16 * GIB
    assert choose().shared_memory_bytes == 8 * GIB
    assert choose(MemoryLimit=False).memory_bytes == 0


def test_a_gpu_is_passed_on_unless_it_is_hidden(choose):
    assert choose(Runtimes={"nvidia": {}}).gpus
    assert not choose(Runtimes={"nvidia": {}}, environ={"CUDA_VISIBLE_DEVICES": ""}).gpus
    assert choose().gpus == Path("/dev/nvidiactl").exists()


def test_settings_of_the_shell_are_passed_on_and_nothing_private(choose):
    variables = choose(
        environ={"HF_TOKEN": "t", "RLHF_PROGRESS": "events", "AWS_SECRET": "s", "HOME": "/root"}
    ).environment
    assert variables["HF_TOKEN"] == "t"
    assert variables["RLHF_PROGRESS"] == "events"
    assert not {"AWS_SECRET", "HOME"} & set(variables)


def test_the_caches_and_the_registry_are_where_they_are_outside(choose, tmp_path):
    settings = choose()
    assert settings.environment["RLHF_CACHE_DIR"] == str(tmp_path / "cache")
    assert settings.environment["RLHF_REGISTRY_DIR"] == str(tmp_path / "models")
    paths = {mount.path for mount in settings.mounts if not mount.read_only}
    assert paths >= {str(tmp_path / name) for name in ("root", "cache", "models", "hub", "hub/cache")}


def test_credentials_for_google_cloud_are_seen_read_only(choose, tmp_path):
    (tmp_path / "key.json").write_text("{}")
    settings = choose(environ={"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json")})
    assert Mount(str(tmp_path / "key.json"), read_only=True) in settings.mounts
    assert settings.environment["GOOGLE_APPLICATION_CREDENTIALS"] == str(tmp_path / "key.json")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("write /var/lib/docker/x: no space left on device", "disk of the Docker engine is full"),
        ('could not select device driver "" with capabilities: [[gpu]]', "Install the NVIDIA Container Toolkit"),
        ("something new", "could not run the step: something new"),
    ],
)
def test_what_the_engine_refuses_is_explained(said, words):
    assert words in explain_refusal(RuntimeError(said))


@pytest.mark.docker
def test_failed_containers_under_load_never_pass_for_success(engine, choose, capsys):
    # Here kfp's own way took 7 of 120 for a success.
    settings = choose()

    def fail(number):
        import docker

        client = docker.from_env()
        try:
            return run_container(client, LIGHT_IMAGE, ["sh", "-c", f"echo {number}; exit 3"], settings, {})
        finally:
            client.close()

    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        with ThreadPoolExecutor(30) as threads:
            statuses = list(threads.map(fail, range(120)))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert statuses == [3] * 120
    assert sorted(map(int, capsys.readouterr().out.split())) == list(range(120))


@pytest.mark.docker
def test_all_that_a_container_says_is_printed_in_whole_lines(engine, choose, capsys):
    text = "é" * 50_000
    status = run_container(
        engine, LIGHT_IMAGE, ["python3", "-c", "print('é' * 50_000); print('a\\nb', end='')"], choose(), {}
    )
    assert status == 0
    assert capsys.readouterr().out == f"{text}\na\nb\n"


@pytest.mark.docker
def test_what_a_step_writes_belongs_to_its_user_and_the_rest_of_the_machine_is_out_of_reach(engine, choose, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root").chmod(0o777)
    (tmp_path / "data").write_text("rows")
    (tmp_path / "data").chmod(0o666)
    settings = choose()
    settings = dataclasses.replace(
        settings,
        user="4711:4712",
        mounts=[Mount(str(tmp_path / "root"), read_only=False), Mount(str(tmp_path / "data"), read_only=True)],
    )
    script = (
        f"cat {tmp_path}/data > {tmp_path}/root/made && touch ~/home /tmp/t /gcs/g && ! touch {tmp_path}/data"
        " && [ $(df -m /dev/shm | awk 'NR == 2 { print $2 }') -gt 1000 ]"
    )
    assert run_container(engine, LIGHT_IMAGE, ["sh", "-ec", script], settings, {}) == 0
    made = (tmp_path / "root" / "made").stat()
    assert (made.st_uid, made.st_gid) == (4711, 4712)


@pytest.mark.docker
def test_a_step_that_needs_too_much_memory_is_killed_and_says_so(engine, choose, capsys):
    settings = dataclasses.replace(choose(), memory_bytes=64 * 2**20)
    assert run_container(engine, LIGHT_IMAGE, ["python3", "-c", "x = b'x' * 10**9"], settings, {}) == 137
    assert "Killed" in capsys.readouterr().out


@pytest.mark.docker
def test_what_the_engine_refuses_is_an_error_and_leaves_no_container(engine, choose):
    settings = dataclasses.replace(choose(), gpus=True)
    before = len(engine.containers.list(all=True))
    with pytest.raises(RunError, match=r"could not run the step|NVIDIA Container Toolkit"):
        run_container(engine, TRAINER_IMAGE, ["no-such-program"], settings, {})
    assert len(engine.containers.list(all=True)) == before
