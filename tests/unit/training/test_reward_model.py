import itertools
import json
import random

import pytest
import torch

from rlhf_tuning.data.importer import read_canonical
from rlhf_tuning.errors import ModelError, ParameterError
from rlhf_tuning.evaluation.judges import JudgeSettings, load_judge
from rlhf_tuning.evaluation.judges.verdict import Comparison
from rlhf_tuning.ops import packing
from rlhf_tuning.training import reward_model

GOOD, BAD = "A Tranquil Oasis of Natural Beauty.", "Enjoy some fun in the sun at Gulf Shores."


def preference(number, rng):
    """Good answers are preferred whatever their length."""
    good, bad = GOOD, BAD
    if rng.random() < 0.5:
        good += " The harbour smells of salt."
    return {"prompt": [{"role": "user", "content": f"Create {number}."}], "chosen": good, "rejected": bad}


@pytest.fixture(scope="module")
def preferences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preferences")
    rng = random.Random(0)
    for name, count in (("train", 64), ("eval", 24)):
        with (folder / f"{name}.jsonl").open("w") as stream:
            stream.writelines(json.dumps(preference(number, rng)) + "\n" for number in range(count))
    return folder


def train(preferences, tiny_model, folder, **settings):
    config = reward_model.RewardModelConfig(
        large_model_reference=str(tiny_model),
        **{
            "reward_model_train_steps": 30,
            "reward_model_learning_rate_multiplier": 50.0,
            "batch_size": 8,
            "prompt_sequence_length": 64,
            "target_sequence_length": 64,
            "dtype": "float32",
            "centring_prompts": 8,
        }
        | settings,
    )
    return reward_model.train_reward_model(
        config,
        preferences_path=str(preferences / "train.jsonl"),
        eval_preferences_path=str(preferences / "eval.jsonl"),
        output_dir=str(folder / "reward_model"),
        tensorboard_dir=str(folder / "tensorboard"),
    )


