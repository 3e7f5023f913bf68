"""Upload and Deploy Tuned Model: a version in the local model registry."""

from typing import NamedTuple, Optional

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def upload_model(
    model: dsl.Input[dsl.Model],
    adapter: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    large_model_reference: str,
    promote: bool,
    reward_model: Optional[dsl.Input[dsl.Model]] = None,
    large_model_fingerprint: str = "",
    prompt_fingerprint: str = "",
    preference_fingerprint: str = "",
    demonstration_fingerprint: str = "",
    feedback_fingerprint: str = "",
    eval_fingerprint: str = "",
    champion: str = "",
    model_display_name: str = "",
    instruction: str = "",
    registry_dir: str = "",
    require_approval: bool = False,
    deploy_model: bool = True,
) -> NamedTuple("Outputs", [("model_resource_name", str), ("endpoint_resource_name", str)]):  # type: ignore[valid-type]
    """Register the tuned model as a new version, with a manifest of what made it.

    Args:
        model: The tuned model, merged.
        adapter: The adapter, if any, and the settings of the training.
        evaluation: The comparison with the base model.
        large_model_reference: Base model.
        promote: From Evaluate Tuned Model: whether it becomes `champion` and `default`, or `challenger`.
        large_model_fingerprint: From Preprocess Inputs, for the manifest.
        prompt_fingerprint: From Validate Inputs, for the manifest.
        preference_fingerprint: From Validate Inputs, for the manifest.
        demonstration_fingerprint: From Validate Inputs, for the manifest.
        feedback_fingerprint: From Validate Inputs, for the manifest.
        eval_fingerprint: From Validate Inputs, for the manifest.
        champion: From Find Champion: what the model was held against; empty for the base model.
        reward_model: The reward model and the settings of phase 1, where the method learnt from one.
        model_display_name: Name in the registry; made from the base model's name when empty.
        instruction: The instruction that the model was tuned with, put before prompts again when it is called.
        registry_dir: Folder of the registry; its default place when empty.
        require_approval: Whether a promoted model stays `challenger` until a person approves it.
        deploy_model: Whether to rehearse the deployment of a promoted model: to serve it with vLLM, where there is one, ask
            it, and stop it.

    Returns:
        model_resource_name: models/NAME@VERSION.
        endpoint_resource_name: Empty: the local registry has no endpoints; `rlhf predict` calls the model.
    """
    from rlhf_tuning.promotion.upload import upload_to_local_registry
    from rlhf_tuning.step import running_step, say

    with running_step("Upload and Deploy Tuned Model"):
        version = upload_to_local_registry(
            model_dir=model.path,
            adapter_dir=adapter.path,
            reward_model_dir=reward_model.path if reward_model else "",
            evaluation_path=evaluation.path,
            large_model_reference=large_model_reference,
            fingerprints={
                "large_model": large_model_fingerprint,
                "prompts": prompt_fingerprint,
                "preferences": preference_fingerprint,
                "demonstrations": demonstration_fingerprint,
                "feedback": feedback_fingerprint,
                "evaluation": eval_fingerprint,
            },
            model_display_name=model_display_name,
            instruction=instruction,
            registry_dir=registry_dir,
            promote=promote,
            champion=champion,
            require_approval=require_approval,
        )
        if deploy_model and promote:
            from rlhf_tuning.promotion.rehearsal import rehearse

            say(rehearse(version.resource_name, evaluation.path, registry_dir))
    return (version.resource_name, "")
