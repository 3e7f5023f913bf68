"""A person between the gate and the deployment, where `require_approval` asks for one.

What the gate promotes is then registered as `challenger` and waits. Who approves it gives it the aliases `champion` and
`default`, and on Vertex AI deploys it, as the run would have done. The version's manifest keeps what was asked and what was
decided, by whom, when and why; on Vertex it is the file beside the model, and a label shows the status in the console.
"""

import shlex
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rlhf_tuning import registry
from rlhf_tuning.errors import ModelError
from rlhf_tuning.google_cloud import vertex_registry
from rlhf_tuning.google_cloud.vertex_api import VertexApi
from rlhf_tuning.google_cloud.vertex_endpoint import deploy_to_vertex
from rlhf_tuning.manifest import APPROVAL, APPROVED, PENDING, REJECTED
from rlhf_tuning.registry import ModelVersion
from rlhf_tuning.step import say

#: What a promoted version is called.
PROMOTED = (registry.CHAMPION_ALIAS, registry.DEFAULT_ALIAS)
_LABEL = "rlhf-approval"


class Ruling(NamedTuple):
    """What a person decided of a version: whether it is approved, who decided, and why."""

    approve: bool
    by: str
    reason: str


def ask_locally(version: ModelVersion, *, champion: str) -> ModelVersion:
    """Let a version of the local registry wait for approval, and say how it is given.

    Args:
        version: The version, which is `challenger`.
        champion: Resource name of the model that it beat; empty for the base model.
    """
    asked = registry.amend_version(version, lambda present: _asked(present.manifest, champion=champion))
    say(described(asked.resource_name, asked.manifest))
    return asked


def ask_on_vertex(
    api: VertexApi, resource_name: str, *, champion: str, deployment: Mapping[str, object] | None
) -> None:
    """Let a version of the Vertex AI Model Registry wait for approval, and say how it is given.

    Args:
        api: Project and region.
        resource_name: `projects/.../models/ID@VERSION`, which is `challenger`.
        champion: Resource name of the model that it beat; empty for the base model.
        deployment: What deploys it once it is approved, as arguments of `deploy_to_vertex`; None where nothing does.

    Raises:
        UserError: If Vertex AI or Cloud Storage refuses.
    """
    with api.explaining(f"model {resource_name}"):
        model = api.get(resource_name)
        manifest = _asked(vertex_registry.read_manifest(model), champion=champion, deployment=deployment)
        _keep(api, model, manifest)
    say(described(resource_name, manifest))


def rule_locally(version: ModelVersion, ruling: Ruling) -> ModelVersion:
    """Approve or reject a version of the local registry that waits for it, or approve one that was rejected.

    Raises:
        ModelError: If there is nothing to decide, or the champion that it beat is champion no more.
    """

    def ruled(present: ModelVersion) -> dict[str, object]:
        champion = registry.find_champion(present.name, present.path.parents[2])
        holds = champion is not None and registry.CHAMPION_ALIAS in champion.aliases
        return _ruled(
            present.resource_name,
            present.manifest,
            ruling,
            aliases=present.aliases,
            champion=champion.resource_name if champion and holds else "",
        )

    if not ruling.approve:
        return registry.amend_version(version, ruled)
    return registry.amend_version(version, ruled, aliases=PROMOTED, without=[registry.CHALLENGER_ALIAS])


def rule_on_vertex(api: VertexApi, name: str, ruling: Ruling) -> tuple[str, str]:
    """Approve or reject a version of the Vertex AI Model Registry, as `rule_locally`; return the ruling and the endpoint.

    What is approved is deployed first, if its run was to deploy it: should that fail, all is as it was, and it can be
    approved again.

    Args:
        api: Project and region.
        name: `projects/.../models/ID@VERSION`, or the display name and version, `NAME@VERSION`.
        ruling: What was decided.

    Raises:
        ModelError: If there is nothing to decide, or the champion that it beat is champion no more.
        UserError: If Vertex AI or Cloud Storage refuses.
        RunError: If the deployed model does not answer sensibly.
    """
    with api.explaining(f"model {name}"):
        model = vertex_registry.named_version(api, name)
        resource_name, manifest = vertex_registry.version_name(model), vertex_registry.read_manifest(model)
    manifest = _ruled(
        resource_name,
        manifest,
        ruling,
        aliases=model.get("versionAliases", []),
        champion=vertex_registry.present_champion(api, str(model["displayName"])),
    )
    endpoint = ""
    if ruling.approve:
        if (deployment := manifest[APPROVAL]["deployment"]) is not None:
            endpoint = deploy_to_vertex(api, resource_name, **deployment)
        vertex_registry.name_version(api, resource_name, aliases=PROMOTED, without=[registry.CHALLENGER_ALIAS])
    with api.explaining(f"model {name}"):
        _keep(api, model, manifest)
    return described(resource_name, manifest), endpoint


def described(resource_name: str, manifest: Mapping[str, Any]) -> str:
    """Return in a sentence how it stands with the approval of a version, of which there is talk in its manifest."""
    approval = manifest[APPROVAL]
    name = resource_name.removeprefix("models/")
    if approval["status"] == PENDING:
        quoted = shlex.quote(name)
        return f"{name} waits for approval: rlhf approve {quoted} --reason TEXT, or rlhf reject {quoted} --reason TEXT"
    return f"{name} was {approval['status']} by {approval['by']} on {approval['decided'][:10]}: {approval['reason']}"


def is_rejected(manifest: Mapping[str, Any]) -> bool:
    """Say whether a person rejected a version: the same content is the same version, so that it stays rejected."""
    return bool(manifest.get(APPROVAL, {}).get("status") == REJECTED)


def _asked(
    manifest: Mapping[str, Any], *, champion: str, deployment: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Return a manifest that asks for approval."""
    asked = {"status": PENDING, "asked": _now(), "champion": champion, "deployment": deployment}
    return {**manifest, APPROVAL: asked}


def _ruled(
    resource_name: str, manifest: Mapping[str, Any], ruling: Ruling, *, aliases: Collection[str], champion: str
) -> dict[str, Any]:
    """Return a manifest with what was decided; `champion` is that of now, `aliases` are the version's."""
    name = resource_name.removeprefix("models/")
    approval = manifest.get(APPROVAL)
    if approval is None:
        why = (
            "its run promoted it without asking (require_approval)"
            if registry.CHAMPION_ALIAS in aliases
            else "the gate did not promote it; the report of its run says why"
        )
        raise ModelError(f"{name} does not wait for approval: {why}.")
    if approval["status"] == APPROVED or (approval["status"] == REJECTED and not ruling.approve):
        raise ModelError(f"{described(resource_name, manifest)}. That stays so.")
    # Who was stopped between the alias and the manifest finds the version champion already.
    if ruling.approve and champion not in (approval["champion"], resource_name):
        beaten = approval["champion"].removeprefix("models/") or "the base model"
        raise ModelError(
            f"{name} beat {beaten}, but {champion.removeprefix('models/') or 'nobody'} is champion now, to which it was "
            "never compared. Run the pipeline again, or reject it."
        )
    decided = {"by": ruling.by, "reason": ruling.reason, "decided": _now()}
    return {**manifest, APPROVAL: {**approval, "status": APPROVED if ruling.approve else REJECTED, **decided}}


def _keep(api: VertexApi, model: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    vertex_registry.write_manifest(model, manifest)
    vertex_registry.set_label(api, model, _LABEL, manifest[APPROVAL]["status"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
