import json
import math
import random

import pytest
from tiny_reward_model import BAD, GOOD, train

from rlhf_tuning.models.reward_model import load_reward_model
from rlhf_tuning.training import validation
from rlhf_tuning.training.validation import EarlyStop, ValidationLook, set_aside


def stop_after(losses):
    """The number of looks until the training is over, and the look that is kept; None where it never is."""
    early_stop = EarlyStop()
    for number, loss in enumerate(losses, 1):
        early_stop.add(ValidationLook(step=number, loss=loss, accuracy=0.5))
        if early_stop.over:
            return number, early_stop.best.step
    return None, early_stop.best.step


def test_the_training_is_over_once_an_epoch_has_not_lowered_the_loss():
    assert stop_after([0.7, 0.6, 0.65, 0.64, 0.63, 0.62, 0.1]) == (6, 2)
    assert stop_after([0.7, 0.6, 0.65, 0.64, 0.63, 0.59, 0.6, 0.6, 0.6, 0.6]) == (10, 6)
    assert stop_after([0.7 - 0.01 * number for number in range(30)]) == (None, 30)
    assert stop_after([0.69] * 9) == (5, 1)


def preferences(count, of_a_prompt=1):
    return [
        {"prompt": [{"role": "user", "content": str(number // of_a_prompt)}], "chosen": f"{number}", "rejected": "no"}
        for number in range(count)
    ]


@pytest.mark.parametrize(("count", "expected"), [(199, 0), (200, 20), (1000, 100), (9000, 250)])
def test_a_tenth_of_the_preferences_is_set_aside_where_that_is_enough_to_measure_by(count, expected):
    rows = preferences(count)
    learnt, validated = set_aside(rows, seed=0)
    assert len(validated) == expected
    assert sorted(map(str, learnt + validated)) == sorted(map(str, rows))
    assert set_aside(rows, seed=0) == (learnt, validated)
    assert not expected or set_aside(rows, seed=1)[1] != validated


def test_all_preferences_of_a_prompt_are_on_one_side():
    learnt, validated = set_aside(preferences(600, of_a_prompt=7), seed=0)
    prompts = [{json.dumps(row["prompt"]) for row in side} for side in (learnt, validated)]
    assert not prompts[0] & prompts[1]
    assert 54 <= len(validated) <= 60


def test_the_loss_is_that_of_the_training():
    for margin in (-30.0, -1.0, 0.0, 2.5):
        assert validation._loss(margin) == pytest.approx(math.log(1 + math.exp(-margin)))
    assert validation._loss(-1000.0) == 1000.0


@pytest.mark.parametrize("dim", [16, 0])
def test_a_reward_model_that_learns_by_heart_is_stopped_and_its_best_checkpoint_returned(
    preferences, tiny_model, tmp_path, monkeypatch, dim
):
    """Labels are drawn by lot, so that only memorising lowers the loss of the training."""
    monkeypatch.setattr(validation, "validation_rows", lambda preferences: 16)
    rng = random.Random(0)
    rows = [
        {"prompt": [{"role": "user", "content": f"Create {number}."}]}
        | dict(zip(("chosen", "rejected"), rng.sample([GOOD, BAD], 2), strict=True))
        for number in range(64)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "eval.jsonl").write_text((preferences / "eval.jsonl").read_text())
    settings = {"reward_model_train_steps": 200, "reward_model_max_epochs": 0.0, "reward_lora_dim": dim}
    rate = 50.0 if dim else 300.0
    evaluation = train(tmp_path, tiny_model, tmp_path, reward_model_learning_rate_multiplier=rate, **settings)
    folder = tmp_path / "reward_model"
    kept = json.loads((folder / "validation.json").read_text())
    steps = [look["step"] for look in kept["looks"]]
    assert steps == list(range(2, kept["last_step"] + 1, 2))  # every quarter of six steps
    assert kept["stopped"]
    assert kept["best_step"] == evaluation["steps"] == steps[-5]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == kept["last_step"] < 200
    best = min(kept["looks"], key=lambda look: look["loss"])
    model = load_reward_model(str(folder), dtype="float32")
    validated = set_aside(rows, seed=0)[1]
    scores = [model.score([row["prompt"]] * 2, [row["chosen"], row["rejected"]]) for row in validated]
    losses = [validation._loss(model.scale * (chosen - rejected)) for chosen, rejected in scores]
    assert sum(losses) / 16 == pytest.approx(best["loss"], rel=1e-4)
