"""Where the tuned model goes in the end: one way for each target, all with the same outputs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components import (
    deploy_model,
    keep_champion,
    upload_model,
    upload_model_to_kubeflow,
    upload_model_to_vertex,
    upload_tensorboard_metrics,
)
from rlhf_pipelines.wiring import Values, takes_inputs

#: What Vertex Pipelines, and nothing else, fills in when a run starts.
RUN_PLACE = {
    "run_project": "{{$.pipeline_google_cloud_project_id}}",
    "run_location": "{{$.pipeline_google_cloud_location}}",
}


#: What the pipelines after training are handed, whatever the method, and whatever they do with it.
TUNED: dict[str, Any] = {
    "model": dsl.Input[dsl.Model],
    "adapter": dsl.Input[dsl.Model],
    "large_model_fingerprint": str,
    "prompt_fingerprint": str,
    "preference_fingerprint": str,
    "demonstration_fingerprint": str,
    "feedback_fingerprint": str,
    "eval_fingerprint": str,
}


class UploadOutputs(NamedTuple):
    """The Vertex job's two outputs."""

    model_resource_name: str
    endpoint_resource_name: str


def upload_to_vertex(artifacts: Mapping[str, Any]) -> Any:
    """Return the pipeline that uploads to Vertex, for a method that has these artifacts besides its model."""

    @dsl.pipeline(name="upload-and-deploy-on-vertex", description="A version in the Model Registry, and an endpoint.")
    @takes_inputs(
        upload_model_to_vertex,
        deploy_model,
        upload_tensorboard_metrics,
        **{name: kind for name, kind in artifacts.items() if name in upload_model_to_vertex.component_spec.inputs},
        **TUNED,
        evaluation=dsl.Input[dsl.Artifact],
        promote=bool,
        champion=str,
    )
    def upload_to_vertex_phase(values: Values) -> UploadOutputs:
        """Upload to the Vertex AI Model Registry and deploy to the model's endpoint."""
        upload = (
            upload_model_to_vertex(**values.of(upload_model_to_vertex, **RUN_PLACE))
            .set_display_name("Upload Tuned Model")
            .set_caching_options(False)
        )
        with dsl.If(values["promote"] == True, name="the tuned model is promoted"):  # noqa: E712
            deployment = (
                deploy_model(**values.of(deploy_model, model_resource_name=upload.output, **RUN_PLACE))
                .set_display_name("Deploy Tuned Model")
                .set_caching_options(False)
            )
        with dsl.Else(name="the champion stays"):
            kept = (
                keep_champion(**values.of(keep_champion, model_resource_name=upload.output))
                .set_display_name("Keep Champion")
                .set_caching_options(False)
            )
        with dsl.If(values["tensorboard_resource_id"] != "", name="a TensorBoard is named"):
            upload_tensorboard_metrics(
                **values.of(upload_tensorboard_metrics, run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER, **RUN_PLACE)
            ).set_display_name("Upload TensorBoard Metrics").set_caching_options(False)
        return UploadOutputs(
            model_resource_name=upload.output,
            endpoint_resource_name=dsl.OneOf(deployment.output, kept.output),
        )

    return upload_to_vertex_phase


#: Target to its way, for a method with certain artifacts. To add one: a component or a pipeline with the same outputs, and a
#: line here.
UPLOAD_PHASES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "local": lambda artifacts: upload_model,
    "vertex": upload_to_vertex,
    "kubeflow": lambda artifacts: upload_model_to_kubeflow,
}
