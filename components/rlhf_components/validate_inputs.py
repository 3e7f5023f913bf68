"""Validate Inputs: refuse bad parameters and bad data before anything is spent."""

from typing import NamedTuple

from kfp import dsl

from rlhf_components.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def validate_inputs(
    prompt_dataset: str,
    preference_dataset: str,
    eval_dataset: str,
    instruction: str,
    accelerator_type: str = "GPU",
) -> NamedTuple("Outputs", [("prompt_fingerprint", str), ("preference_fingerprint", str), ("eval_fingerprint", str)]):  # type: ignore[valid-type]
    """Read every row of every dataset, refuse bad ones, and fingerprint the content.

    Never cached: the content behind a path may change. Its fingerprints are arguments of every later step, so that those
    run again exactly when the content did change.

    Args:
        prompt_dataset: Prompts without labels; empty when the pipeline uses none.
        preference_dataset: Human preferences; empty when the pipeline uses none.
        eval_dataset: Evaluation rows; empty for a held-out split.
        instruction: Put before every text prompt; the default context of chat rows.
        accelerator_type: Only GPU is supported.

    Returns:
        prompt_fingerprint: Fingerprint of the prompts' content.
        preference_fingerprint: Fingerprint of the preferences' content.
        eval_fingerprint: Fingerprint of the evaluation rows' content.
    """
    from rlhf_tuning.data.check import check_datasets
    from rlhf_tuning.limits import check_limits
    from rlhf_tuning.step import running_step, say

    with running_step("Validate Inputs"):
        check_limits(accelerator_type=accelerator_type)
        check = check_datasets(
            prompt_dataset=prompt_dataset,
            preference_dataset=preference_dataset,
            eval_dataset=eval_dataset,
            instruction=instruction,
        )
        say("Rows: " + ", ".join(f"{name} {count:,}" for name, count in check.counts.items()))
        for warning in check.warnings:
            say(f"Warning: {warning}")
    return (check.prompt_fingerprint, check.preference_fingerprint, check.eval_fingerprint)
