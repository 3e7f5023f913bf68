"""How a model fares beside those that it was made from, and beside its teacher, as the report and the screen say it.

Needs no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf_tuning.evaluation.comparison import number, percent
from rlhf_tuning.statistics import MeanEstimate, WinRate

#: How people call the models.
BASE, SUPERVISED, TUNED, TEACHER = "the base model", "the supervised model", "the tuned model", "the teacher"


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How a model fares against one that it was made from, or learnt from.

    Args:
        model: How people call it.
        against: How they call the other.
        wins: Its win rate by each judge that gave a verdict, by how people read the judge.
        kl: Its KL to the other, in nats over an answer; None where that is not measured.
    """

    model: str
    against: str
    wins: Mapping[str, WinRate]
    kl: MeanEstimate | None = None


def gains_heading(gains: Sequence[Gain]) -> str:
    """Return what to call the comparisons."""
    teacher = any(gain.against == TEACHER for gain in gains)
    return "Beside its teacher, and what each phase brought" if teacher else "What each phase brought"


def gains_text(gains: Sequence[Gain]) -> str:
    """Return what each phase brought as people read it, a line for each pair of models; empty where there is none."""
    if not gains:
        return ""
    lines = [f"{gains_heading(gains)}:"]
    for gain in gains:
        won = [
            f"{percent(rate.rate)} [{percent(rate.low)}, {percent(rate.high)}] by {label}"
            for label, rate in gain.wins.items()
        ]
        models = f"{gain.model.removeprefix('the ')} against {gain.against.removeprefix('the ')}"
        line = f"  {models}: wins {', '.join(won) or 'unknown: nobody judged'}"
        if gain.kl:
            line += f"; KL {number(gain.kl.mean)} [{number(gain.kl.low)}, {number(gain.kl.high)}] nats per answer"
        lines.append(line)
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a model is and how fast it answered; each 0 where that is not known."""

    name: str
    parameters: int = 0
    bytes: int = 0
    tokens_per_second: float = 0.0


def cells(size: Size) -> tuple[str, str, str]:
    """Return weights, bytes and tokens a second as people read them."""
    billions, gigabytes = size.parameters >= 1e9, size.bytes >= 1e9
    return (
        _told(size.parameters / (1e9 if billions else 1e6), "billion" if billions else "million"),
        _told(size.bytes / (1e9 if gigabytes else 1e6), "GB" if gigabytes else "MB"),
        f"{size.tokens_per_second:,.0f}" if size.tokens_per_second else "–",
    )


def sizes_text(sizes: Sequence[Size]) -> str:
    """Return sizes as people read them, a line for each model; empty where there are none."""
    if not sizes:
        return ""
    lines = ["Size and speed, as each answered in this run:"]
    for size in sizes:
        parameters, weights, speed = cells(size)
        lines.append(f"  {size.name}: {parameters} weights, {weights}, {speed} tokens a second")
    return "\n".join(lines) + "\n"


def _told(value: float, unit: str) -> str:
    return f"{value:,.3g} {unit}" if value else "–"