@pytest.fixture(scope="module")
def trained(preferences, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(preferences, tiny_model, folder)


def test_learns_what_people_prefer(trained):
    folder, evaluation = trained
    metrics = [json.loads(line) for line in (folder / "reward_model" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics] == list(range(1, 31))
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    assert evaluation["accuracy"] > 0.9
    assert evaluation["accuracy_low"] < evaluation["accuracy"] <= evaluation["accuracy_high"]
    assert evaluation["n"] == 24


def test_reports_the_baseline_that_only_looks_at_length(trained, preferences, tiny_model):
    _, evaluation = trained
    text_format = reward_model.saved_text_format(str(trained[0] / "reward_model"))
    rows = list(read_canonical(preferences / "eval.jsonl"))
    longer = [len(text_format.answer_ids(row["chosen"])) > len(text_format.answer_ids(row["rejected"])) for row in rows]
    assert evaluation["longer_wins_accuracy"] == pytest.approx(sum(longer) / len(longer))
    assert evaluation["shorter_preferred_n"] == len(longer) - sum(longer)


@pytest.mark.parametrize("name", ["by_margin", "by_length_difference"])
def test_sorts_the_agreement_into_bins_that_hold_every_preference_once(trained, name):
    _, evaluation = trained
    bins = evaluation[name]
    assert sum(part["n"] for part in bins) == evaluation["n"]
    assert sum(part["correct"] for part in bins) == pytest.approx(evaluation["accuracy"] * evaluation["n"])
    assert all(before["high"] < after["low"] for before, after in itertools.pairwise(bins))
    assert all(0.5 <= part["predicted"] <= 1 for part in evaluation["by_margin"])


def test_bins_are_about_equal_and_equal_values_share_one():
    assert [len(part) for part in reward_model._equal_bins(list(range(24)))] == [4] * 6
    assert reward_model._equal_bins([1.0] * 10) == [list(range(10))]
    assert reward_model._equal_bins([]) == []
    assert [len(part) for part in reward_model._equal_bins([0, 0, 0, 0, 0, 0, 1])] == [6, 1]


def test_a_model_that_cannot_share_prompts_learns_all_the_same(preferences, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing, "packing_is_exact", lambda trunk, sequences: False)
    assert train(preferences, tiny_model, tmp_path)["accuracy"] > 0.9
    assert "cannot share a prompt between two answers" in capsys.readouterr().out


def test_a_reloaded_reward_model_gives_the_same_scores(trained, preferences):
    folder, evaluation = trained
    again = reward_model.load_reward_model(str(folder / "reward_model"), dtype="float32")
    measured = reward_model.evaluate_reward_model(again, list(read_canonical(preferences / "eval.jsonl")))
    assert measured["mean_margin"] == pytest.approx(evaluation["mean_margin"], abs=1e-5)


def test_scores_do_not_depend_on_padding_or_batch(trained, two_lanes):
    model = reward_model.load_reward_model(str(trained[0] / "reward_model"), dtype="float32")
    prompts = [[{"role": "user", "content": "Create 1."}], [{"role": "user", "content": "Create a description. " * 5}]]
    together = model.score(prompts, [GOOD, BAD])
    assert len(two_lanes) == 2
    alone = model.score(prompts[:1], [GOOD]) + model.score(prompts[1:], [BAD])
    assert together == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("packs", [True, False])
def test_answers_to_one_prompt_score_as_each_does_alone(packs, trained, monkeypatch):
    model = reward_model.load_reward_model(str(trained[0] / "reward_model"), dtype="float32")
    short, long = ([{"role": "user", "content": text}] for text in ("Create 1.", "Create a description. " * 5))
    prompts = [short, long, short, short, long, short, short]
    answers = [GOOD, BAD, BAD, GOOD + BAD, GOOD, "", BAD + GOOD]
    alone = [model.score([prompt], [answer])[0] for prompt, answer in zip(prompts, answers, strict=True)]
    if not packs:
        monkeypatch.setattr(packing, "window", lambda trunk: 3)
    packed = []
    monkeypatch.setattr(
        packing, "last_hidden", lambda *given, plain=packing.last_hidden: packed.append(1) or plain(*given)
    )
    done = []
    assert model.score(prompts, answers, batch_size=3, on_progress=done.append) == pytest.approx(alone, abs=1e-4)
    assert done == sorted(done)
    assert done[-1] == 7
    assert bool(packed) == packs


def test_the_judge_scores_only_what_the_reward_model_was_not_measured_on(trained, preferences, monkeypatch):
    directory = str(trained[0] / "reward_model")
    rows = list(read_canonical(preferences / "eval.jsonl"))
    choices = [Comparison(row["prompt"], row["rejected"], row["chosen"]) for row in rows]
    new = Comparison(rows[0]["prompt"], GOOD, "Something that nobody has said.")
    scored = []
    plain = reward_model.RewardModel.score
    monkeypatch.setattr(
        reward_model.RewardModel,
        "score",
        lambda self, prompts, answers, **rest: scored.extend(answers) or plain(self, prompts, answers, **rest),
    )
    judge = load_judge("reward_model", JudgeSettings(reward_model_dir=directory, dtype="float32"))
    verdicts = judge.compare([*choices, new, new])
    assert set(scored) <= {GOOD, "Something that nobody has said."}
    assert len(scored) == len(set(scored))
    again = reward_model.load_reward_model(directory, dtype="float32")
    expected = plain(again, [new.prompt] * 2, [new.first, new.second])
    assert verdicts[-1].scores == verdicts[-2].scores == pytest.approx(expected, abs=1e-4)
    for verdict, row in zip(verdicts, rows, strict=False):
        assert verdict.scores == pytest.approx(
            plain(again, [row["prompt"]] * 2, [row["rejected"], row["chosen"]]), abs=1e-4
        )
    scored.clear()
    judge.compare(choices)
    assert not scored


def test_the_mean_answer_of_the_base_model_scores_zero(trained, tiny_model):
    from rlhf_tuning.generation import generate
    from rlhf_tuning.models import base_model

    folder, _ = trained
    model = reward_model.load_reward_model(str(folder / "reward_model"), dtype="float32")
    prompts = [[{"role": "user", "content": f"Create {number}."}] for number in range(64)]
    base = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    answers = generate.generate_answers(base, model.text_format, prompts, temperature=1.0, batch_size=32, seed=5)
    scores = torch.tensor(model.score(prompts, [answer.text for answer in answers]))
    uncentred = scores + model.offset
    assert abs(scores.mean()) < max(3 * scores.std() / 8, 0.05)
    assert abs(scores.mean()) < abs(uncentred.mean()) or abs(uncentred.mean()) < 0.05


def test_a_shared_trunk_scores_like_the_reward_model_alone(trained, tiny_model):
    from peft import LoraConfig, get_peft_model

    from rlhf_tuning.models import base_model

    directory = str(trained[0] / "reward_model")
    base = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    policy = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    trainable = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    prompt = [[{"role": "user", "content": "Create 1."}]] * 2
    with policy.disable_adapter():
        before = policy(torch.tensor([[5, 6, 7]])).logits
    shared = reward_model.share_trunk(policy, directory)
    alone = reward_model.load_reward_model(directory, dtype="float32")
    assert shared.score(prompt, [GOOD, BAD]) == pytest.approx(alone.score(prompt, [GOOD, BAD]), abs=1e-5)
    assert [name for name, parameter in policy.named_parameters() if parameter.requires_grad] == trainable
    with policy.disable_adapter():
        assert torch.equal(policy(torch.tensor([[5, 6, 7]])).logits, before)


def test_full_fine_tuning_learns_and_reloads(preferences, tiny_model, tmp_path):
    evaluation = train(
        preferences, tiny_model, tmp_path, reward_lora_dim=0, reward_model_learning_rate_multiplier=300.0
    )
    assert evaluation["accuracy"] > 0.9
    again = reward_model.load_reward_model(str(tmp_path / "reward_model"), dtype="float32")
    measured = reward_model.evaluate_reward_model(again, list(read_canonical(preferences / "eval.jsonl")))
    assert measured["mean_margin"] == pytest.approx(evaluation["mean_margin"], abs=1e-5)


def test_writes_tensorboard_events_under_the_tags_of_the_vertex_job(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0] / "tensorboard"))
    events.Reload()
    assert {"rank_loss", "loss", "accuracy", "mean_reward"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("rank_loss")) == 30


