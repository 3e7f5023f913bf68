"""Deploy Tuned Model: an endpoint of Vertex AI that was seen to answer."""

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def deploy_model(
    evaluation: dsl.Input[dsl.Artifact],
    model_resource_name: str,
    deploy_model: bool = True,
    require_approval: bool = False,
    serving_endpoint: str = "dedicated",
    project: str = "",
    location: str = "",
    run_project: str = "",
    run_location: str = "",
    encryption_spec_key_name: str = "",
) -> str:
    """Deploy a registered model to the endpoint of its name, call it, and move the traffic to it once it answers.

    Args:
        evaluation: The comparison with the base model, whose prompts are tried.
        model_resource_name: What was uploaded; it knows the machine that it is served on.
        deploy_model: Whether to deploy at all.
        require_approval: Whether a person approves the model first, which deploys it.
        serving_endpoint: What a new endpoint is: dedicated or shared.
        project: Google Cloud project of the endpoint; the run's own when empty.
        location: Google Cloud region of the endpoint; the run's own when empty.
        run_project: Google Cloud project in which the pipeline runs, where it runs there.
        run_location: Google Cloud region in which the pipeline runs, where it runs there.
        encryption_spec_key_name: Customer-managed encryption key of a new endpoint.

    Returns:
        projects/PROJECT/locations/LOCATION/endpoints/ID, or nothing when nothing was to be deployed, or the model is not
        champion: another may have become that since the gate decided.
    """
    import json

    from rlhf_tuning.google_cloud.vertex_api import VertexApi
    from rlhf_tuning.google_cloud.vertex_endpoint import deploy_to_vertex, read_prompts
    from rlhf_tuning.google_cloud.vertex_registry import is_champion
    from rlhf_tuning.step import running_step, say

    with running_step("Deploy Tuned Model"):
        if not deploy_model:
            say("Not deployed, as deploy_model says: the model is in the registry, and no endpoint was touched")
            return ""
        if require_approval:
            say("Not deployed before it is approved, and no endpoint was touched")
            return ""
        api = VertexApi(project=project or run_project, location=location or run_location)
        if not is_champion(api, model_resource_name):
            say(
                f"Not deployed: {model_resource_name} is not champion, since another model became that during the run. No "
                "endpoint was touched"
            )
            return ""
        with open(evaluation.path, encoding="utf-8") as stream:
            prompts = read_prompts(json.load(stream))
        return deploy_to_vertex(
            api,
            model_resource_name,
            prompts=prompts,
            dedicated=serving_endpoint == "dedicated",
            encryption_spec_key_name=encryption_spec_key_name,
        )
