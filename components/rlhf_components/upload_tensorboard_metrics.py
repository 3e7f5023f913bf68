"""Upload TensorBoard Metrics: the curves of both phases, where the Vertex job had them."""

from typing import Optional

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def upload_tensorboard_metrics(
    adapter: dsl.Input[dsl.Model],
    tensorboard_resource_id: str,
    run_name: str,
    run_project: str,
    run_location: str,
    reward_model: Optional[dsl.Input[dsl.Model]] = None,
) -> str:
    """Write the metrics of both phases to a Vertex AI TensorBoard.

    Args:
        adapter: The policy's adapter, with the metrics of phase 2.
        tensorboard_resource_id: projects/PROJECT/locations/REGION/tensorboards/NUMBER.
        run_name: Name of the pipeline's run, which the experiment gets.
        run_project: Google Cloud project in which the pipeline runs.
        run_location: Google Cloud region in which the pipeline runs.
        reward_model: The reward model, with the metrics of phase 1, where the method learnt from one.

    Returns:
        The experiment's resource name.
    """
    from rlhf_tuning.google_cloud.vertex_api import VertexApi
    from rlhf_tuning.google_cloud.vertex_tensorboard import write_to_tensorboard
    from rlhf_tuning.step import running_step, say

    with running_step("Upload TensorBoard Metrics"):
        experiment = write_to_tensorboard(
            VertexApi(project=run_project, location=run_location),
            tensorboard_resource_id,
            experiment=run_name,
            reward_model_dir=reward_model.path if reward_model else "",
            adapter_dir=adapter.path,
        )
        say(f"Wrote {experiment}")
    return experiment
