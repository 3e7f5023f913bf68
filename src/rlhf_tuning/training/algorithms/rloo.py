"""REINFORCE leave-one-out (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740), by TRL.

Each of a prompt's k answers is compared with the mean of the other k - 1:

    R_i = score_i - kl_coeff * log(policy(y_i | x) / reference(y_i | x))        one number per answer
    A_i = R_i - mean of R_j over j != i
    loss = -mean over answers of A_i * log policy(y_i | x)

What differs from the paper: nothing that changes the gradient; TRL writes the loss with a clipped ratio to the policy
that sampled, which is 1 here, as every batch is used for one update.
"""

from typing import Any


def build_arguments(*, kl_coeff: float, **settings: Any) -> Any:
    """Return TRL's configuration. TRL's `beta` multiplies the KL summed over an answer: `kl_coeff` as it stands."""
    from trl import RLOOConfig

    return RLOOConfig(beta=kl_coeff, **settings)


def trainer_class() -> Any:
    """Return TRL's trainer."""
    from trl import RLOOTrainer

    return RLOOTrainer
