"""From the flags of `rlhf submit` and `rlhf schedule create` to what a backend gets: connection and submission."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_pipelines.backends.backend import BACKENDS, Backend, Connection, Submission, connect
from rlhf_pipelines.cli.command_line import (
    add_image,
    add_parameters,
    add_pipeline,
    add_values_file,
    given_values,
    local_path,
)
from rlhf_pipelines.parameters import PIPELINES, check_parameters
from rlhf_tuning.errors import ParameterError, RlhfError
from rlhf_tuning.models.base_model_check import check_models_at_hand
from rlhf_tuning.parameters import PARAMETERS, Value

#: Parameters of the Vertex job that say where and how a job runs: they are the job's, and the pipeline's if it has them.
_JOB_PARAMETERS = ("project", "location", "encryption_spec_key_name", "tensorboard_resource_id")


def add_connection_flags(parser: argparse.ArgumentParser, *, google: bool = True) -> None:
    """Add the flags that say where the backend is; without `google` those that are pipeline parameters too are left out."""
    group = parser.add_argument_group("where")
    group.add_argument(
        "--target", choices=list(BACKENDS), default=None, help="default: kubeflow with --host, and vertex without"
    )
    if google:
        group.add_argument(
            "--project", default="", metavar="ID", help="Google Cloud project; that of the credentials when absent"
        )
        group.add_argument("--location", default="", metavar="REGION", help="Google Cloud region, such as us-central1")
    group.add_argument(
        "--api-endpoint", default="", metavar="ADDRESS", help="another address of the Vertex API, such as a private one"
    )
    group.add_argument("--host", default="", metavar="URL", help="the Kubeflow Pipelines API")
    group.add_argument("--namespace", default="", metavar="NAME", help="Kubernetes namespace, where there are several")


def add_submission_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of one job: its pipeline, parameters, machines and settings."""
    add_pipeline(parser)
    parser.add_argument(
        "--template-path",
        type=local_path,
        default=None,
        metavar="FILE",
        help="a YAML that `rlhf compile` wrote for the target, in place of --pipeline, --machine and --image",
    )
    add_values_file(parser)
    add_connection_flags(parser, google=False)
    job = parser.add_argument_group("the job")
    job.add_argument("--display-name", default="", metavar="NAME", help="name of the job; the pipeline's when absent")
    job.add_argument(
        "--pipeline-root", default="", metavar="FOLDER", help="where a run leaves its files, such as gs://bucket/runs"
    )
    job.add_argument("--machine", default="", metavar="NAME", help="of the training steps, such as a100-80gb-x8")
    add_image(job, "in the job")
    job.add_argument("--service-account", default="", metavar="NAME", help="whose permissions the steps have")
    job.add_argument("--experiment", default="", metavar="NAME", help="group the run with others")
    job.add_argument(
        "--label", action="append", default=[], metavar="KEY=VALUE", help="mark the job; once for each label"
    )
    job.add_argument("--no-cache", action="store_true", help="run every step, also those that an earlier run finished")
    job.add_argument(
        "--failure-policy",
        choices=["slow", "fast"],
        default="slow",
        help="after a failed step: finish those that still can, or end at once; default: slow",
    )
    job.add_argument("--network", default="", metavar="NAME", help="private network, projects/N/global/networks/NAME")
    job.add_argument(
        "--reserved-ip-range", action="append", default=[], metavar="NAME", help="address range of that network"
    )
    # The job's own, also of pipelines without such a parameter.
    add_parameters(parser, PARAMETERS.values())


def target_of(options: argparse.Namespace) -> str:
    """Return the target that the flags mean."""
    named: str | None = options.target
    return named or ("kubeflow" if options.host else "vertex")


def backend_of(options: argparse.Namespace, *, project: str, location: str) -> tuple[str, Backend]:
    """Return the target that the flags mean and its backend.

    Raises:
        ParameterError: If the flags are not enough, or belong to different targets.
    """
    target = target_of(options)
    connection = Connection(
        project=project,
        location=location,
        api_endpoint=options.api_endpoint,
        host=options.host,
        namespace=options.namespace,
    )
    return target, connect(target, connection)


