"""Choose Start: what is tuned on preferences: the base model, or what a supervised phase made of it."""

from typing import NamedTuple, Optional

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def choose_start(
    start: dsl.Output[dsl.Artifact],
    large_model_reference: str,
    large_model_fingerprint: str,
    reward_model_reference: str,
    reward_model_fingerprint: str,
    model: Optional[dsl.Input[dsl.Model]] = None,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [
        ("large_model_reference", str),
        ("large_model_fingerprint", str),
        ("reward_model_reference", str),
        ("reward_model_fingerprint", str),
        ("start_uri", str),
    ],
):
    """Name the model that takes the base model's place from here on, so that all that follows shares one copy of it.

    Args:
        start: JSON: the first four of what is returned.
        large_model_reference: Base model.
        large_model_fingerprint: From Preprocess Inputs.
        reward_model_reference: From Preprocess Inputs: the base of the reward model.
        reward_model_fingerprint: From Preprocess Inputs.
        model: The supervised model, merged; without it what follows starts from the base model.

    Returns:
        large_model_reference: The supervised model's folder, or the base model.
        large_model_fingerprint: Changes when its weights do.
        reward_model_reference: The same as large_model_reference, unless the reward model has a base of its own.
        reward_model_fingerprint: Likewise.
        start_uri: Address of the supervised model, or of `start` where there is none: for steps that share no storage.
    """
    import json

    from rlhf_tuning.models.start_model import Start, start_from
    from rlhf_tuning.step import running_step, say

    with running_step("Choose Start", inputs=[model], outputs=[start]):
        found = Start(
            large_model_reference=large_model_reference,
            large_model_fingerprint=large_model_fingerprint,
            reward_model_reference=reward_model_reference,
            reward_model_fingerprint=reward_model_fingerprint,
        )
        if model:
            found = start_from(found, model.path)
        say(f"All that follows starts from the {'supervised' if model else 'base'} model")
        with open(start.path, "w", encoding="utf-8") as stream:
            json.dump(found._asdict(), stream)
    return (*found, model.uri if model else start.uri)
