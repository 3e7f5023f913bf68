import json
import random
import shutil
from functools import partial

import pytest
import torch
from safetensors import safe_open
from tiny_reward_model import BAD, GOOD, train

from rlhf_tuning.data import held_out
from rlhf_tuning.data.importer import read_canonical, sample_canonical
from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import DataError, ModelError, ParameterError
from rlhf_tuning.evaluation.reward_model_accuracy import evaluate_reward_model
from rlhf_tuning.models.reward_model import RewardModel, load_reward_model
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.ops import packing
from rlhf_tuning.training import reward_model
from rlhf_tuning.training.held_out_loss import pair_loss


def test_learns_what_people_prefer(trained):
    folder, evaluation = trained
    metrics = [json.loads(line) for line in (folder / "reward_model" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics] == list(range(1, 31))
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    assert evaluation["accuracy"] > 0.9
    assert evaluation["accuracy_low"] < evaluation["accuracy"] <= evaluation["accuracy_high"]
    assert evaluation["n"] == 24


def test_a_model_that_cannot_share_prompts_learns_all_the_same(preferences, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing, "attends_alone", lambda trunk: False)
    assert train(preferences, tiny_model, tmp_path)["accuracy"] > 0.9
    assert "cannot share a prompt between two answers" in capsys.readouterr().out


def test_where_memory_runs_out_it_learns_the_same_by_half_as_many_rows_at_a_time(
    trained, preferences, tiny_model, tmp_path, monkeypatch, full_gpu, capsys
):
    monkeypatch.setattr(reward_model, "train_reward_model", partial(processes.run, reward_model.train_reward_model))
    found = train(preferences, tiny_model, tmp_path)
    assert "memory has run out. Once more from the beginning, with half as much at a time" in capsys.readouterr().out
    assert full_gpu == [8] * 3 + [4] * 60
    for name in ("mean_margin", "final_loss", "scale"):
        assert found[name] == pytest.approx(trained[1][name], rel=1e-4)


def test_a_reloaded_reward_model_gives_the_same_scores(trained, preferences):
    folder, evaluation = trained
    again = load_reward_model(str(folder / "reward_model"), dtype="float32")
    measured = evaluate_reward_model(again, list(read_canonical(preferences / "eval.jsonl")))
    assert measured["mean_margin"] == pytest.approx(evaluation["mean_margin"], abs=1e-5)


def test_the_answers_of_the_base_model_score_zero_on_average_and_spread_by_one_within_a_prompt(
    trained, preferences, tiny_model
):
    from rlhf_tuning.generation import generate
    from rlhf_tuning.models import base_model

    model = load_reward_model(str(trained[0] / "reward_model"), dtype="float32")
    prompts = [row["prompt"] for row in sample_canonical(preferences / "train.jsonl", most=64, seed=0)]
    chosen = random.Random(0).sample(prompts, k=8)
    base = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    asked = [prompt for prompt in chosen for _ in range(2)]
    answers = generate.generate_answers(base, model.text_format, asked, temperature=1.0, batch_size=64, seed=0)
    scores = torch.tensor(model.score(asked, [answer.text for answer in answers]))
    assert abs(model.offset) > 0.1
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert scores.view(8, 2).var(dim=1).mean().item() == pytest.approx(1.0, abs=1e-3)


def test_a_reward_model_saved_before_scores_were_scaled_still_loads(trained, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(trained[0] / "reward_model", folder)
    new, file = load_reward_model(str(folder), dtype="float32"), folder / "reward_model.json"
    metadata = json.loads(file.read_text())
    del metadata["scale"]
    file.write_text(json.dumps(metadata))
    old = load_reward_model(str(folder), dtype="float32")
    prompts, answers = [[{"role": "user", "content": "Create 3."}]] * 2, ["Salt.", "Gulls call all day."]
    expected = [new.scale * score for score in new.score(prompts, answers)]
    assert new.scale != 1.0
    assert old.score(prompts, answers) == pytest.approx(expected, rel=1e-4)


def test_a_reward_model_that_scores_everything_alike_is_refused(preferences, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(RewardModel, "score", lambda self, prompts, answers, **options: [0.5] * len(answers))
    with pytest.raises(ModelError, match="one and the same score, to each of 8 prompts: nothing can be learnt"):
        train(preferences, tiny_model, tmp_path, reward_model_train_steps=1)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, 38),
        ({"reward_model_max_epochs": 0.5}, 10),
        ({"reward_model_max_epochs": 0.0}, 1000),
        ({"reward_model_train_steps": 20}, 20),
        ({"held_out": True, "held_out_reward_model_share": 0.25, "reward_model_train_steps": 60}, 20),
    ],
)
def test_steps_end_where_each_preference_was_seen_often_enough(settings, steps):
    assert reward_model.RewardModelConfig(large_model_reference="x", **settings).steps(1215) == steps


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


