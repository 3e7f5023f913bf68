import pytest
from tiny_reward_model import GOOD

from rlhf_tuning.data.importer import read_canonical
from rlhf_tuning.evaluation.judges import JudgeSettings, load_judge
from rlhf_tuning.evaluation.judges.verdict import Comparison
from rlhf_tuning.models import reward_model


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