@pytest.mark.parametrize(
    ("name", "value"), [("reward_model_train_steps", 0), ("target_sequence_length", 1025), ("reward_lora_dim", -1)]
)
def test_rejects_settings_beyond_their_limits(name, value):
    with pytest.raises(ParameterError, match=name):
        reward_model.RewardModelConfig(large_model_reference="x", **{name: value})


def test_a_folder_that_holds_no_reward_model_is_named(tmp_path):
    with pytest.raises(ModelError, match="holds no reward model"):
        reward_model.load_reward_model(str(tmp_path))


def test_the_roc_curve_goes_from_nothing_to_everything_and_its_area_tells_a_good_model_from_chance():
    def area(curve):
        points = [(0.0, 0.0), *zip(curve["fpr"], curve["tpr"], strict=True)]
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))

    good = reward_model.roc_curve([0.1 * number for number in range(-10, 90)])
    assert (good["fpr"][-1], good["tpr"][-1]) == (1, 1)
    assert good["threshold"] == sorted(good["threshold"], reverse=True)
    assert len(good["fpr"]) <= 51
    assert area(good) > 0.9
    assert area(reward_model.roc_curve([-1.0, 1.0] * 20)) == pytest.approx(0.5)
    assert reward_model.roc_curve([]) == {"fpr": [], "tpr": [], "threshold": []}


def test_bins_go_on_after_many_equal_values():
    values = [-3.0, -2.0, *[0.0] * 20, 1.0, 2.0, 3.0, 4.0]
    bins = reward_model._equal_bins(values)
    assert sorted(index for members in bins for index in members) == list(range(len(values)))
    assert [{values[index] for index in members} for members in bins][-1] == {1.0, 2.0, 3.0, 4.0}
    assert len(bins) == 2
