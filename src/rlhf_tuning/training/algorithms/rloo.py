"""REINFORCE leave-one-out (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740), by TRL.

Each of a prompt's k answers is compared with the mean of the other k - 1:

    R_i = score_i - kl_coeff * log(policy(y_i | x) / reference(y_i | x))        one number per answer
    A_i = R_i - mean of R_j over j != i
    loss = -mean over answers of min(r_i A_i, clip(r_i) A_i)

r_i is the ratio of the answer's probabilities under the policy that learns and the one that sampled. It is 1 at the first
update of a batch, where the gradient is that of -A_i * log policy(y_i | x).

What differs from the paper: the clipped ratio, which is TRL's, and matters from the second update of a batch on.
"""

from typing import Any

import torch


def build_arguments(*, kl_coeff: float, **settings: Any) -> Any:
    """Return TRL's configuration."""
    from trl import RLOOConfig

    return RLOOConfig(beta=kl_coeff, **settings)


def trainer_class() -> Any:
    """Return TRL's trainer."""
    from trl import RLOOTrainer

    return RLOOTrainer


def advantages(rewards: torch.Tensor, group: int) -> torch.Tensor:
    """Return each reward less the mean of the others in its group of neighbours."""
    grouped = rewards.view(-1, group)
    return ((grouped - grouped.mean(dim=1, keepdim=True)) * group / (group - 1)).flatten()
