"""Deploy a registered model to a Vertex AI endpoint, see that it answers, and only then send it the traffic.

Vertex cannot be asked to let one deployed model of several answer: what has 0% of the traffic cannot be called
(https://github.com/googleapis/python-aiplatform/issues/827). So where an endpoint has traffic already, a new version is
first deployed to an endpoint of its own, called there, and removed; then it is deployed without traffic to the endpoint that
people call, gets the traffic, and is called once more. Should that fail, the traffic goes back to where it was. An endpoint
without traffic takes a new version at once, since nobody depends on it.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_tuning.errors import ModelError, RlhfError, RunError, UserError
from rlhf_tuning.google_cloud.vertex_api import Json, VertexApi
from rlhf_tuning.google_cloud.vertex_registry import OURS, ours, resource_id, serving_plan, version_name
from rlhf_tuning.limits import check_limits
from rlhf_tuning.serving import vllm
from rlhf_tuning.serving.vllm import MACHINES, ServingPlan
from rlhf_tuning.step import say

_DEPLOY_SECONDS = 2 * 3600.0
_UPDATE_SECONDS, _UPDATE_PATIENCE = 1800.0, 300.0
#: Ends the display name of the endpoint on which a version is tried.
_CHECK = " (check)"
#: Seconds between calls until an answer comes from the new model: traffic moves in minutes.
_TRAFFIC_DELAYS: tuple[float, ...] = (5, 10, 20, 30, 60, 60, 60)
_CHECK_TOKENS = 64
_MOST_PROMPTS = 3

Prompts = Sequence[Sequence[Mapping[str, object]]]


def deploy_to_vertex(
    api: VertexApi,
    model_resource_name: str,
    *,
    prompts: Prompts,
    encryption_spec_key_name: str = "",
    dedicated: bool = True,
) -> str:
    """Deploy a version of a model of ours to its endpoint, with all of the traffic once it answers; return the endpoint.

    The endpoint has the model's display name, is made when there is none, and is the same for every version. Versions that
    served before are undeployed in the end, since each costs a machine.

    Args:
        api: Project and region.
        model_resource_name: `projects/.../models/ID@VERSION`, as `upload_to_vertex` returned it.
        prompts: Conversations to try; one sensible answer is enough.
        encryption_spec_key_name: Customer-managed key of a new endpoint.
        dedicated: Whether a new endpoint has an address and a network of its own, as Google advises for generative models:
            answers may take minutes there, and others' load does not matter.

    Raises:
        ModelError: If the model is not one of ours.
        UserError: If Vertex AI refuses, such as for want of quota.
        RunError: If the deployed model does not answer sensibly. Traffic is then where it was.
    """
    with api.explaining(f"model {model_resource_name}"):
        model = api.get(model_resource_name)
    plan = serving_plan(model)
    if plan is None:
        raise ModelError(f"{model_resource_name} was not uploaded by rlhf-pipelines, so how to ask it is not known.")
    name = str(model["displayName"])
    new: Json = {"labels": OURS, "dedicatedEndpointEnabled": dedicated}
    if encryption_spec_key_name:
        new["encryptionSpec"] = {"kmsKeyName": encryption_spec_key_name}
    with api.explaining(f"endpoint {name}", sought=False):
        endpoint = _endpoint(api, name, new)
        earlier = {key: int(share) for key, share in endpoint.get("trafficSplit", {}).items() if int(share)}
        deployed_id = _deployed_id(model)
        if earlier and deployed_id not in earlier:
            _rehearse(api, model, plan, prompts, new)
        _switch(api, endpoint, model, plan, prompts, earlier)
        _undeploy_earlier(api, endpoint["name"], model, deployed_id)
    return str(endpoint["name"])


def read_prompts(evaluation: Mapping[str, Any]) -> Prompts:
    """Return prompts to try from what the evaluation wrote; they hold the instruction as training did."""
    return [answer["prompt"] for answer in evaluation["answers"][:_MOST_PROMPTS]]


def ask_endpoint(
    api: VertexApi, endpoint: str, prompt: str, *, max_tokens: int = 128, temperature: float = 0.0, seed: int = 0
) -> str:
    """Return what an endpoint answers to one prompt, put to it as in training.

    Args:
        api: Project and region.
        endpoint: Its full name, its id, or its display name.
        prompt: What to ask. The instruction that the model was tuned with is put where it stood in training.
        max_tokens: Most tokens of the answer.
        temperature: 0 takes the likeliest token each time.
        seed: Of the sample, where the temperature is above 0.

    Raises:
        ParameterError: If a number is beyond its limits.
        UserError: If there is no such endpoint, or nothing is deployed to it.
        RunError: If it does not answer.
    """
    check_limits(target_sequence_length=max_tokens, seed=seed)
    if temperature != 0:
        check_limits(temperature=temperature)
    with api.explaining(f"endpoint {endpoint}"):
        found = _named_endpoint(api, endpoint)
        split = found.get("trafficSplit", {})
        serving_ids = sorted(split, key=lambda key: -int(split[key]))
        by_id = {deployed["id"]: deployed for deployed in found.get("deployedModels", [])}
        if not serving_ids or serving_ids[0] not in by_id:
            raise UserError(
                f"Nothing is deployed to endpoint {endpoint} that gets its traffic. Deploy a model to it first."
            )
        deployed = by_id[serving_ids[0]]
        plan = serving_plan(api.get(f"{deployed['model']}@{deployed['modelVersionId']}"))
        conversation = plan.conversation(prompt) if plan else [{"role": "user", "content": prompt}]
        text, _ = _ask(api, found, plan, conversation, max_tokens=max_tokens, temperature=temperature, seed=seed)
    if text is None:
        raise RunError(f"Endpoint {endpoint} answered in a form that is not vLLM's.")
    return text


def _endpoint(api: VertexApi, display_name: str, new: Json, suffix: str = "") -> Json:
    """Return the endpoint of ours with this display name, made as `new` says when there is none; `suffix` is of its id."""
    found = ours(api, "endpoints", display_name)
    if found is not None:
        return found
    made = api.create(
        f"{api.parent}/endpoints",
        {"displayName": display_name, **new},
        endpointId=resource_id(display_name.removesuffix(_CHECK)) + suffix,
        existing=lambda: ours(api, "endpoints", display_name),
        patience=_UPDATE_PATIENCE,
        seconds=_UPDATE_SECONDS,
    )
    return api.get(made["name"])


def _rehearse(api: VertexApi, model: Json, plan: ServingPlan, prompts: Prompts, new: Json) -> None:
    """Deploy a version to an endpoint of its own, call it, and remove both, whatever comes of it."""
    name = f"{str(model['displayName'])[:120]}{_CHECK}"
    say(f"Trying the new version on an endpoint of its own, {name!r}, before it replaces the one that serves")
    endpoint = _endpoint(api, name, new, suffix="-check")
    try:
        _deploy(api, endpoint["name"], model, plan, {"0": 100})
        # Read again: a dedicated endpoint has its address from its first deployment on.
        problem = _problem(api, api.get(endpoint["name"]), plan, prompts, _deployed_id(model))
    finally:
        for deployed in api.get(endpoint["name"]).get("deployedModels", []):
            _undeploy(api, endpoint["name"], deployed["id"])
        api.wait(api.delete(endpoint["name"]), seconds=_UPDATE_SECONDS)
    if problem:
        raise RunError(f"The tuned model was deployed and {problem} It got no traffic; the endpoint serves as before.")


def _switch(
    api: VertexApi, endpoint: Json, model: Json, plan: ServingPlan, prompts: Prompts, earlier: Mapping[str, int]
) -> None:
    """Deploy a version beside what serves, move the traffic to it, and move it back if it does not answer."""
    name, deployed_id = endpoint["name"], _deployed_id(model)
    traffic = {"trafficSplit": {deployed_id: 100}}
    try:
        if _deployed(endpoint, deployed_id) is None:
            _deploy(api, name, model, plan, earlier or {"0": 100})
        api.patch(name, {"name": name, **traffic}, mask="trafficSplit")
        problem = _problem(api, api.get(name), plan, prompts, deployed_id)
        if problem:
            raise RunError(
                f"The tuned model was deployed to endpoint {name} and {problem}{_kept(earlier, deployed_id)}"
            )
    except BaseException as error:
        if earlier != {deployed_id: 100}:
            _roll_back(api, name, earlier, deployed_id, error)
        raise
    say(f"Endpoint {name} answers with the tuned model")


def _roll_back(
    api: VertexApi, endpoint: str, earlier: Mapping[str, int], deployed_id: str, reason: BaseException
) -> None:
    """Give the traffic back and undeploy the version that failed."""
    try:
        if _deployed(api.get(endpoint), deployed_id) is None:
            return
        api.patch(endpoint, {"name": endpoint, "trafficSplit": dict(earlier)}, mask="trafficSplit")
        if deployed_id not in earlier:
            _undeploy(api, endpoint, deployed_id)
    except Exception as error:
        raise RunError(
            f"{reason} Giving the traffic back failed too: {error} Look at endpoint {endpoint} in the Google Cloud console: "
            f"its traffic was {dict(earlier) or 'none'}, and {deployed_id} is the model that does not answer."
        ) from reason


def _undeploy_earlier(api: VertexApi, endpoint: str, model: Json, deployed_id: str) -> None:
    """Undeploy other versions of the same model, which have no traffic now. A failure costs money, not the run."""
    for deployed in api.get(endpoint).get("deployedModels", []):
        if deployed["id"] != deployed_id and deployed["model"] == model["name"].partition("@")[0]:
            try:
                _undeploy(api, endpoint, deployed["id"])
                say(f"Undeployed version {deployed['modelVersionId']}, which served before")
            except Exception as error:
                say(f"Version {deployed['modelVersionId']} could not be undeployed and costs its machine: {error}")


def _deployed_id(model: Mapping[str, Any]) -> str:
    """Return the id of a version's deployment. It is ours to choose, and an endpoint takes each but once."""
    return str(10**9 + int(hashlib.sha256(version_name(model).encode()).hexdigest(), 16) % (9 * 10**9))