def submission_of(options: argparse.Namespace) -> tuple[str, Backend, Submission]:
    """Return target, backend and submission for the flags. Nothing is sent.

    Raises:
        ParameterError: If the flags or parameter values cannot be used; every wrong parameter is named.
    """
    template = _read_template(options.template_path) if options.template_path else None
    if template and (options.machine or options.image):
        raise ParameterError("--machine and --image are in the YAML already: leave them away beside --template-path.")
    pipeline = _pipeline_of(template, options.template_path) if template else options.pipeline
    given = given_values(pipeline, options)
    values = check_parameters(pipeline, _of_pipeline(pipeline, given))
    job = {name: _text(name, values.get(name, given.get(name))) for name in _JOB_PARAMETERS}
    place = job
    if target_of(options) == "kubeflow":
        # A file of the Vertex job may name both; there they mean nothing. As flags they are a mistake.
        place = {name: vars(options).get(f"parameter:{name}", "") for name in ("project", "location")}
    target, backend = backend_of(options, project=place["project"], location=place["location"])
    if values.get("max_hours") or values.get("max_cost"):
        from rlhf_pipelines.targets import choose_machine

        machine = _machine_in(template) if template else choose_machine(target, options.machine).name
        values = _with_budget(values, pipeline, machine)
    if template is None:
        from rlhf_pipelines.compile import compile_for_submission
        from rlhf_pipelines.image_choice import read_choices
        from rlhf_pipelines.targets import cautions, choose_machine

        for caution in cautions(target, choose_machine(target, options.machine)):
            print(f"rlhf: warning: {caution}", file=sys.stderr)
        template = compile_for_submission(pipeline, target, options.machine, read_choices(options.image))
    return (
        target,
        backend,
        Submission(
            pipeline=pipeline,
            spec=template,
            values=values,
            display_name=options.display_name or pipeline.replace("_", "-"),
            pipeline_root=options.pipeline_root,
            labels=_labels(options.label),
            caching=False if options.no_cache else None,
            fail_fast=options.failure_policy == "fast",
            service_account=options.service_account,
            experiment=options.experiment,
            network=options.network,
            reserved_ip_ranges=tuple(options.reserved_ip_range),
            encryption_spec_key_name=job["encryption_spec_key_name"],
            tensorboard_resource_id=job["tensorboard_resource_id"],
        ),
    )


def refuse_problems(backend: Backend, submission: Submission) -> None:
    """Ask the backend what stands against a submission, and look at the base models that are here.

    Raises:
        ParameterError: Listing every problem.
        ModelError: If a base model cannot be tuned.
    """
    check_models_at_hand(submission.values)
    problems = backend.problems(submission)
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ParameterError(f"Nothing was submitted, since this would fail:\n{listed}")


def _machine_in(template: Mapping[str, Any]) -> str:
    """Return the machine that a pipeline was compiled for, which it tells the step that forecasts; empty for none."""
    executors = template.get("pipeline_spec", template).get("deploymentSpec", {}).get("executors", {})
    told = [entry for found in executors.values() for entry in found.get("container", {}).get("env", [])]
    return next((str(entry["value"]) for entry in told if entry["name"] == "RLHF_MACHINE"), "")


def _with_budget(values: dict[str, Value], pipeline: str, machine: str) -> dict[str, Value]:
    """Return the parameters of a run that has a budget, with the list price of its machine where none is given.

    Its forecast is checked where its data and its model's tokenizer are here; else Validate Inputs does it.

    Raises:
        ParameterError: If the run exceeds its budget, or a cost has no price.
    """
    from rlhf_pipelines.targets import machine_price
    from rlhf_tuning.planning.run_budget import NO_PRICE, check_run

    if values["max_cost"] and not values["price_per_hour"]:
        price = machine_price(machine, str(values.get("location", "")))
        if price is None or price.on_demand is None:
            raise ParameterError(f"{NO_PRICE} The list has no price of {machine or 'its machine'} in that region.")
        print(f"rlhf: price: {price.told(spot=False)}. Vertex AI and disks come on top.", file=sys.stderr)
        values = {**values, "price_per_hour": price.on_demand}
    if not machine:
        print(
            "rlhf: the budget is checked by the job's first training step, not here: its machine is not known.",
            file=sys.stderr,
        )
        return values
    defaults = {name: parameter.default for name, parameter in PARAMETERS.items() if parameter.default is not None}
    try:
        check_run(defaults | values, machine=machine, tunes_on_preferences=pipeline == "preference_tuning_pipeline")
    except ParameterError:
        raise
    except RlhfError as error:
        print(f"rlhf: the budget is checked by the job's first step, not here: {error}", file=sys.stderr)
    return values


def _of_pipeline(pipeline: str, given: Mapping[str, object]) -> dict[str, object]:
    takes = {parameter.name for parameter in PIPELINES[pipeline]}
    return {name: value for name, value in given.items() if name in takes or name not in _JOB_PARAMETERS}


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ParameterError(f"{name} must be text, not {value!r}.")
    return value


def _read_template(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        # libyaml's, which takes an eighth of the time.
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader))
    except OSError as error:
        raise ParameterError(f"--template-path {path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ParameterError(f"--template-path {path} is not YAML. Write one with `rlhf compile`.") from None
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise ParameterError(f"--template-path {path} holds no compiled pipeline. Write one with `rlhf compile`.")
    if len(documents) == 1:
        spec: Mapping[str, Any] = documents[0]
        return spec
    return {"pipeline_spec": documents[0], "platform_spec": documents[1]}


def _pipeline_of(template: Mapping[str, Any], path: Path) -> str:
    spec = template.get("pipeline_spec", template)
    info = spec.get("pipelineInfo")
    name = str(info.get("name", "")).replace("-", "_") if isinstance(info, dict) else ""
    if name not in PIPELINES:
        raise ParameterError(f"--template-path {path} is none of our pipelines ({', '.join(PIPELINES)}), by its name.")
    return name


def _labels(flags: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for flag in flags:
        key, equals, value = flag.partition("=")
        if not equals or not key:
            raise ParameterError(f"--label is {flag!r}; give KEY=VALUE.")
        if key in labels:
            raise ParameterError(f"--label {key} is given twice.")
        labels[key] = value
    return labels
