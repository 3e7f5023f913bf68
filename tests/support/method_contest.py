"""A comparison of methods that was made up: what its tests and those of its page look at."""

import random
from collections.abc import Mapping, Sequence

from rlhf_tuning.evaluation.comparison import JudgeRecord, ScoredAnswer
from rlhf_tuning.evaluation.judges.verdict import Agreement
from rlhf_tuning.evaluation.method_comparison import Contestant, MethodComparison, compare_each

#: How good the answers of a method are, beside those of the base model, in standard deviations.
SKILLS = {"base": 0.0, "supervised": 0.8, "rlhf": 0.9, "best_of_n": 1.6}
_LABELS = {
    "base": "the base model",
    "supervised": "supervised tuning",
    "rlhf": "RLHF",
    "best_of_n": "best of 8",
}
SCORER = JudgeRecord(name="scorer", label="house style", agreement=Agreement(0.97, 0.94, 0.99, 200))
HELD_OUT = JudgeRecord(name="held_out_reward_model", label="held-out reward", agreement=Agreement(0.8, 0.75, 0.85, 200))
REWARD = JudgeRecord(name="reward_model", label="reward", agreement=Agreement(0.84, 0.79, 0.88, 200))


def prompts(count: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"Create a description for place {number}."}] for number in range(count)]


def contest(
    skills: Mapping[str, float] = SKILLS,
    *,
    count: int = 150,
    seeds: Sequence[int] = (0, 1, 2),
    luck: float = 0.0,
    judges: Sequence[JudgeRecord] = (SCORER, HELD_OUT, REWARD),
) -> MethodComparison:
    """Return a comparison in which scores are normal around a method's skill; a training's luck moves all of them."""
    rng = random.Random(0)
    easy = [rng.gauss(0, 1) for _ in range(count)]
    methods = []
    for name, skill in skills.items():
        answers = {}
        for seed in seeds:
            moved = skill + rng.gauss(0, luck) * (name != "base")
            answers[seed] = [_answer(name, moved, easy[index], rng) for index in range(count)]
        trained = name in ("supervised", "rlhf")
        methods.append(
            Contestant(
                name=name,
                label=_LABELS[name],
                answers=answers,
                seconds={} if name == "base" else {seed: 100.0 + 300 * skill + 7 * seed for seed in seeds},
                forecast=300.0 if trained else None,
                steps=80 if trained else 0,
                samples=8 if name == "best_of_n" else 1,
            )
        )
    return compare_each(prompts(count), methods, judges=judges, verdicts={})


def _answer(name: str, skill: float, easy: float, rng: random.Random) -> ScoredAnswer:
    score = easy + skill + rng.gauss(0, 1)
    return ScoredAnswer(
        text=f"{name} says {score:.6f}: the harbour smells of salt and warm bread, and gulls call all day.",
        tokens=max(3, round(rng.gauss(40 - 6 * skill, 9))),
        ended=rng.random() < 0.9,
        reward=score + rng.gauss(0, 0.8),
        held_out_reward=score + rng.gauss(0, 1),
        true_score=score,
        kl=max(0.0, rng.gauss(5 * skill, 1)) if name in ("supervised", "rlhf") else None,
    )