def _deploy(api: VertexApi, endpoint: str, model: Json, plan: ServingPlan, traffic: Mapping[str, int]) -> None:
    machine, deployed_id = MACHINES[plan.machine], _deployed_id(model)
    say(
        f"Deploying to {machine.machine_type} with {machine.count} x {machine.accelerator}; this takes 10 to 30 minutes"
    )
    body = {
        "deployedModel": {
            "id": deployed_id,
            "model": version_name(model),
            "displayName": f"{str(model['displayName'])[:110]} v{model['versionId']}",
            "dedicatedResources": {
                "machineSpec": {
                    "machineType": machine.machine_type,
                    "acceleratorType": machine.accelerator,
                    "acceleratorCount": machine.count,
                },
                "minReplicaCount": 1,
                "maxReplicaCount": 1,
            },
        },
        "trafficSplit": dict(traffic),
    }
    api.create(
        f"{endpoint}:deployModel",
        body,
        existing=lambda: _deployed(api.get(endpoint), deployed_id),
        patience=_DEPLOY_SECONDS,
        seconds=_DEPLOY_SECONDS,
    )


def _deployed(endpoint: Json, deployed_id: str) -> Json | None:
    models: list[Json] = endpoint.get("deployedModels", [])
    return next((deployed for deployed in models if deployed["id"] == deployed_id), None)


