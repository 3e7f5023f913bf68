"""A reward model that learnt from other preferences than the one of phase 1, and that nothing was optimised against.

Where the policy found out what pleases the reward model of phase 1 only, the two disagree.
"""

from rlhf_tuning.evaluation.judges import JudgeSettings
from rlhf_tuning.evaluation.judges.reward_model import RewardModelJudge


class HeldOutRewardModelJudge(RewardModelJudge):
    """Prefers the answer with the higher held-out reward."""

    name = "held_out_reward_model"
    label = "held-out reward"


def make_judge(settings: JudgeSettings) -> HeldOutRewardModelJudge:
    """Return the judge that holds the reward model of `held_out_reward_model_dir`."""
    return HeldOutRewardModelJudge(settings.held_out_reward_model_dir, dtype=settings.dtype)
