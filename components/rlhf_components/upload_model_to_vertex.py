"""Upload Tuned Model: a version in the Vertex AI Model Registry."""

from typing import Optional

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def upload_model_to_vertex(
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
    serving_machine: str = "",
    serving_image: str = "",
    require_approval: bool = False,
    deploy_model: bool = True,
    serving_endpoint: str = "dedicated",
    project: str = "",
    location: str = "",
    run_project: str = "",
    run_location: str = "",
    encryption_spec_key_name: str = "",
) -> str:
    """Register the tuned model as a new version, with a manifest of what made it, to be served by vLLM.

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
        serving_machine: What it is to be served on, such as l4 or a100-80gb-x2; the cheapest that it fits on when empty.
        serving_image: Another build of vLLM with the routes of Model Garden's, which is taken when empty.
        require_approval: Whether a promoted model stays `challenger` until a person approves it.
        deploy_model: Whether it is deployed then.
        serving_endpoint: What a new endpoint is then: dedicated or shared.
        project: Google Cloud project of the registry; the run's own when empty.
        location: Google Cloud region of the registry; the run's own when empty.
        run_project: Google Cloud project in which the pipeline runs, where it runs there.
        run_location: Google Cloud region in which the pipeline runs, where it runs there.
        encryption_spec_key_name: Customer-managed encryption key.

    Returns:
        projects/PROJECT/locations/LOCATION/models/ID@VERSION.
    """
    import json
    from pathlib import Path

    from rlhf_tuning.google_cloud.vertex_api import VertexApi
    from rlhf_tuning.google_cloud.vertex_endpoint import read_prompts
    from rlhf_tuning.google_cloud.vertex_registry import cloud_storage_uri, upload_to_vertex
    from rlhf_tuning.promotion.approval import ask_on_vertex
    from rlhf_tuning.promotion.upload import generated_name, model_manifest, name_on_vertex, preference_rows
    from rlhf_tuning.step import running_step, say

    with running_step("Upload Tuned Model"):
        api = VertexApi(project=project or run_project, location=location or run_location)
        name = model_display_name or generated_name(large_model_reference)
        uploaded = upload_to_vertex(
            api,
            model_dir=model.path,
            name=name,
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
            )
            | {"adapter": cloud_storage_uri(Path(adapter.path))},
            preference_rows=preference_rows(reward_model.path if reward_model else adapter.path),
            serving_machine=serving_machine,
            serving_image=serving_image,
            encryption_spec_key_name=encryption_spec_key_name,
            aliases=(),
        )
        called = name_on_vertex(
            api, uploaded, name=name, promote=promote, champion=champion, require_approval=require_approval
        )
        say(f"Registered {uploaded.resource_name}")
        if called.waits:
            deployment = {
                "prompts": read_prompts(json.loads(Path(evaluation.path).read_text(encoding="utf-8"))),
                "dedicated": serving_endpoint == "dedicated",
                "encryption_spec_key_name": encryption_spec_key_name,
            }
            ask_on_vertex(
                api, uploaded.resource_name, champion=champion, deployment=deployment if deploy_model else None
            )
    return uploaded.resource_name
