import pytest

from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.inference import InferenceConfig, read_predictions, write_predictions


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
