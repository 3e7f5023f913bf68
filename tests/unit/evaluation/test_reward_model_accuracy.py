import itertools
from types import SimpleNamespace

import pytest

from rlhf_tuning.data.importer import read_canonical
from rlhf_tuning.evaluation import reward_model_accuracy
from rlhf_tuning.models.reward_model import saved_text_format


def test_reports_the_baseline_that_only_looks_at_length(trained, preferences):
    _, evaluation = trained
    text_format = saved_text_format(str(trained[0] / "reward_model"))
    rows = list(read_canonical(preferences / "eval.jsonl"))
    longer = [len(text_format.answer_ids(row["chosen"])) > len(text_format.answer_ids(row["rejected"])) for row in rows]
    assert evaluation["longer_wins_accuracy"] == pytest.approx(sum(longer) / len(longer))
    assert evaluation["shorter_preferred_n"] == len(longer) - sum(longer)


def test_the_accuracy_is_clustered_by_prompt():
    class Alike(SimpleNamespace):
        """Right about all answers to an even prompt, wrong about all others."""

        def score(self, prompts, answers, on_progress):
            signs = [1 if int(prompt[-1]["content"]) % 2 == 0 else -1 for prompt in prompts]
            return [sign * (answer != "bad") for sign, answer in zip(signs, answers, strict=True)]

    model = Alike(scale=1.0, text_format=SimpleNamespace(answer_ids=list))
    rows = [
        {"prompt": [{"role": "user", "content": str(row // 10)}], "chosen": f"good {row}", "rejected": "bad"}
        for row in range(100)
    ]
    together = reward_model_accuracy.evaluate_reward_model(model, rows)
    alone = [row | {"prompt": [{"role": "user", "content": str(index)}]} for index, row in enumerate(rows)]
    apart = reward_model_accuracy.evaluate_reward_model(model, alone)
    assert together["accuracy"] == apart["accuracy"] == 0.5
    assert together["accuracy_low"] == pytest.approx(0.12, abs=0.02)
    assert apart["accuracy_low"] == pytest.approx(0.40, abs=0.01)
    for one, other in zip(together["by_length_difference"], apart["by_length_difference"], strict=True):
        assert one["share"] == other["share"]
        assert one["share_low"] < other["share_low"]


def test_of_feedback_alone_liked_answers_are_held_against_the_others():
    class Short(SimpleNamespace):
        """Likes what is short."""

        def score(self, prompts, answers, on_progress):
            return [-float(len(answer)) for answer in answers]

    model = Short(scale=1.0, text_format=SimpleNamespace(answer_ids=list))
    ratings = [(1, "bad answer"), (2, "no"), (3, "so so"), (4, "good"), (5, "ok")]
    rows = [
        {"prompt": [{"role": "user", "content": str(number)}], "answer": answer, "rating": rating}
        for number in range(8)
        for rating, answer in ratings
    ]
    found = reward_model_accuracy.evaluate_reward_model(model, rows)
    # Of each of 4 and 5 against each of 1 and 2: "no" is as short as "ok", and shorter than "good".
    assert found["feedback_auc"] == found["accuracy"] == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert (found["feedback_n"], found["n"], found["shorter_preferred_n"]) == (32, 32, 0)
    assert found["longer_wins_accuracy"] == pytest.approx(1 - 2.5 / 4)
    assert found["accuracy_low"] < 0.6 < found["accuracy_high"]
    said = reward_model_accuracy.told(found)
    assert said.startswith("puts a liked answer before another in 62.5% [")
    assert "preferences" not in said
    # Above the middle of the scale all were liked, as far as they are held out.
    upper = [row for row in rows if row["rating"] > 3]
    evaluated = reward_model_accuracy.evaluate_reward_model(model, upper, learnt_from=rows)
    assert "feedback_auc" not in evaluated
    alike = [row | {"rating": 3} for row in rows]
    assert "too little is held out" in reward_model_accuracy.told(
        reward_model_accuracy.evaluate_reward_model(model, alike)
    )


@pytest.mark.parametrize("name", ["by_margin", "by_length_difference"])
def test_sorts_the_agreement_into_bins_that_hold_every_preference_once(trained, name):
    _, evaluation = trained
    bins = evaluation[name]
    assert sum(part["n"] for part in bins) == evaluation["n"]
    assert sum(part["share"] * part["n"] for part in bins) == pytest.approx(evaluation["accuracy"] * evaluation["n"])
    assert all(before["high"] < after["low"] for before, after in itertools.pairwise(bins))
    assert all(0.5 <= part["predicted"] <= 1 for part in evaluation["by_margin"])


def test_bins_are_about_equal_and_equal_values_share_one():
    assert [len(part) for part in reward_model_accuracy._equal_bins(list(range(24)))] == [4] * 6
    assert reward_model_accuracy._equal_bins([1.0] * 10) == [list(range(10))]
    assert reward_model_accuracy._equal_bins([]) == []
    assert [len(part) for part in reward_model_accuracy._equal_bins([0, 0, 0, 0, 0, 0, 1])] == [6, 1]


def test_bins_go_on_after_many_equal_values():
    values = [-3.0, -2.0, *[0.0] * 20, 1.0, 2.0, 3.0, 4.0]
    bins = reward_model_accuracy._equal_bins(values)
    assert sorted(index for members in bins for index in members) == list(range(len(values)))
    assert [{values[index] for index in members} for members in bins][-1] == {1.0, 2.0, 3.0, 4.0}
    assert len(bins) == 2


def roc_of_margins(margins):
    return reward_model_accuracy.roc_curve(margins, [-margin for margin in margins])


def test_the_roc_curve_goes_from_nothing_to_everything_and_its_area_tells_a_good_model_from_chance():
    def area(curve):
        points = [(0.0, 0.0), *zip(curve["fpr"], curve["tpr"], strict=True)]
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))

    good = roc_of_margins([0.1 * number for number in range(-10, 90)])
    assert (good["fpr"][-1], good["tpr"][-1]) == (1, 1)
    assert good["threshold"] == sorted(good["threshold"], reverse=True)
    assert len(good["fpr"]) <= 51
    assert area(good) > 0.9
    assert area(roc_of_margins([-1.0, 1.0] * 20)) == pytest.approx(0.5)
    assert roc_of_margins([]) == {"fpr": [], "tpr": [], "threshold": []}
