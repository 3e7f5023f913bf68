"""Preprocess Inputs: find out which base models exactly the run will use."""

from typing import NamedTuple

from kfp import dsl

from rlhf_components.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def preprocess_inputs(
    large_model_reference: str,
    reward_model_reference: str,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [("large_model_fingerprint", str), ("reward_model_reference", str), ("reward_model_fingerprint", str)],
):
    """Check that the base models exist, and fingerprint them.

    Never cached: the weights behind a path or a hub id may change.

    Args:
        large_model_reference: Base model of the policy: a hub id, a folder, a gs:// folder or an alias.
        reward_model_reference: Base model of the reward model; empty for the policy's own.

    Returns:
        large_model_fingerprint: Changes when the weights do.
        reward_model_reference: The reward model's base, filled in.
        reward_model_fingerprint: Changes when the weights do.
    """
    from rlhf_tuning.model_reference import resolve_reference
    from rlhf_tuning.step import running_step

    with running_step("Preprocess Inputs"):
        policy = resolve_reference(large_model_reference)
        reward = policy
        if reward_model_reference:
            reward = resolve_reference(reward_model_reference, parameter="reward_model_reference")
    return (policy.fingerprint, reward.reference, reward.fingerprint)
