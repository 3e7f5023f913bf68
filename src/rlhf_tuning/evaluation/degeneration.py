"""Signs that a model's answers have degenerated: repetition, little variety, refusals. Of texts alone, no model needed.

Repetition and distinct-n count runs of n units, n = 4 and 2, as Li et al. 2016 (arXiv:1510.03055) and Welleck et al. 2020
(arXiv:1908.04319) do; a unit is a word, or a character in scripts that write no spaces.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from rlhf_tuning.evaluation.judges.verdict import Comparison
from rlhf_tuning.models.text_format import conversation_key

# Thai to Lao, Khmer, Japanese, Chinese: scripts that write no spaces between words.
_UNSPACED = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_UNIT = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
# Finds the same units where none of those characters stand, and faster.
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_WORD = re.compile(r"\w+")

#: From this share of repeated runs on an answer counts as repetitive: every second run of four words was there before.
REPETITIVE_FROM = 0.5

# How chat models decline. English only; a refusal in another language is not seen. The possessive `*+` does not try again
# from every one of ten thousand quotation marks: no refusal begins with what it has passed.
_REFUSAL = re.compile(
    r"\W*+(?:"
    r"(?:i['’]?m|i am)\s+(?:very\s+|really\s+|so\s+)?(?:sorry|afraid|unable|not able)"
    r"|sorry,|i apologi[sz]e"
    r"|i\s+(?:can['’]?t|cannot|can not|won['’]?t|will not)\s+"
    r"(?:help|assist|provide|answer|do|fulfill|comply|create|write)"
    r"|as an ai\b|as a (?:large )?language model)",
    re.IGNORECASE,
)


def repetition(text: str, n: int = 4) -> float:
    """Return the share of a text's runs of `n` units that stood in it before; 0 when it has fewer than `n` + 1 units."""
    runs = _runs(text, n)
    return 1 - len(set(runs)) / len(runs) if len(runs) > 1 else 0.0


def distinct(text: str, n: int = 2) -> float | None:
    """Return the share of different ones among a text's runs of `n` units, or None when it has none."""
    runs = _runs(text, n)
    return len(set(runs)) / len(runs) if runs else None


def is_repetitive(text: str) -> bool:
    """Say whether an answer mostly repeats itself."""
    return repetition(text) >= REPETITIVE_FROM


def is_refusal(text: str) -> bool:
    """Say whether an answer begins as a refusal does, in English."""
    return _REFUSAL.match(text) is not None


def is_empty(text: str) -> bool:
    """Say whether an answer says nothing."""
    return not text.strip()


#: What is taken for harm unless people prefer it, by the name of its row in a comparison.
SIGNS: dict[str, Callable[[str], bool]] = {"empty": is_empty, "repetitive": is_repetitive, "refused": is_refusal}

#: Below so many prompts human choices say too little to overrule a condition.
_FEWEST_CHOICES = 10


class Taste(NamedTuple):
    """What people think of a sign: to how many prompts they chose the one answer of two that shows it, and how often not."""

    liked: int
    disliked: int

    @property
    def n(self) -> int:
        """Return how many prompts tell."""
        return self.liked + self.disliked

    @property
    def is_liked(self) -> bool:
        """Say whether people prefer it more often than not, so that to show it is no harm."""
        return self.n >= _FEWEST_CHOICES and self.liked > self.disliked


def tastes(choices: Iterable[Comparison]) -> dict[str, Taste]:
    """Return what human choices say of each sign, every prompt counted once.

    Args:
        choices: Human choices, as comparisons in which people preferred the second answer.
    """
    balances: dict[str, dict[str, int]] = {name: {} for name in SIGNS}
    for prompt, rejected, chosen in choices:
        key = conversation_key(prompt)
        for name, shows in SIGNS.items():
            balances[name][key] = balances[name].get(key, 0) + shows(chosen) - shows(rejected)
    return {
        name: Taste(sum(value > 0 for value in balance.values()), sum(value < 0 for value in balance.values()))
        for name, balance in balances.items()
    }


def _runs(text: str, n: int) -> list[tuple[str, ...]]:
    folded = text.casefold()
    units = (_UNIT if _IS_UNSPACED.search(folded) else _WORD).findall(folded)
    return list(zip(*(units[start:] for start in range(n)), strict=False))
