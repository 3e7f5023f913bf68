"""`rlhf serve`, and `rlhf predict` that asks it, with a stand-in for vLLM; tests/serving has the real one."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tuned_run import write_model

from rlhf_pipelines.cli import rlhf
from rlhf_tuning import environment, vllm_program
from rlhf_tuning.registry import register_model
from rlhf_tuning.serving import openai_api

FAKE = str(Path(__file__).parents[2] / "support" / "fake_vllm.py")
PARAMETERS = {"instruction": "Be brief.", "instruction_role": "system"}


@pytest.fixture
def registry_dir(tmp_path):
    folder = tmp_path / "registry"
    model = write_model(tmp_path / "model")
    register_model(
        model_dir=str(model), adapter_dir="", name="palms", manifest={"parameters": PARAMETERS}, registry_dir=folder
    )
    return folder


def test_serves_until_ctrl_c(registry_dir, tmp_path):
    command = [sys.executable, "-m", "rlhf_pipelines.cli", "serve", "palms", "--port", "0", "--python", FAKE]
    served = subprocess.Popen(
        [*command, "--registry-dir", str(registry_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert served.stdout is not None
    lines = [served.stdout.readline() for _ in range(4)]
    url = lines[1].split()[3].rstrip(".")
    arguments = json.loads(openai_api.post(url, "completions", {})["choices"][0]["text"])
    served.send_signal(signal.SIGINT)
    _, errors = served.communicate(timeout=60)
    assert (served.returncode, errors) == (0, "\nStopped\n")
    assert lines[0].startswith("Starting vLLM 0.32.0 (cpu) with palms@1; ")
    assert lines[2] == f"Ask it: rlhf predict --endpoint {url} --prompt TEXT\n"
    assert "--served-model-name=palms@1" in arguments
    assert list(tmp_path.glob("rlhf-vllm-*")) == []


def test_without_vllm_it_says_how_to_install_it(registry_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environment, "VLLM_PYTHON", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(vllm_program, "FOLDER", tmp_path / "vllm")
    assert rlhf.main(["serve", "palms", "--port", "0", "--registry-dir", str(registry_dir)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("rlhf: There is no vLLM here")
    assert f"-m venv {tmp_path}/vllm\n  {tmp_path}/vllm/bin/pip install vllm" in said
    assert "--python" in said


def test_a_folder_without_a_model_and_a_port_that_is_none_are_refused(tmp_path, capsys):
    assert rlhf.main(["serve", str(tmp_path)]) == 2
    assert "is no folder with a config.json" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        rlhf.main(["serve", "palms", "--port", "70000"])
    assert "'70000' is no port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("terminal", "shown"), [(True, "[31mred\n second line\n"), (False, "\x1b[31mred\n\tsecond line\n")]
)
def test_an_answer_moves_no_cursor_of_a_terminal_and_goes_to_a_program_as_it_is(monkeypatch, capsys, terminal, shown):
    monkeypatch.setattr(openai_api, "served_model", lambda url: "m")
    monkeypatch.setattr(openai_api, "ask", lambda *_, **__: "\x1b[31mred\n\tsecond line")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert rlhf.main(["predict", "--endpoint", "http://localhost:8000", "--prompt", "Hello?"]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("", "--endpoint is empty"),
        ("http://", "names a host"),
        ("http://u:hunter2@localhost", "a user name or a password"),
    ],
)
def test_an_address_where_no_server_can_be_is_not_asked(capsys, endpoint, words):
    assert rlhf.main(["predict", "--endpoint", endpoint, "--prompt", "Hello?"]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("served", "turns", "note"),
    [
        ("palms@1", ["Be brief.", "Hello?"], ""),
        ("palms@2", ["Hello?"], "rlhf: note: the prompt is sent without an instruction. Model 'palms' has no version"),
        # Elsewhere a model without a version may be any.
        ("palms", ["Hello?"], ""),
    ],
)
def test_a_server_is_asked_as_the_tuning_asked(registry_dir, monkeypatch, capsys, served, turns, note):
    def ask(url, model, conversation, **settings):
        return json.dumps([url, model, [turn["content"] for turn in conversation], settings])

    monkeypatch.setattr(openai_api, "served_model", lambda url: served)
    monkeypatch.setattr(openai_api, "ask", ask)
    asked = ["predict", "--endpoint", "http://localhost:8000", "--prompt", "Hello?", "--max-tokens", "9"]
    assert rlhf.main([*asked, "--registry-dir", str(registry_dir)]) == 0
    said = capsys.readouterr()
    settings = {"max_tokens": 9, "temperature": 0.0, "seed": 0}
    assert json.loads(said.out) == ["http://localhost:8000/v1", served, turns, settings]
    assert said.err.startswith(note)
    assert bool(said.err) == bool(note)
