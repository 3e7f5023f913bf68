"""The losses of preference tuning: what each asks of the two answers of a pair.

For an answer y to a prompt x, h(y) = log policy(y | x) - log reference(y | x), in nats: how much likelier the answer has
become since the start. c and r are h of the chosen and of the rejected answer, |c| and |r| their tokens, s the sigmoid:

    sigmoid        -log s(beta (c - r))
    sigmoid_norm   -log s(beta (c / |c| - r / |r|))
    hinge          max(0, 1 - beta (c - r))
    ipo            (c / |c| - r / |r| - 1 / (2 beta))^2
    robust         ((1 - e) -log s(beta (c - r)) - e -log s(-beta (c - r))) / (1 - 2 e),  e = label_smoothing

DPO (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290); SLiC (Zhao et al. 2023, https://arxiv.org/abs/2305.10425); IPO
(Azar et al. 2023, https://arxiv.org/abs/2310.12036), with the mean of tokens as its authors say they meant; robust DPO
(Chowdhury et al. 2024, https://arxiv.org/abs/2403.00409), for labels of which a share e is wrong. With `rpo_alpha` each has
beside it that many times the chosen answers' negative log-probability a token (Pang et al. 2024,
https://arxiv.org/abs/2404.19733). TRL takes its mean over the tokens of a pass, so that each counts for more in a pass of
short answers: how many pairs a pass holds makes a small difference.

A pair may say by how much its chosen answer is better, m. Then c is to exceed r by so much more: m is taken off
beta (c - r), or beta (c / |c| - r / |r|), wherever that stands. It is the margin of a reward model's loss (Touvron et al.
2023, https://arxiv.org/abs/2307.09288) on DPO's reward, beta h, and with `sigmoid` DPO with an offset (Amini et al. 2024,
https://arxiv.org/abs/2402.10571). `robust` leaves it out: of a label that is wrong the degree says nothing.

Training takes TRL's, which are called by the same names and know no margin. Here each pair has a number of its own, whatever
its margin, for those that are only measured on (`tests/unit/training/test_preference_trainer.py` holds both equal).
To add one: a line in `LOSSES`, its name among the choices of the parameter `loss_type`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What is known of some pairs of answers, each (pairs,): log-probabilities in nats, and tokens."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    reference_chosen: torch.Tensor
    reference_rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor

    @property
    def chosen_change(self) -> torch.Tensor:
        """By how much each chosen answer has become likelier, nats."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_change(self) -> torch.Tensor:
        """The same of the rejected ones."""
        return self.rejected - self.reference_rejected

    @property
    def margin(self) -> torch.Tensor:
        """By how much more the chosen answer has than the rejected one, nats."""
        return self.chosen_change - self.rejected_change

    @property
    def margin_per_token(self) -> torch.Tensor:
        """The same of the mean token of either."""
        return self.chosen_change / self.chosen_tokens - self.rejected_change / self.rejected_tokens


def _robust(pairs: Pairs, beta: float, smoothing: float) -> torch.Tensor:
    margin = beta * pairs.margin
    return (smoothing * logsigmoid(-margin) - (1 - smoothing) * logsigmoid(margin)) / (1 - 2 * smoothing)


#: Those that compare the mean tokens of two answers.
_BY_THE_TOKEN = ("sigmoid_norm", "ipo")

LOSSES: dict[str, Callable[[Pairs, float, float], torch.Tensor]] = {
    "sigmoid": lambda pairs, beta, _: -logsigmoid(beta * pairs.margin),
    "sigmoid_norm": lambda pairs, beta, _: -logsigmoid(beta * pairs.margin_per_token),
    "hinge": lambda pairs, beta, _: (1 - beta * pairs.margin).relu(),
    "ipo": lambda pairs, beta, _: (pairs.margin_per_token - 1 / (2 * beta)).square(),
    "robust": _robust,
}


def nats_for(margins: torch.Tensor, *, rejected_tokens: torch.Tensor, loss_type: str, beta: float) -> torch.Tensor:
    """Return the nats that a rejected answer must lose besides, for a loss without margins to come to the same, (pairs,).

    Args:
        margins: m of each pair.
        rejected_tokens: Of each rejected answer.
        loss_type: A name in `LOSSES`.
        beta: Of the loss.
    """
    if loss_type == "robust":
        return torch.zeros_like(margins)
    return margins / beta * (rejected_tokens if loss_type in _BY_THE_TOKEN else 1)


def losses(
    pairs: Pairs, *, loss_type: str, beta: float, label_smoothing: float = 0.0, rpo_alpha: float = 0.0
) -> torch.Tensor:
    """Return each pair's loss, whatever its margin, (pairs,).

    The supervised part is a mean over all tokens, so that a long answer has a larger share of it.
    """
    found = LOSSES[loss_type](pairs, beta, label_smoothing)
    return found - rpo_alpha * pairs.chosen / pairs.chosen_tokens.mean() if rpo_alpha else found