@pytest.mark.parametrize("dim", [16, 0])
def test_a_reward_model_that_learns_by_heart_is_stopped_and_its_best_checkpoint_returned(
    preferences, tiny_model, tmp_path, monkeypatch, dim
):
    """Labels are drawn by lot, so that only memorising lowers the loss of the training."""
    monkeypatch.setattr(held_out, "validation_rows", lambda preferences: 16)
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
    kept = json.loads((folder / "held_out_loss.json").read_text())
    steps = [look["step"] for look in kept["looks"]]
    assert steps == list(range(2, kept["last_step"] + 1, 2))  # every quarter of six steps
    assert kept["stopped"]
    assert kept["best_step"] == evaluation["steps"] == steps[-5]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == kept["last_step"] < 200
    best = min(kept["looks"], key=lambda look: look["loss"]["mean"])
    model = load_reward_model(str(folder), dtype="float32")
    validated = held_out.set_aside(rows, seed=0)[1]
    scores = [model.score([row["prompt"]] * 2, [row["chosen"], row["rejected"]]) for row in validated]
    losses = [pair_loss(model.scale * (chosen - rejected)) for chosen, rejected in scores]
    assert sum(losses) / 16 == pytest.approx(best["loss"]["mean"], rel=1e-4)


def test_a_preference_whose_difference_is_cut_off_is_not_learnt_from(tiny_model, capsys):
    text_format = TextFormat(load_tokenizer(str(tiny_model)), prompt_sequence_length=32, target_sequence_length=4)
    long = "gulls and salt and gulls and salt"
    pairs = [("gulls", "salt"), ("gulls", long), (long, f"{long} salt"), (long, f"salt {long}")]
    rows = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
    assert reward_model._differing(rows, text_format) == [rows[0], rows[1], rows[3]]
    assert "1 of 4 preferences are left out: target_sequence_length 4 leaves the same" in capsys.readouterr().out
    with pytest.raises(DataError, match="target_sequence_length 4 leaves the same of both answers of all 1"):
        reward_model._differing(rows[2:3], text_format)


def judged(count: int, kind: str, first: int = 0) -> list[dict[str, object]]:
    """Feedback on one answer to each prompt: thumbs, or stars of which the middle is a mixture."""
    rows = []
    for number in range(first, first + count):
        good = number % 2 > 0
        row = {"prompt": [{"role": "user", "content": f"Create {number}."}], "answer": GOOD if good else BAD}
        stars = (4, 5, 3)[number % 3] if good else (1, 2, 3)[number % 3]
        rows.append(row | ({"label": good} if kind == "thumbs" else {"rating": float(stars)}))
    return rows


@pytest.mark.parametrize("kind", ["thumbs", "stars", "thumbs beside pairs"])
def test_learns_from_single_answers(preferences, tiny_model, tmp_path, kind, monkeypatch, capsys):
    monkeypatch.setattr(held_out, "validation_rows", lambda rows: 12)
    for name, count, first in (("train", 60, 0), ("eval", 40, 100)):
        rows = judged(count, kind.split()[0], first)
        if "pairs" in kind:
            rows += [json.loads(line) for line in (preferences / f"{name}.jsonl").read_text().splitlines()]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = train(tmp_path, tiny_model, tmp_path)
    assert evaluation["feedback_auc"] > 0.9
    assert evaluation["feedback_auc_low"] > 0.5
    assert evaluation["feedback_n"] == (40 if "thumbs" in kind else 27)  # without three stars
    assert evaluation["accuracy"] == (evaluation["feedback_auc"] if "pairs" not in kind else pytest.approx(1, abs=0.1))
    looks = json.loads((tmp_path / "reward_model" / "held_out_loss.json").read_text())["looks"]
    assert looks[-1]["loss"]["mean"] < looks[0]["loss"]["mean"]
    said = capsys.readouterr().out
    assert ("puts a liked answer before another in" in said, "held-out preferences" in said) == (True, "pairs" in kind)
    again = load_reward_model(str(tmp_path / "reward_model"), dtype="float32")
    measured = evaluate_reward_model(again, list(read_canonical(tmp_path / "eval.jsonl")))
    assert measured["mean_margin"] == pytest.approx(evaluation["mean_margin"], abs=1e-5)


def test_all_weights_learn_from_single_answers_and_nothing_more_is_saved(tiny_model, tmp_path):
    for name, first in (("train", 0), ("eval", 100)):
        rows = judged(60, "stars", first)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"reward_lora_dim": 0, "reward_model_learning_rate_multiplier": 300.0}
    assert train(tmp_path, tiny_model, tmp_path, **settings)["feedback_auc"] > 0.9
    with safe_open(tmp_path / "reward_model" / "model.safetensors", "pt") as stored:
        assert not [name for name in stored.keys() if "cuts" in name]  # noqa: SIM118
