"""Group relative policy optimization (Shao et al. 2024, https://arxiv.org/abs/2402.03300), by TRL.

    R_i = score_i - kl_coeff * log(policy(y_i | x) / reference(y_i | x))        one number per answer
    A_i = R_i - mean of the group's R
    loss = -mean over answers of (1 / target_sequence_length) * sum over tokens of min(r_t A_i, clip(r_t) A_i)

r_t is the ratio of a token's probabilities under the policy that learns and the one that sampled.

What differs from the paper:

- The KL is part of the reward, as in RLOO, and not a term of the loss at each token. There a token is not charged for the KL
  of the tokens that follow from it, so that the policy ends elsewhere than at the maximum of E[score] - kl_coeff * KL
  (`tests/unit/training/test_objective.py` holds both algorithms to that objective).
- After Liu et al. 2025 (Dr. GRPO, https://arxiv.org/abs/2503.20783), advantages are not divided by the group's standard
  deviation, and token losses not by the answer's own length: both bias the update.

So at the first update of a batch the gradient is RLOO's times (k - 1) / k / target_sequence_length. AdamW is indifferent to
such a factor, but the clipping of the gradient's norm to 1 is not: RLOO's gradient is mostly longer than that, GRPO's hardly
ever. From the second update on GRPO clips each token's ratio, RLOO the answer's.
"""

from typing import Any

import torch


def build_arguments(*, kl_coeff: float, **settings: Any) -> Any:
    """Return TRL's configuration."""
    from trl import GRPOConfig

    return GRPOConfig(beta=kl_coeff, loss_type="dr_grpo", scale_rewards="none", **settings)


def trainer_class() -> Any:
    """Return TRL's trainer."""
    from trl import GRPOTrainer

    return GRPOTrainer


def advantages(rewards: torch.Tensor, group: int) -> torch.Tensor:
    """Return each reward less the mean of its group of neighbours."""
    grouped = rewards.view(-1, group)
    return (grouped - grouped.mean(dim=1, keepdim=True)).flatten()
