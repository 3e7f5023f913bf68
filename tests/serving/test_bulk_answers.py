"""A real vLLM answers many prompts: greedy answers are ours, token for token, also where a killed run goes on."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import CHAT_TEMPLATE, make_model

from rlhf_tuning.generation.inference import InferenceConfig, write_predictions

pytestmark = pytest.mark.vllm

#: More than vLLM has under way at a time, so that some are finished long before others.
PROMPTS = 600
PATH = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
RUN = "import sys, test_bulk_answers as tests; tests.infer(*sys.argv[1:])"


def infer(model, prompts, out, engine, work_dir="", temperature=0.0):
    config = InferenceConfig(
        large_model_reference=model,
        prompt_sequence_length=24,
        target_sequence_length=24,
        temperature=temperature,
        dtype="float32",
        inference_engine=engine,
    )
    write_predictions(config, prompts_path=prompts, predictions_path=out, label="answers", work_dir=work_dir)


@pytest.fixture
def model(tmp_path):
    """A model that names another token that ends an answer, one that it says, and a habit that is not to shape answers."""
    folder = make_model(tmp_path / "model", chat_template=CHAT_TEMPLATE, head_dim=32)
    path = folder / "generation_config.json"
    known = json.loads(path.read_text())
    ends = [known["eos_token_id"], *range(40, 60)]
    path.write_text(json.dumps(known | {"eos_token_id": ends, "repetition_penalty": 3.0}))
    return str(folder)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    turns = [{"role": "user", "content": "Zürich, ünïcödé! " * (number % 5) + str(number)} for number in range(PROMPTS)]
    path.write_text("".join(json.dumps({"prompt": [turn]}) + "\n" for turn in turns))
    return path


def test_prompts_of_more_tokens_than_vllm_takes_at_once_are_sampled_from(model, prompts, tmp_path):
    infer(model, str(prompts), str(tmp_path / "sampled"), "vllm", temperature=1.0)
    found = [json.loads(line) for line in (tmp_path / "sampled").read_text().split("\n")[:-1]]
    assert len({line["prediction"] for line in found}) > PROMPTS / 2


def test_a_killed_run_goes_on_and_its_answers_are_ours(model, prompts, tmp_path, capsys):
    work = tmp_path / "work"
    arguments = [model, str(prompts), str(tmp_path / "by-vllm"), "vllm", str(work)]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments], env={**os.environ, "PYTHONPATH": PATH, "TMPDIR": str(tmp_path)}
    ) as killed:
        deadline = time.monotonic() + 600
        while not list(work.glob("*/*.json")) and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        killed.kill()
    kept = len(list(work.glob("*/*.json")))
    assert 0 < kept < 10
    infer(*arguments)
    infer(model, str(prompts), str(tmp_path / "ours"), "own")
    assert "answers are there already" in capsys.readouterr().out
    found = [json.loads(line) for line in (tmp_path / "by-vllm").read_text().splitlines()]
    assert found == [json.loads(line) for line in (tmp_path / "ours").read_text().splitlines()]
    assert 0 < sum(line["ended"] for line in found) < PROMPTS
