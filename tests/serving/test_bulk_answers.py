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


def infer(model, prompts, out, engine, work_dir=""):
    config = InferenceConfig(
        large_model_reference=model,
        prompt_sequence_length=24,
        target_sequence_length=24,
        temperature=0.0,
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


def test_a_killed_run_goes_on_and_its_answers_are_ours(model, tmp_path, capsys):
    prompts, work = tmp_path / "prompts.jsonl", tmp_path / "work"
    turns = [{"role": "user", "content": "Zürich, ünïcödé! " * (number % 5) + str(number)} for number in range(PROMPTS)]
    prompts.write_text("".join(json.dumps({"prompt": [turn]}) + "\n" for turn in turns))
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
