"""`rlhf approve` and `rlhf reject`: what a person decides of a model that the gate promotes."""

import argparse
import getpass
import re
from typing import TYPE_CHECKING

from rlhf_pipelines.cli.command_line import Commands, add_command, add_registry_dir, fail
from rlhf_tuning.errors import UserError

if TYPE_CHECKING:
    from rlhf_tuning.promotion.approval import Ruling

_EXAMPLES = """
examples:
  rlhf {name} palms@3 --reason '{reason}'
  rlhf {name} projects/my-project/locations/us-central1/models/rlhf-palms-1a2b3c4d@3 --reason '{reason}'
  rlhf {name} palms@3 --project my-project --location us-central1 --reason '{reason}'"""


def add(commands: Commands) -> None:
    """Add both commands."""
    _add(
        commands,
        "approve",
        "let a model that waits for approval take the champion's place",
        "Let a model that waits for approval (require_approval) take the champion's place: it gets the aliases champion\n"
        "and default, and on Vertex AI it is deployed. Who approved it, when and why stays in its manifest.",
        "Read 30 of its answers",
    )
    _add(
        commands,
        "reject",
        "keep a model that waits for approval from the champion's place",
        "Keep a model that waits for approval (require_approval) from the champion's place. Who rejected it, when and why\n"
        "stays in its manifest.",
        "It names prices that nobody gave it",
    )


def _add(commands: Commands, name: str, summary: str, description: str, reason: str) -> None:
    examples = _EXAMPLES.format(name=name, reason=reason)
    parser = add_command(commands, name, summary, _rule, f"{description}\n{examples}")
    parser.set_defaults(approve=name == "approve")
    parser.add_argument(
        "model",
        metavar="NAME@VERSION",
        help="as `rlhf models` lists it; of the Vertex AI Model Registry the full name, or the display name with --location",
    )
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why; kept in the manifest")
    parser.add_argument("--by", default="", metavar="WHO", help="who decides; the user of this machine when absent")
    add_registry_dir(parser)
    vertex = parser.add_argument_group("of a model of Vertex AI")
    vertex.add_argument("--project", default="", metavar="ID", help="that of the credentials when absent")
    vertex.add_argument("--location", default="", metavar="REGION", help="such as us-central1")
    vertex.add_argument("--api-endpoint", default="", metavar="ADDRESS", help="another address of the Vertex AI API")


def _rule(options: argparse.Namespace) -> int:
    from rlhf_tuning.promotion.approval import Ruling

    if not options.reason.strip():
        return fail("--reason is empty. Say why, in words that whoever looks at the model later understands.", 2)
    if "@" not in options.model:
        return fail(f"{options.model} names no version. Write NAME@VERSION, as `rlhf models` lists it.", 2)
    ruling = Ruling(approve=options.approve, by=options.by.strip() or _user(), reason=options.reason.strip())
    named = re.fullmatch(r"projects/([^/]+)/locations/([^/]+)/models/[^/]+", options.model)
    if named:
        _rule_on_vertex(options, ruling, project=named[1], location=named[2])
    elif options.location:
        _rule_on_vertex(options, ruling, project=options.project, location=options.location)
    else:
        _rule_locally(options, ruling)
    return 0


def _rule_locally(options: argparse.Namespace, ruling: "Ruling") -> None:
    from rlhf_pipelines.cli.display import printable
    from rlhf_tuning.promotion.approval import described, rule_locally
    from rlhf_tuning.registry import resolve_model

    version = rule_locally(resolve_model(options.model, options.registry_dir), ruling)
    print(printable(described(version.resource_name, version.manifest)))
    print(f"Its aliases: {', '.join(version.aliases) or 'none'}")


def _rule_on_vertex(options: argparse.Namespace, ruling: "Ruling", *, project: str, location: str) -> None:
    from rlhf_pipelines.cli.display import printable
    from rlhf_tuning.google_cloud.vertex_api import VertexApi
    from rlhf_tuning.promotion.approval import rule_on_vertex

    api = VertexApi(project=project, location=location, api_endpoint=options.api_endpoint)
    ruled, endpoint = rule_on_vertex(api, options.model, ruling)
    print(printable(ruled))
    if endpoint:
        print(f"It is deployed to {endpoint}")


def _user() -> str:
    """Return who runs this.

    Raises:
        UserError: If the machine does not know, as in a container.
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise UserError("This machine does not know who you are. Say it: --by WHO.") from None
