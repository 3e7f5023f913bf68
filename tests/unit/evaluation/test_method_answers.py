"""Who is asked what. What models answer, and the choice among samples, is in test_compare_methods, which is slow."""

import json
from collections import Counter
from pathlib import Path

import pytest

from rlhf_tuning.errors import DataError
from rlhf_tuning.evaluation import method_answers
from rlhf_tuning.evaluation.judges.verdict import Verdict
from rlhf_tuning.evaluation.method_answers import judge_methods, kl_to_base
from rlhf_tuning.evaluation.method_comparison import Contestant

METHODS = ("base", "supervised", "rlhf")
SEEDS = (3, 4)
PROMPTS = [[{"role": "user", "content": f"Describe place {number}."}] for number in range(12)]


class Judge:
    """Prefers the longer text, until it has been asked about so many pairs."""

    notes = ("some have no verdict",)
    most_human_choices = 5

    def __init__(self, name, label, cap=10_000, *, shown_both=False):
        self.name, self.label, self.cap, self.shown_both = name, label, cap, shown_both
        self.asked = []

    def compare(self, comparisons):
        self.asked += comparisons
        return [self._verdict(*each) if place < self.cap else None for place, each in enumerate(comparisons)]

    def _verdict(self, prompt, first, second):
        if self.shown_both:
            sign = (len(second) > len(first)) - (len(second) < len(first))
            return Verdict(orders=(sign, sign))
        return Verdict(scores=(float(len(first)), float(len(second))))


@pytest.fixture
def choices(tmp_path):
    rows = [{"prompt": prompt, "chosen": "a longer one", "rejected": "short"} for prompt in PROMPTS]
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "choices.jsonl")


def judged(choices, judges, reward_judges=None, *, last=PROMPTS):
    answers = {
        name: {
            seed: [
                {"prompt": prompt, "prediction": f"{name} {seed} {'x' * place * rank}", "tokens": 5, "ended": True}
                for place, prompt in enumerate(last if (name, seed) == ("rlhf", 4) else PROMPTS)
            ]
            for seed in SEEDS
        }
        for rank, name in enumerate(METHODS)
    }
    methods = [Contestant(name=name, label=name, answers={}) for name in METHODS]
    kl = {"rlhf": {seed: [0.5] * len(PROMPTS) for seed in SEEDS}}
    return judge_methods(
        methods, answers, judges=judges, reward_judges=reward_judges or {}, choices_path=choices, kl=kl
    )


def test_a_judge_that_scores_each_answer_by_itself_gives_every_answer_its_score(choices):
    found = judged(choices, [Judge("scorer", "length")])
    assert found.methods[2].answers[4][7].true_score == len("rlhf 4 " + "x" * 14)
    assert found.methods[2].answers[4][7].kl == 0.5
    assert found.methods[0].answers[3][0].kl is None
    assert found.tables[0].agreement.share == 1
    assert found.tables[0].agreement.n == 5
    assert found.decisive.duel("rlhf", "supervised").rate.n == 24
    assert found.notes == ["length: some have no verdict"]


def test_where_the_calls_are_capped_every_pair_has_its_verdicts_on_the_same_prompts(choices):
    judge = Judge("language_model", "judge m", cap=5 + 3 * 6, shown_both=True)  # the choices, and three prompts
    found = judged(choices, [judge])
    duels = found.decisive.duels.values()
    assert {(duel.rate.n, duel.unjudged) for duel in duels} == {(6, 18)}
    asked = Counter(comparison.prompt[0]["content"] for comparison in judge.asked[5 : 5 + 18])
    assert set(asked.values()) == {6}
    assert list(asked) != [prompt[0]["content"] for prompt in PROMPTS[:3]]  # not always the first
    assert found.decisive.duel("rlhf", "base").rate.rate > 0.5


def test_each_seed_is_scored_by_the_reward_model_that_it_was_trained_on(choices):
    rewards = {seed: Judge("reward_model", "reward") for seed in SEEDS}
    found = judged(choices, [Judge("scorer", "length")], rewards)
    assert [table.measure for table in found.tables] == ["true_score", "reward"]
    for seed, judge in rewards.items():
        texts = {text for comparison in judge.asked[5:] for text in comparison[1:]}
        assert {text.split()[1] for text in texts} == {str(seed)}
    assert all(answer.reward is not None for answer in found.methods[1].answers[4])


@pytest.mark.parametrize("last", [PROMPTS[::-1], PROMPTS[:-1], [*PROMPTS, *PROMPTS]])
def test_answers_to_other_prompts_are_never_held_against_each_other(choices, last):
    judge = Judge("scorer", "length")
    with pytest.raises(DataError, match="answers of rlhf, seed 4, are not to the prompts that base answered"):
        judged(choices, [judge], last=last)
    assert judge.asked == []


def test_the_kl_is_kept_whole_or_not_at_all(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(method_answers.processes, "run", lambda *_, **__: [0.5, 0.25])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            kl_to_base(None, model_dir="", answers=tmp_path / "answers.jsonl")
    assert list(tmp_path.iterdir()) == []
    assert kl_to_base(None, model_dir="", answers=tmp_path / "answers.jsonl") == [0.5, 0.25]
    monkeypatch.setattr(method_answers.processes, "run", stopped)
    assert kl_to_base(None, model_dir="", answers=tmp_path / "answers.jsonl") == [0.5, 0.25]
