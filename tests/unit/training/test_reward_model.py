import json

import pytest
import torch
from tiny_reward_model import train

from rlhf_tuning.data.importer import read_canonical
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.evaluation.reward_model_accuracy import evaluate_reward_model
from rlhf_tuning.models.reward_model import load_reward_model
from rlhf_tuning.ops import packing
from rlhf_tuning.training import reward_model


def test_learns_what_people_prefer(trained):
    folder, evaluation = trained
    metrics = [json.loads(line) for line in (folder / "reward_model" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics] == list(range(1, 31))
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    assert evaluation["accuracy"] > 0.9
    assert evaluation["accuracy_low"] < evaluation["accuracy"] <= evaluation["accuracy_high"]
    assert evaluation["n"] == 24


def test_a_model_that_cannot_share_prompts_learns_all_the_same(preferences, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing, "packing_is_exact", lambda trunk, sequences: False)
    assert train(preferences, tiny_model, tmp_path)["accuracy"] > 0.9
    assert "cannot share a prompt between two answers" in capsys.readouterr().out


def test_a_reloaded_reward_model_gives_the_same_scores(trained, preferences):
    folder, evaluation = trained
    again = load_reward_model(str(folder / "reward_model"), dtype="float32")
    measured = evaluate_reward_model(again, list(read_canonical(preferences / "eval.jsonl")))
    assert measured["mean_margin"] == pytest.approx(evaluation["mean_margin"], abs=1e-5)


def test_the_mean_answer_of_the_base_model_scores_zero(trained, tiny_model):
    from rlhf_tuning.generation import generate
    from rlhf_tuning.models import base_model

    folder, _ = trained
    model = load_reward_model(str(folder / "reward_model"), dtype="float32")
    prompts = [[{"role": "user", "content": f"Create {number}."}] for number in range(64)]
    base = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    answers = generate.generate_answers(base, model.text_format, prompts, temperature=1.0, batch_size=32, seed=5)
    scores = torch.tensor(model.score(prompts, [answer.text for answer in answers]))
    uncentred = scores + model.offset
    assert abs(scores.mean()) < max(3 * scores.std() / 8, 0.05)
    assert abs(scores.mean()) < abs(uncentred.mean()) or abs(uncentred.mean()) < 0.05


def test_full_fine_tuning_learns_and_reloads(preferences, tiny_model, tmp_path):
    evaluation = train(
        preferences, tiny_model, tmp_path, reward_lora_dim=0, reward_model_learning_rate_multiplier=300.0
    )
    assert evaluation["accuracy"] > 0.9
    again = load_reward_model(str(tmp_path / "reward_model"), dtype="float32")
    measured = evaluate_reward_model(again, list(read_canonical(preferences / "eval.jsonl")))
    assert measured["mean_margin"] == pytest.approx(evaluation["mean_margin"], abs=1e-5)


def test_writes_tensorboard_events_under_the_tags_of_the_vertex_job(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0] / "tensorboard"))
    events.Reload()
    assert {"rank_loss", "loss", "accuracy", "mean_reward"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("rank_loss")) == 30


def test_a_training_that_diverges_ends_at_once_and_saves_nothing(preferences, tiny_model, tmp_path):
    with pytest.raises(ParameterError, match=r"at step \d of reward model is nan: the training has diverged"):
        train(preferences, tiny_model, tmp_path, reward_model_learning_rate_multiplier=1e30)
    assert not (tmp_path / "reward_model" / "reward_model.json").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("reward_model_train_steps", 0), ("target_sequence_length", 1025), ("reward_lora_dim", -1)]
)
def test_rejects_settings_beyond_their_limits(name, value):
    with pytest.raises(ParameterError, match=name):
        reward_model.RewardModelConfig(large_model_reference="x", **{name: value})
