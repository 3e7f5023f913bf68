"""What each phase brought, where a supervised one came first, as the report and the screen say it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf_tuning.evaluation.comparison import number, percent
from rlhf_tuning.statistics import MeanEstimate, WinRate


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How a model fares against one that it was made from.

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


def gains_text(gains: Sequence[Gain]) -> str:
    """Return what each phase brought as people read it, a line for each pair of models; empty where there is none."""
    if not gains:
        return ""
    lines = ["What each phase brought:"]
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