def _undeploy(api: VertexApi, endpoint: str, deployed_id: str) -> None:
    api.wait(api.post(f"{endpoint}:undeployModel", {"deployedModelId": deployed_id}), seconds=_UPDATE_SECONDS)


def _problem(api: VertexApi, endpoint: Json, plan: ServingPlan, prompts: Prompts, deployed_id: str) -> str:
    """Return how a deployed model fails to answer any of the prompts, as a sentence's end, or an empty string."""
    found = "was never asked, since the evaluation has no prompts."
    for prompt in prompts:
        try:
            for delay in (*_TRAFFIC_DELAYS, 0.0):
                text, answered = _ask(api, endpoint, plan, prompt, max_tokens=_CHECK_TOKENS, temperature=0.0, seed=0)
                if answered == deployed_id:
                    break
                time.sleep(delay)
            else:
                return "got no traffic within minutes."
        except Exception as error:
            with_reason = _reason(api, endpoint, error)
            return f"does not answer: {with_reason}"
        problem = "has no form that vLLM's answers have" if text is None else vllm.problem_with_answer(text, prompt)
        if not problem:
            return ""
        found = f"its answer to {str(prompt[-1]['content'])[:80]!r} {problem}."
    return found


def _reason(api: VertexApi, endpoint: Json, error: Exception) -> str:
    """Return one of our own sentences for what a call raised."""
    try:
        with api.explaining(f"endpoint {endpoint['displayName']}"):
            raise error
    except RlhfError as explained:
        return str(explained)


def _ask(
    api: VertexApi,
    endpoint: Json,
    plan: ServingPlan | None,
    conversation: Sequence[Mapping[str, object]],
    **settings: Any,
) -> tuple[str | None, str]:
    """Return an answer's text, None when it has another form, and which deployed model gave it."""
    instance = vllm.request_for(conversation, chat_template=plan.chat_template if plan else True, **settings)
    answer = api.predict(endpoint, {"instances": [instance]})
    return vllm.answer_in(answer.get("predictions")), str(answer.get("deployedModelId", ""))


def _named_endpoint(api: VertexApi, endpoint: str) -> Json:
    from google.api_core import exceptions

    if endpoint.startswith("projects/"):
        return api.get(endpoint)
    found = ours(api, "endpoints", endpoint)
    if found is not None:
        return found
    try:
        return api.get(f"{api.parent}/endpoints/{endpoint}")
    except exceptions.BadRequest:  # a display name is no id
        raise exceptions.NotFound(f"No endpoint of ours is called {endpoint}") from None


def _kept(earlier: Mapping[str, int], deployed_id: str) -> str:
    if deployed_id in earlier:
        return " It has served before, and its traffic was left as it is."
    return (
        " The traffic is back where it was."
        if earlier
        else " It was undeployed; the endpoint had served nothing before."
    )
