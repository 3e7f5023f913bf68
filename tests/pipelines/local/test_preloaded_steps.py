import importlib.util
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.pipelines.local.test_local_run import events, run_request

from rlhf_pipelines.local import preloaded_steps
from rlhf_pipelines.local.preloaded_steps import run_copy
from rlhf_tuning.images import LIGHT_IMAGE, TRAINER_IMAGE

SOURCE = """
import atexit, os, subprocess, sys
def step(word: str) -> str:
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    subprocess.run(["echo", "of a program"])
    atexit.register(print, "at exit")
    os.environ["PLUM"] = "ripe"
    if word == "kill":
        os.kill(os.getpid(), 9)
    if word == "exit":
        sys.exit(2)
    if word == "crash":
        raise ZeroDivisionError("a fault")
    return f"{os.environ['PLUM']} {os.environ['_KFP_RUNTIME']} {os.environ.get('LATE')}"
"""


@pytest.fixture(scope="module")
def context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kfp.dsl.executor_main"])
    return context


def run_step(context: Any, word: str, folder: Path) -> tuple[int, Path]:
    output = folder / "output.json"
    executor_input = {
        "inputs": {"parameterValues": {"word": word}},
        "outputs": {"parameters": {"Output": {"outputFile": str(folder / "Output")}}, "outputFile": str(output)},
    }
    arguments = ["--executor_input", json.dumps(executor_input), "--function_to_execute", "step"]
    return run_copy(context, SOURCE, arguments), output


def test_a_step_is_a_copy_with_its_own_output_and_environment(
    context: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_step(context, "", tmp_path)[0] == 0  # the fork server runs from here on
    monkeypatch.setenv("LATE", "too")
    capsys.readouterr()
    status, result = run_step(context, "", tmp_path)
    assert status == 0
    assert json.loads(result.read_text())["parameterValues"] == {"Output": "ripe true too"}
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in ("to stdout", "to stderr", "of a program", "at exit")] == [
        *("to stdout", "to stderr", "of a program", "at exit")
    ]
    assert "PLUM" not in os.environ


@pytest.mark.parametrize(
    ("word", "status", "said"),
    [("exit", 2, "at exit"), ("crash", 1, "ZeroDivisionError: a fault"), ("kill", -9, "Killed")],
)
def test_a_failed_step_says_why_and_how(
    context: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, status: int, said: str
) -> None:
    assert run_step(context, word, tmp_path)[0] == status
    assert said in capsys.readouterr().out.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux alone")
def test_a_pipeline_whose_preloaded_step_is_killed_fails_as_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_PRELOADED", "1")
    (tmp_path / "trouble").write_text("kill")
    arguments = {"text": "plum", "ran": str(tmp_path / "ran"), "trouble": str(tmp_path / "trouble")}
    status, output, _ = run_request(tmp_path, target="toy_pipelines:toy_pipeline", arguments=arguments)
    assert status == 1, output
    lines = [line.strip() for line in output.splitlines()]
    assert "a copy of a process" in lines
    assert "Killed" in lines
    assert any(event["event"] == "progress" for event in events(output))


def test_what_is_to_be_imported_is_there() -> None:
    """The fork server passes over what is not, without a word."""
    assert [name for name in preloaded_steps._MODULES if importlib.util.find_spec(name) is None] == []


@pytest.fixture
def started_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Handlers of tasks that kfp itself started; nothing runs, and this machine has no GPU."""
    from kfp.local.subprocess_task_handler import SubprocessTaskHandler

    handlers: list[Any] = []
    monkeypatch.setattr(SubprocessTaskHandler, "run", handlers.append)
    monkeypatch.setattr(preloaded_steps, "_GPU_DEVICES", (tmp_path / "none",))
    monkeypatch.setattr(preloaded_steps.forkserver, "ensure_running", lambda: None)
    monkeypatch.setattr(preloaded_steps, "run_copy", lambda *_: 0)
    return handlers


@pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux alone")
@pytest.mark.parametrize(
    ("image", "variables", "anew"), [(TRAINER_IMAGE, {}, 0), (TRAINER_IMAGE, {"PLUM": "ripe"}, 1), (LIGHT_IMAGE, {}, 1)]
)
def test_light_steps_and_those_with_variables_of_their_own_start_anew(
    started_anew: list[Any], image: str, variables: dict[str, str], anew: int
) -> None:
    from kfp import local
    from kfp.local.subprocess_task_handler import SubprocessTaskHandler

    from rlhf_components.train_policy import train_policy

    preloaded_steps.preload_steps([LIGHT_IMAGE, TRAINER_IMAGE])
    container = train_policy.component_spec.implementation.container
    handler = SubprocessTaskHandler(
        image=f"python/{image}",
        full_command=[*container.command, *container.args],
        pipeline_root="",
        runner=local.SubprocessRunner(use_venv=False),
        env_vars=variables,
    )
    handler.image = image
    handler.run()
    assert len(started_anew) == anew


@pytest.mark.parametrize("devices", [True, False])
def test_machines_with_a_gpu_start_every_step_anew(
    devices: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kfp.local.subprocess_task_handler import SubprocessTaskHandler

    start_here = SubprocessTaskHandler.run
    monkeypatch.setattr(SubprocessTaskHandler, "run", start_here)
    monkeypatch.setattr(preloaded_steps, "_GPU_DEVICES", (tmp_path if devices else tmp_path / "none",))
    preloaded_steps.preload_steps([TRAINER_IMAGE])
    assert (SubprocessTaskHandler.run is start_here) == (devices or sys.platform != "linux")
