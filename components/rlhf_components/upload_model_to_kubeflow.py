"""Upload Tuned Model: the model's location, and how KServe serves it."""

from typing import NamedTuple, Optional

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def upload_model_to_kubeflow(
    model: dsl.Input[dsl.Model],
    adapter: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    inference_service: dsl.Output[dsl.Artifact],
    manifest: dsl.Output[dsl.Artifact],
    large_model_reference: str,
    promote: bool,
    reward_model: Optional[dsl.Input[dsl.Model]] = None,
    large_model_fingerprint: str = "",
    prompt_fingerprint: str = "",
    preference_fingerprint: str = "",
    demonstration_fingerprint: str = "",
    feedback_fingerprint: str = "",
    eval_fingerprint: str = "",
    model_display_name: str = "",
    instruction: str = "",
    serving_machine: str = "",
) -> NamedTuple("Outputs", [("model_resource_name", str), ("endpoint_resource_name", str)]):  # type: ignore[valid-type]
    """Write the InferenceService that serves the tuned model, and the manifest of what made it.

    Args:
        model: The tuned model, merged.
        adapter: The adapter, if any, and the settings of the training.
        evaluation: The comparison with the base model.
        inference_service: YAML for `kubectl apply --filename`.
        manifest: JSON: what made the model.
        large_model_reference: Base model.
        promote: From Evaluate Tuned Model: whether the model is shown to be better; written into the service's annotations.
        large_model_fingerprint: From Preprocess Inputs, for the manifest.
        prompt_fingerprint: From Validate Inputs, for the manifest.
        preference_fingerprint: From Validate Inputs, for the manifest.
        demonstration_fingerprint: From Validate Inputs, for the manifest.
        feedback_fingerprint: From Validate Inputs, for the manifest.
        eval_fingerprint: From Validate Inputs, for the manifest.
        reward_model: The reward model and the settings of phase 1, where the method learnt from one.
        model_display_name: Name of the service; made from the base model's name when empty.
        instruction: The instruction that the model was tuned with, put before prompts again when it is called.
        serving_machine: Says how many GPUs the service gets, and on GKE of which kind, such as l4-x2; as many as the model
            needs, of any kind, when empty.

    Returns:
        model_resource_name: Where the model is, such as gs://BUCKET/FOLDER.
        endpoint_resource_name: Empty: a run has no rights over the cluster's services.
    """
    from rlhf_tuning.promotion.upload import generated_name, model_manifest
    from rlhf_tuning.serving.kserve import write_kserve
    from rlhf_tuning.step import running_step, say

    with running_step("Upload Tuned Model"):
        location = write_kserve(
            model_dir=model.path,
            model_uri=model.uri,
            name=model_display_name or generated_name(large_model_reference),
            manifest=model_manifest(
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
            ),
            service_path=inference_service.path,
            manifest_path=manifest.path,
            promote=promote,
            serving_machine=serving_machine,
        )
        say(f"The model is at {location}; serve it with: kubectl apply --filename {inference_service.uri}, downloaded")
        if not promote:
            say("It is not shown to be better than the base model, so think twice before serving it")
    return (location, "")
