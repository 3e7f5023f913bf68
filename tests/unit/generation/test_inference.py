import json
import shutil
import subprocess
import sys

import pytest

from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.generation import inference
from rlhf_tuning.generation.inference import InferenceConfig, read_predictions, write_predictions


def test_a_missing_prompts_file_is_named(tiny_model, tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        write_predictions(
            InferenceConfig(large_model_reference=str(tiny_model)),
            prompts_path=str(tmp_path / "nowhere.jsonl"),
            predictions_path=str(tmp_path / "out"),
            label="answers",
        )
    assert not (tmp_path / "out").exists()


def test_answers_are_written_one_a_line_in_the_order_of_the_prompts(tiny_model, tmp_path):
    contents = ["One.", "Two, which is longer.", "Three\u2028with a line separator."]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": [{{"role": "user", "content": "{text}"}}]}}\n' for text in contents))
    rows = write_predictions(
        InferenceConfig(large_model_reference=str(tiny_model), target_sequence_length=6, dtype="float32"),
        prompts_path=str(prompts),
        predictions_path=str(tmp_path / "out"),
        label="answers",
    )
    found = list(read_predictions(str(tmp_path / "out")))
    assert rows == 3
    assert [row["prompt"][-1]["content"] for row in found] == contents
    assert all(len(row["token_ids"]) == row["tokens"] <= 6 for row in found)


def test_rejects_settings_beyond_their_limits():
    with pytest.raises(ParameterError, match="temperature"):
        InferenceConfig(large_model_reference="x", temperature=-1.0)


PROMPTS = 40


def write_prompts(path):
    rows = [
        {"prompt": [{"role": "user", "content": f"Create {number}." * (1 + number % 3)}]} for number in range(PROMPTS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def prompts(tmp_path):
    return write_prompts(tmp_path / "prompts.jsonl")


def infer(model, prompts, out, **settings):
    known = {"large_model_reference": str(model), "target_sequence_length": 6, "dtype": "float32", "batch_size": 4}
    work_dir = settings.pop("work_dir", "")
    config = InferenceConfig(**known | settings)
    write_predictions(config, prompts_path=str(prompts), predictions_path=str(out), label="answers", work_dir=work_dir)
    return out.read_text()


def test_a_line_has_what_the_vertex_job_s_lines_had(tiny_model, prompts, tmp_path):
    first = json.loads(infer(tiny_model, prompts, tmp_path / "out").splitlines()[0])
    assert first["inputs"] == {"inputs_pretokenized": "Create 0."}
    assert isinstance(first["prediction"], str)


def test_the_likeliest_tokens_do_not_depend_on_the_seed_and_samples_do(tiny_model, prompts, tmp_path):
    greedy = [infer(tiny_model, prompts, tmp_path / "out", temperature=0.0, seed=seed) for seed in (0, 1)]
    sampled = [infer(tiny_model, prompts, tmp_path / "out", seed=seed) for seed in (0, 1, 1)]
    assert greedy[0] == greedy[1]
    assert sampled[0] != sampled[1] == sampled[2]


PROGRAM = """
import os, signal, sys
from rlhf_tuning.generation import inference
from rlhf_tuning.generation.inference import InferenceConfig, write_predictions
model, prompts, out, work, stop_after = sys.argv[1:]
generate, calls = inference.generate_answers, []
def killed(*arguments, **settings):
    calls.append(1)
    if len(calls) > int(stop_after):
        os.kill(os.getpid(), signal.SIGKILL)
    return generate(*arguments, **settings)
inference.generate_answers = killed
config = InferenceConfig(large_model_reference=model, target_sequence_length=6, dtype="float32", batch_size=4)
write_predictions(config, prompts_path=prompts, predictions_path=out, label="answers", work_dir=work)
"""


@pytest.fixture(scope="module")
def left_behind(tiny_model, tmp_path_factory):
    """The work folder of a run that was killed after three batches; not to be changed."""
    folder = tmp_path_factory.mktemp("killed")
    prompts = write_prompts(folder / "prompts.jsonl")
    arguments = [str(tiny_model), str(prompts), str(folder / "out"), str(folder / "work"), "3"]
    killed = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert not (folder / "out").exists()
    return folder / "work"


@pytest.fixture
def work(left_behind, tmp_path):
    """A copy of it."""
    return shutil.copytree(left_behind, tmp_path / "work")


def test_a_killed_run_goes_on_and_ends_with_the_same_file(tiny_model, prompts, work, tmp_path, capsys, monkeypatch):
    whole = infer(tiny_model, prompts, tmp_path / "whole")
    calls = []
    generate = inference.generate_answers
    monkeypatch.setattr(inference, "generate_answers", lambda *a, **k: calls.append(1) or generate(*a, **k))
    # The tuned model of a run stands in another folder each time.
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    assert infer(moved, prompts, tmp_path / "again", work_dir=str(work)) == whole
    assert len(calls) == PROMPTS // 4 - 3
    assert "12 of 40 answers are there already" in capsys.readouterr().out
    assert not list(work.iterdir())


def test_answers_of_other_settings_or_prompts_are_not_taken(tiny_model, prompts, work, tmp_path):
    (kept,) = work.iterdir()
    for change in ({"seed": 1}, {"temperature": 0.5}, {"target_sequence_length": 5}):
        infer(tiny_model, prompts, tmp_path / "out", work_dir=str(work), **change)
    prompts.write_text(prompts.read_text().replace("Create 1.", "Create one."))
    infer(tiny_model, prompts, tmp_path / "out", work_dir=str(work))
    assert len(list(kept.iterdir())) == 3


def test_a_batch_that_was_cut_off_is_answered_again(tiny_model, prompts, work, tmp_path):
    whole = infer(tiny_model, prompts, tmp_path / "whole")
    (kept,) = work.iterdir()
    (kept / "000001.json").write_text("[{")
    assert infer(tiny_model, prompts, tmp_path / "out", work_dir=str(work)) == whole
