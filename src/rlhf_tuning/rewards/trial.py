"""What rewards say of answers that are there already, before any GPU is paid for: their parts, and whether people agree."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from rlhf_tuning.evaluation.judges.verdict import Agreement, Comparison, Verdict, agreement
from rlhf_tuning.rewards import Answer, Example, Options, load_rewards, read_options, written

#: What counts the tokens of an answer, or must know whether it ended.
OF_TOKENS = ("length", "near_limit", "unfinished")


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What one reward says of the answers, or all together do.

    Args:
        name: Its name.
        weight: Of its part.
        scores: Before the weight, one for each answer.
        seconds: That it took, for all.
        kept: How many of the scores were there from before, so that they took no time.
        cost_each: What a score of a server costs on average, where its price is known; otherwise 0.
        agreement: How often it prefers the answer that people chose; None where nobody did.
    """

    name: str
    weight: float
    scores: Sequence[float]
    seconds: float
    kept: int
    cost_each: float
    agreement: Agreement | None

    @property
    def mean(self) -> float:
        """The mean of the scores."""
        return fmean(self.scores)

    @property
    def spread(self) -> float:
        """Their standard deviation."""
        return pstdev(self.scores)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """All rewards that can be tried, with their options, and their weighted sum."""

    parts: tuple[Tried, ...]
    options: Sequence[Options]
    total: Tried

    def beyond(self, scores: int) -> list[str]:
        """Return which limits of the rewards would end a run that asks each for so many scores."""
        parts = zip(self.parts, self.options, strict=True)
        return [words for part, options in parts for words in options.beyond(scores, part.cost_each * scores)]

    @property
    def cautions(self) -> list[str]:
        """What a person should look at."""
        said = [
            f"The reward {part.name} gives all {len(part.scores):,} answers {part.scores[0]:g}: it tells none from another."
            for part in self.parts
            if len(part.scores) > 1 and part.spread == 0
        ]
        said += [
            f"Of the scores of {part.name} {part.kept:,} were kept from before: new ones take longer than is said here."
            for part in self.parts
            if part.kept
        ]
        against = [part for part in (*self.parts, self.total) if part.agreement and part.agreement.high < 0.5]
        return said + [
            f"People preferred the other answer more often than {part.name} did beyond chance." for part in against
        ]


def try_rewards(
    rewards: str, asked: Sequence[tuple[Example, Answer]], *, choices: int = 0, most_tokens: int
) -> Trial | None:
    """Score answers by every reward but the reward model, which is not trained yet; None where there is no other.

    Args:
        rewards: The parameter, as `read_rewards` returns it.
        asked: Answers to their examples.
        choices: How many human choices these begin with: two answers each, the one that people preferred second.
        most_tokens: Of an answer.

    Raises:
        RlhfError: If a reward cannot be used, or does not score.
    """
    options = [each for each in read_options(rewards) if each.kind != "reward_model"]
    if not options:
        return None
    examples, answers = [example for example, _ in asked], [answer for _, answer in asked]
    comparisons = [
        Comparison(example["prompt"], first.text, second.text)
        for (example, first), (_, second) in zip(asked[: 2 * choices : 2], asked[1 : 2 * choices : 2], strict=True)
    ]

    def tried(name: str, scores: Sequence[float], **others: Any) -> Tried:
        pairs = zip(scores[: 2 * choices : 2], scores[1 : 2 * choices : 2], strict=True)
        verdicts = [Verdict(scores=pair) for pair in pairs]
        found = agreement(comparisons, verdicts)
        return Tried(name=name, scores=scores, agreement=found, **others)

    with closing(load_rewards(written(options), most_tokens=most_tokens)) as loaded:
        loaded.check_references(examples)
        parts = []
        for part in loaded.parts:
            started = time.perf_counter()
            scores = part.score(examples, answers, step=0)
            parts.append(
                tried(
                    part.name,
                    scores,
                    weight=part.weight,
                    seconds=time.perf_counter() - started,
                    kept=len(scores) - getattr(part.scorer, "asked", len(scores)),
                    cost_each=getattr(part.scorer, "cost_each", 0.0),
                )
            )
        sums = loaded.weighed([part.scores for part in parts])
    totals = {name: sum(getattr(part, name) for part in parts) for name in ("seconds", "kept", "cost_each")}
    return Trial(parts=tuple(parts), options=options, total=tried("all together", sums, weight=1.0, **totals))


def needs_tokens(rewards: str) -> bool:
    """Say whether some reward looks at more of an answer than its text."""
    return any(each.kind in OF_TOKENS for each in read_options(rewards))


def known_answers(
    rewards: str,
    preferences: Sequence[Example],
    prompts: Sequence[Example],
    answer_of: Callable[[str], Answer],
) -> tuple[list[tuple[Example, Answer]], int]:
    """Return answers that the data itself has, and how many human choices they begin with.

    They are those of preferences; without any, or where a reward needs references, what the prompts' references hold, which
    should be worth more than most.

    Args:
        rewards: The parameter, as `read_rewards` returns it.
        preferences: Canonical preference rows.
        prompts: Canonical prompt rows.
        answer_of: Makes an answer of a text.

    """
    if preferences and not any(each.references for each in read_options(rewards)):
        pairs = [[(row, answer_of(row[which])) for which in ("rejected", "chosen")] for row in preferences]
        return [asked for pair in pairs for asked in pair], len(pairs)
    return [(row, answer_of(text)) for row in prompts for text in row.get("references", {}).values() if text.strip()], 0
