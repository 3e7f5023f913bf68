"""Group relative policy optimization (Shao et al. 2024, https://arxiv.org/abs/2402.03300), by TRL.

    A_i = score_i - mean of the group's scores
    loss = -mean over answers of (1 / target_sequence_length) * sum over tokens of (A_i - kl_coeff * kl_t)

What differs from the paper, after Liu et al. 2025 (Dr. GRPO, https://arxiv.org/abs/2503.20783):

- Advantages are not divided by the group's standard deviation, and token losses not by the answer's own length. Both
  bias the update, and both would give `kl_coeff` another meaning than in RLOO: here it is reward per nat of
  sequence-level KL in both, up to a constant factor on the whole loss, to which AdamW is indifferent.
- The KL's estimator is TRL's, exp(d) - d - 1 with d = log(reference / policy) at each token.
"""

from typing import Any


def build_arguments(*, kl_coeff: float, **settings: Any) -> Any:
    """Return TRL's configuration. Unscaled losses summed over tokens make `beta` mean what it means in RLOO."""
    from trl import GRPOConfig

    return GRPOConfig(beta=kl_coeff, loss_type="dr_grpo", scale_rewards="none", **settings)


def trainer_class() -> Any:
    """Return TRL's trainer."""
    from trl import GRPOTrainer

    return GRPOTrainer
