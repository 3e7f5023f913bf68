import json
import math
from functools import partial
from pathlib import Path

import pytest
from tiny_tuning import GOOD, nats_and_tokens, prompt, records, tune

from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import DataError
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.training import supervised


def demonstrations(count: int, first: int = 0) -> list[dict[str, object]]:
    return [
        {"prompt": prompt(number), "answer": f"{GOOD}{' Salt and gulls.' * (number % 3)}"}
        for number in range(first, first + count)
    ]


def train(
    model: Path, folder: Path, rows: list[dict[str, object]] | None = None, **settings: object
) -> dict[str, float]:
    """Tune a tiny model on a few demonstrations."""
    ours = {
        "train_steps": 12,
        "learning_rate_multiplier": 20.0,
        "evaluation_interval": 4,
        "lora_dim": 4,
        "batch_size": 6,
    }
    return tune(
        supervised.train_supervised,
        supervised.SupervisedConfig,
        folder,
        data="demonstrations",
        learnt=demonstrations(20) if rows is None else rows,
        held_out=demonstrations(9, first=50),
        large_model_reference=str(model),
        **ours | settings,
    )


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("tuned")
    return folder, train(tiny_model, folder)


def test_learns_to_answer_as_was_demonstrated(tuned):
    folder, found = tuned
    history = records(folder / "adapter" / "metrics.jsonl")
    assert [record["step"] for record in history] == list(range(1, 13))
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    assert found["held_out_loss_high"] < found["held_out_loss_before_low"]
    assert found["held_out_perplexity"] == pytest.approx(math.exp(found["held_out_loss"]))
    curve = json.loads((folder / "adapter" / "held_out_loss.json").read_text())
    assert [look["step"] for look in curve["looks"]] == [0, 4, 8, 12]
    assert (found["steps"], found["returned_step"]) == (12, 12)


def test_where_memory_runs_out_it_learns_the_same_by_half_as_many_rows_at_a_time(
    tuned, tiny_model, tmp_path, monkeypatch, full_gpu
):
    monkeypatch.setattr(supervised, "train_supervised", partial(processes.run, supervised.train_supervised))
    found = train(tiny_model, tmp_path)
    assert full_gpu == [6] * 3 + [3] * 24
    assert found == pytest.approx(tuned[1], rel=1e-4)


def test_the_saved_model_is_the_one_that_was_measured(tuned):
    folder, found = tuned
    assert held_out_loss_of(folder) == pytest.approx(found["held_out_loss"], abs=1e-4)
    settings = json.loads((folder / "adapter" / "tuning.json").read_text())
    assert (settings["train_steps"], settings["seed"]) == (12, 0)


def test_a_warm_start_begins_where_an_adapter_left_off(tuned, tiny_model, tmp_path):
    folder, found = tuned
    again = train(tiny_model, tmp_path, warm_start_adapter=str(folder / "adapter"), train_steps=1)
    assert again["held_out_loss_before"] == pytest.approx(found["held_out_loss"], rel=1e-4)


def held_out_loss_of(folder: Path) -> float:
    """Return the loss of a saved model a token."""
    nats, tokens = nats_and_tokens(folder / "model", records(folder / "held_out.jsonl"), "answer")
    return -nats / tokens


def test_all_weights_learn_and_the_best_checkpoint_is_saved(tiny_model, tmp_path):
    # Answers that begin as the held-out ones do and go on otherwise: with them learnt by heart, those become unlikely.
    rows = [{"prompt": row["prompt"], "answer": f"{GOOD} 0 1 2 3 4"} for row in demonstrations(6)]
    found = train(
        tiny_model, tmp_path, rows, lora_dim=0, learning_rate_multiplier=1000.0, evaluation_interval=4, train_steps=40
    )
    assert 0 < found["returned_step"] < found["steps"] < 40
    assert held_out_loss_of(tmp_path) == pytest.approx(found["held_out_loss"], abs=1e-4)
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()


def test_rows_begin_anew_until_all_steps_are_taken(tiny_model, tmp_path):
    found = train(tiny_model, tmp_path, demonstrations(4), train_steps=3, enable_early_stopping=False)
    assert found["steps"] == 3
    assert len(records(tmp_path / "adapter" / "metrics.jsonl")) == 3


def test_an_answer_that_is_cut_off_is_not_taught_to_end_there(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    text_format = TextFormat(tokenizer, prompt_sequence_length=32, target_sequence_length=3)
    assert text_format.learnt_ids("gulls gulls gulls gulls gulls")[-1] != tokenizer.eos_token_id
    assert len(text_format.learnt_ids("gulls gulls gulls gulls gulls")) == 3
    assert text_format.learnt_ids(" 0 ") == [*text_format.answer_ids("0")[:-1], tokenizer.eos_token_id]


def test_without_demonstrations_nothing_is_trained(tiny_model, tmp_path):
    with pytest.raises(DataError, match=r"learnt\.jsonl holds no demonstration"):
        train(tiny_model, tmp_path, [])
