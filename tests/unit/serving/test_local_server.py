"""The life of a server, with a stand-in for vLLM; tests/serving has the real one."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tuned_run import write_model

from rlhf_tuning.errors import ModelError, RunError, UserError
from rlhf_tuning.serving import local_server, openai_api
from rlhf_tuning.serving.vllm import plan_serving
from rlhf_tuning.vllm_program import Vllm

FAKE = str(Path(__file__).parents[2] / "support" / "fake_vllm.py")
LOG_OF_A_DEATH = """
(APIServer pid=1) WARNING [system_utils.py:255] This can cause errors like `OSError: [Errno 24] Too many open files`.
(Worker pid=3) ERROR [multiproc_executor.py:1063]     raise ValueError(
(Worker pid=3) ERROR [multiproc_executor.py:1063] ValueError: Available memory is less than requested
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


@pytest.fixture(autouse=True)
def logs_go_with_the_test(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


def serving(model, *, device="cpu", **options):
    vllm = Vllm(python=FAKE, version="0.32.0", device=device)
    port = local_server.free_port(local_server.HOST, 0)
    return local_server.serving(vllm, model, plan_serving(model, {}), model="palms@1", port=port, **options)


def group_exists(number):
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def ends_soon(number):
    deadline = time.monotonic() + 20
    while group_exists(number) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not group_exists(number)


def arguments_of(server):
    reply = openai_api.post(server.url, "completions", {"prompt": "x"})
    return json.loads(reply["choices"][0]["text"])


def test_a_server_gets_the_arguments_of_a_deployment_and_what_a_cpu_needs(model):
    with serving(model) as server:
        arguments = arguments_of(server)
    assert set(plan_serving(model, {}).vllm_arguments()) < set(arguments)
    assert {f"--model={model}", "--served-model-name=palms@1", "--enforce-eager"} < set(arguments)


def test_a_server_on_gpus_is_split_over_as_many_as_are_asked_for_and_compiles(model):
    with serving(model, device="cuda", gpus=2) as server:
        arguments = arguments_of(server)
    assert "--tensor-parallel-size=2" in arguments
    assert "--enforce-eager" not in arguments


def test_nothing_of_a_server_is_left_behind_after_the_block(model):
    with serving(model) as server:
        group = server.program.process.pid
        assert group_exists(group)
    assert ends_soon(group)
    assert not server.program.log.exists()


def test_nothing_of_a_server_is_left_behind_when_its_owner_is_killed(model, tmp_path):
    program = (
        "import sys, time, test_local_server as tests\nfrom pathlib import Path\n"
        "with tests.serving(Path(sys.argv[1])) as server:\n"
        "    print(server.program.process.pid, flush=True)\n    time.sleep(60)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(FAKE).parent), *filter(None, sys.path)])
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(model)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)},
    )
    with owner:
        assert owner.stdout is not None
        group = int(owner.stdout.readline())
        assert group_exists(group)
        owner.kill()
    assert ends_soon(group)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"start": LOG_OF_A_DEATH}, r"vLLM ended: ValueError: Available memory is less than requested\. Its log: "),
        ({"start": "no reason"}, r"vLLM ended: with exit status 1\. Its log: "),
        (
            {"first": "[x.py:1] RuntimeError: Unsupported head_dim=8"},
            r"vLLM started but does not answer: RuntimeError: Unsupported head_dim=8\. Its log: ",
        ),
    ],
)
def test_a_server_that_dies_says_why_and_leaves_its_log(model, monkeypatch, fault, words):
    monkeypatch.setenv("FAKE_VLLM", json.dumps(fault))
    with pytest.raises(RunError, match=words) as raised, serving(model):
        pass
    assert next(iter(fault.values())) in Path(str(raised.value).rpartition(" ")[2]).read_text()


def test_a_server_that_dies_later_says_so_too(model):
    with serving(model) as server:
        server.program.process.kill()
        with pytest.raises(RunError, match="was killed, most likely because this machine has too little memory"):
            server.wait()


def test_a_port_that_is_taken_is_refused():
    with socket.create_server((local_server.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} of 127.0.0.1: Address already in use\. Choose another"):
            local_server.free_port(local_server.HOST, port)


def test_a_model_larger_than_the_memory_is_refused_before_anything_starts(model, monkeypatch):
    monkeypatch.setattr(local_server, "weight_bytes", lambda folder: 10**15)
    with pytest.raises(ModelError, match="needs 1e\\+06 GB for its weights alone"), serving(model):
        pass
