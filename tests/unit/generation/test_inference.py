import json
import shutil

import pytest

from rlhf_tuning.errors import DataError, ModelError, ParameterError
from rlhf_tuning.generation import inference
from rlhf_tuning.generation.inference import InferenceConfig, read_predictions, write_predictions
from rlhf_tuning.models import base_model


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
    written = write_predictions(
        InferenceConfig(large_model_reference=str(tiny_model), target_sequence_length=6, dtype="float32"),
        prompts_path=str(prompts),
        predictions_path=str(tmp_path / "out"),
        label="answers",
    )
    found = list(read_predictions(str(tmp_path / "out")))
    assert written["rows"] == 3
    assert written["tokens_per_second"] > 0
    assert [row["prompt"][-1]["content"] for row in found] == contents
    assert all(len(row["token_ids"]) == row["tokens"] <= 6 for row in found)


def test_a_model_that_no_gpu_can_hold_is_refused_before_it_is_loaded(tiny_model, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(base_model, "gpu_memory", lambda: 1000)
    monkeypatch.setattr(base_model, "load_causal_lm", pytest.fail)
    with pytest.raises(
        ModelError, match=r"does not fit: answering with it takes more than .* GB of each GPU, which has"
    ):
        infer(tiny_model, prompts, tmp_path / "out")


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


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


def infer(model, prompts, out, **settings):
    known = {"large_model_reference": str(model), "target_sequence_length": 6, "dtype": "float32", "batch_size": 4}
    work_dir = settings.pop("work_dir", "")
    config = InferenceConfig(**known | settings)
    write_predictions(config, prompts_path=str(prompts), predictions_path=str(out), label="answers", work_dir=work_dir)
    return out.read_text()


@pytest.fixture(scope="module")
def finished(tiny_model, prompts, tmp_path_factory):
    """What a run wrote, and its work folder as a kill after three batches would have left it; not to be changed."""
    folder, calls = tmp_path_factory.mktemp("finished"), []
    generate = inference.generate_answers

    def watched(*arguments, **settings):
        calls.append(1)
        if len(calls) == 4:
            assert not (folder / "out").exists()
            shutil.copytree(folder / "work", folder / "left")
        return generate(*arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "generate_answers", watched)
        whole = infer(tiny_model, prompts, folder / "out", work_dir=str(folder / "work"))
    assert not list((folder / "work").iterdir())
    return whole, folder / "left"


@pytest.fixture
def whole(finished):
    """What a run wrote that nobody stopped."""
    return finished[0]


@pytest.fixture
def work(finished, tmp_path):
    """A copy of what a killed run has left behind."""
    return shutil.copytree(finished[1], tmp_path / "work")


def test_a_line_has_what_the_vertex_job_s_lines_had(whole):
    first, *others = [json.loads(line) for line in whole.splitlines()]
    assert [row["prompt"][0]["content"].partition(".")[0] for row in others] == [
        f"Create {number}" for number in range(1, PROMPTS)
    ]
    assert first["inputs"] == {"inputs_pretokenized": "Create 0."}
    assert isinstance(first["prediction"], str)


def test_the_likeliest_tokens_do_not_depend_on_the_seed_and_samples_do(tiny_model, prompts, tmp_path, whole):
    greedy = [infer(tiny_model, prompts, tmp_path / "out", temperature=0.0, seed=seed) for seed in (0, 1)]
    assert greedy[0] == greedy[1]
    assert infer(tiny_model, prompts, tmp_path / "out") == whole
    assert infer(tiny_model, prompts, tmp_path / "out", seed=1) != whole


def test_a_killed_run_goes_on_and_ends_with_the_same_file(
    tiny_model, prompts, whole, work, tmp_path, capsys, monkeypatch
):
    calls = []
    generate = inference.generate_answers
    monkeypatch.setattr(inference, "generate_answers", lambda *a, **k: calls.append(1) or generate(*a, **k))
    # The tuned model of a run stands in another folder each time. And what was cut off is answered again.
    (kept,) = work.iterdir()
    (kept / "000001.json").write_text("[{")
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    assert infer(moved, prompts, tmp_path / "again", work_dir=str(work)) == whole
    assert len(calls) == PROMPTS // 4 - 2
    assert "8 of 40 answers are there already" in capsys.readouterr().out
    assert not list(work.iterdir())


def test_answers_of_other_settings_or_prompts_are_not_taken(tiny_model, prompts, work, tmp_path, monkeypatch):
    begun = []

    def begin(model, text_format, conversations, **settings):
        begun.append(conversations)
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "generate_answers", begin)
    changed = tmp_path / "changed.jsonl"
    changed.write_text(prompts.read_text().replace("Create 1.", "Create one."))
    other_work = tmp_path / "other"
    for file, change, folder in (
        (prompts, {"seed": 1}, work),
        (prompts, {"temperature": 0.5}, work),
        (prompts, {"target_sequence_length": 5}, work),
        (prompts, {}, other_work),
        (changed, {}, work),
        (changed, {}, other_work),
        (prompts, {}, work),
    ):
        with pytest.raises(KeyboardInterrupt):
            infer(tiny_model, file, tmp_path / "out", work_dir=str(folder), **change)
    assert begun[0] == begun[1] == begun[2] == begun[3]
    assert begun[4] == begun[5]
    assert begun[6] != begun[0]
    assert len(list(work.iterdir())) == 1


def test_another_model_s_answers_may_be_the_prompts(tiny_model, prompts, whole, tmp_path):
    said = [{**json.loads(line), "prediction": "another's", "tokens": 0} for line in whole.splitlines()]
    (tmp_path / "answers").write_text("".join(json.dumps(row) + "\n" for row in said))
    infer(tiny_model, tmp_path / "answers", tmp_path / "out")
    assert (tmp_path / "out").read_text(encoding="utf-8") == whole
