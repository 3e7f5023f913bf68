"""Where the tuned model goes in the end: one way for each target, all with the same inputs and outputs."""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components.deploy_model import deploy_model as deploy_model_to_endpoint
from rlhf_components.keep_champion import keep_champion
from rlhf_components.upload_model import upload_model
from rlhf_components.upload_model_to_kubeflow import upload_model_to_kubeflow
from rlhf_components.upload_model_to_vertex import upload_model_to_vertex
from rlhf_components.upload_tensorboard_metrics import upload_tensorboard_metrics

#: What Vertex Pipelines, and nothing else, fills in when a run starts.
RUN_PLACE = {
    "run_project": "{{$.pipeline_google_cloud_project_id}}",
    "run_location": "{{$.pipeline_google_cloud_location}}",
}


class UploadOutputs(NamedTuple):
    """The Vertex job's two outputs."""

    model_resource_name: str
    endpoint_resource_name: str


@dsl.pipeline(name="upload-and-deploy-on-vertex", description="A version in the Model Registry, and an endpoint.")
def upload_to_vertex_phase(
    model: dsl.Input[dsl.Model],
    adapter: dsl.Input[dsl.Model],
    reward_model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    large_model_reference: str,
    large_model_fingerprint: str,
    prompt_fingerprint: str,
    preference_fingerprint: str,
    eval_fingerprint: str,
    promote: bool,
    champion: str,
    model_display_name: str,
    instruction: str,
    registry_dir: str,
    deploy_model: bool,
    serving_machine: str,
    project: str,
    location: str,
    encryption_spec_key_name: str,
    tensorboard_resource_id: str,
) -> UploadOutputs:
    """Upload to the Vertex AI Model Registry and deploy to the model's endpoint."""
    upload = (
        upload_model_to_vertex(
            model=model,
            adapter=adapter,
            reward_model=reward_model,
            evaluation=evaluation,
            large_model_reference=large_model_reference,
            large_model_fingerprint=large_model_fingerprint,
            prompt_fingerprint=prompt_fingerprint,
            preference_fingerprint=preference_fingerprint,
            eval_fingerprint=eval_fingerprint,
            **RUN_PLACE,
            promote=promote,
            champion=champion,
            model_display_name=model_display_name,
            instruction=instruction,
            serving_machine=serving_machine,
            project=project,
            location=location,
            encryption_spec_key_name=encryption_spec_key_name,
        )
        .set_display_name("Upload Tuned Model")
        .set_caching_options(False)
    )
    with dsl.If(promote == True, name="the tuned model is promoted"):  # noqa: E712
        deployment = (
            deploy_model_to_endpoint(
                evaluation=evaluation,
                model_resource_name=upload.output,
                **RUN_PLACE,
                deploy=deploy_model,
                project=project,
                location=location,
                encryption_spec_key_name=encryption_spec_key_name,
            )
            .set_display_name("Deploy Tuned Model")
            .set_caching_options(False)
        )
    with dsl.Else(name="the champion stays"):
        kept = (
            keep_champion(champion=champion, model_resource_name=upload.output)
            .set_display_name("Keep Champion")
            .set_caching_options(False)
        )
    with dsl.If(tensorboard_resource_id != "", name="a TensorBoard is named"):
        upload_tensorboard_metrics(
            adapter=adapter,
            reward_model=reward_model,
            tensorboard_resource_id=tensorboard_resource_id,
            run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            **RUN_PLACE,
        ).set_display_name("Upload TensorBoard Metrics").set_caching_options(False)
    return UploadOutputs(
        model_resource_name=upload.output,
        endpoint_resource_name=dsl.OneOf(deployment.output, kept.output),
    )


@dsl.pipeline(name="upload-on-kubeflow", description="The model's location, and how KServe serves it.")
def upload_to_kubeflow_phase(
    model: dsl.Input[dsl.Model],
    adapter: dsl.Input[dsl.Model],
    reward_model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    large_model_reference: str,
    large_model_fingerprint: str,
    prompt_fingerprint: str,
    preference_fingerprint: str,
    eval_fingerprint: str,
    promote: bool,
    champion: str,
    model_display_name: str,
    instruction: str,
    registry_dir: str,
    deploy_model: bool,
    serving_machine: str,
    project: str,
    location: str,
    encryption_spec_key_name: str,
    tensorboard_resource_id: str,
) -> UploadOutputs:
    """Write what KServe needs. Nothing is deployed."""
    upload = (
        upload_model_to_kubeflow(
            model=model,
            adapter=adapter,
            reward_model=reward_model,
            evaluation=evaluation,
            large_model_reference=large_model_reference,
            large_model_fingerprint=large_model_fingerprint,
            prompt_fingerprint=prompt_fingerprint,
            preference_fingerprint=preference_fingerprint,
            eval_fingerprint=eval_fingerprint,
            promote=promote,
            model_display_name=model_display_name,
            instruction=instruction,
            serving_machine=serving_machine,
        )
        .set_display_name("Upload Tuned Model")
        .set_caching_options(False)
    )
    return UploadOutputs(
        model_resource_name=upload.outputs["model_resource_name"],
        endpoint_resource_name=upload.outputs["endpoint_resource_name"],
    )


#: Target to its way. To add one: a pipeline with the same inputs and outputs, and a line here.
UPLOAD_PHASES: dict[str, Any] = {
    "local": upload_model,
    "vertex": upload_to_vertex_phase,
    "kubeflow": upload_to_kubeflow_phase,
}
