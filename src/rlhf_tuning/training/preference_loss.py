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

Training takes TRL's, which are called by the same names; here each pair has its own number, for those that are only
measured on (`tests/unit/training/test_preference_trainer.py` holds them equal). To add one: a line in `LOSSES`, its name
among the choices of the parameter `loss_type`.
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


LOSSES: dict[str, Callable[[Pairs, float, float], torch.Tensor]] = {
    "sigmoid": lambda pairs, beta, _: -logsigmoid(beta * pairs.margin),
    "sigmoid_norm": lambda pairs, beta, _: -logsigmoid(beta * pairs.margin_per_token),
    "hinge": lambda pairs, beta, _: (1 - beta * pairs.margin).relu(),
    "ipo": lambda pairs, beta, _: (pairs.margin_per_token - 1 / (2 * beta)).square(),
    "robust": _robust,
}


def losses(
    pairs: Pairs, *, loss_type: str, beta: float, label_smoothing: float = 0.0, rpo_alpha: float = 0.0
) -> torch.Tensor:
    """Return each pair's loss, (pairs,).

    The supervised part is a mean over all tokens, so that a long answer has a larger share of it.
    """
    found = LOSSES[loss_type](pairs, beta, label_smoothing)
    return found - rpo_alpha * pairs.chosen / pairs.chosen_tokens.mean() if rpo_alpha else found
