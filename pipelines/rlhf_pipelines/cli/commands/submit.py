"""`rlhf submit`: a pipeline on Vertex Pipelines or Kubeflow Pipelines."""

import argparse
import shlex

from rlhf_pipelines.backends.backend import Backend, Submission
from rlhf_pipelines.cli.command_line import Commands, add_command
from rlhf_pipelines.cli.submission import add_submission_flags, refuse_problems, submission_of
from rlhf_pipelines.parameters import PIPELINES


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "submit",
        "run a pipeline on Vertex Pipelines or Kubeflow Pipelines",
        _submit,
        "Compile a pipeline, check all that can be checked, and submit it to Vertex Pipelines or Kubeflow Pipelines.\n\n"
        "examples:\n"
        "  rlhf submit --parameter-values values.json --project my-project --location us-central1 \\\n"
        "              --pipeline-root gs://my-bucket/runs --machine a100-80gb \\\n"
        "              --image light=REGISTRY/light@sha256:... --image trainer=REGISTRY/trainer@sha256:... --wait\n"
        "  rlhf submit --host http://localhost:8080 --parameter-values values.json --machine a100-80gb\n\n"
        "Exit status: 0 submitted (with --wait: succeeded), 1 the service or the job failed, 2 wrong inputs.",
    )
    parser.usage = "rlhf submit [--parameter-values FILE] [--PARAMETER VALUE ...] [option ...]"
    add_submission_flags(parser)
    parser.add_argument("--dry-run", action="store_true", help="check and show what would be submitted, and stop")
    parser.add_argument("--wait", action="store_true", help="follow the steps until the job has ended")


def _submit(options: argparse.Namespace) -> int:
    target, backend, submission = submission_of(options)
    refuse_problems(backend, submission)
    if options.dry_run:
        print(_description(target, submission))
        print("\nNothing was submitted. Leave --dry-run away to submit this.")
        return 0
    job = backend.submit(submission)
    from rlhf_pipelines.cli.job_display import begun, short

    follow = follow_command(options, short(job.name))
    print(begun("Submitted", job), flush=True)
    if not options.wait:
        print(f"Follow it with: {follow}")
        return 0
    return follow_to_end(backend, job.name, follow)


def follow_to_end(backend: Backend, name: str, command: str) -> int:
    """Follow a job and return the exit status: 0 when it succeeded. `command` would follow it again."""
    from rlhf_pipelines.backends.backend import State
    from rlhf_pipelines.cli.job_display import ending, follow

    try:
        job = follow(backend, name, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print(
            f"\nThe job goes on. Follow it again with: {command}\nEnd it with: {command.replace(' follow ', ' cancel ')}"
        )
        return 130
    print(ending(job))
    return 0 if job.state is State.SUCCEEDED else 1


def follow_command(options: argparse.Namespace, name: str) -> str:
    """Return the command that follows a job that was reached with these flags."""
    from rlhf_pipelines.cli.display import printable

    words = ["rlhf", "jobs", "follow", name]
    for flag in ("target", "project", "location", "api_endpoint", "host", "namespace"):
        value = vars(options).get(flag) or vars(options).get(f"parameter:{flag}")
        if value:
            words += [f"--{flag.replace('_', '-')}", value]
    return printable(shlex.join(words))


def _description(target: str, submission: Submission) -> str:
    from rlhf_pipelines.cli.text_table import text_table

    defaults = {parameter.name: parameter.default for parameter in PIPELINES[submission.pipeline]}
    changed = {name: value for name, value in submission.values.items() if value != defaults[name]}
    settings = {
        "pipeline": f"{submission.pipeline}, compiled for {target}",
        "name": submission.display_name,
        "pipeline root": submission.pipeline_root or "the backend's own",
        "labels": ", ".join(f"{key}={value}" for key, value in submission.labels.items()),
        "service account": submission.service_account,
        "experiment": submission.experiment,
        "network": submission.network,
        "caching": "off" if submission.caching is False else "as each step has it",
        "after a failure": "ends at once" if submission.fail_fast else "steps that still can run do",
    }
    lines = [f"{key.ljust(16)}{value}" for key, value in settings.items() if value]
    lines += ["", text_table([("STEP", "MACHINE", "IMAGE"), *_steps(submission)])]
    lines += ["", "parameters that are not the default:"]
    lines += [f"  {name} = {value!r}" for name, value in sorted(changed.items())]
    return "\n".join(lines)


def _steps(submission: Submission) -> list[tuple[str, str, str]]:
    """Return each component with its machine and image, as the compiled pipeline has them."""
    spec = submission.spec.get("pipeline_spec", submission.spec)
    steps = []
    for label, executor in sorted(spec["deploymentSpec"]["executors"].items()):
        container = executor.get("container")
        if container is None:
            continue
        resources = container.get("resources", {})
        machine = []
        if "cpuLimit" in resources or "resourceCpuLimit" in resources:
            machine.append(f"{resources.get('resourceCpuLimit', resources.get('cpuLimit'))} CPU")
        if "memoryLimit" in resources or "resourceMemoryLimit" in resources:
            machine.append(str(resources.get("resourceMemoryLimit", f"{resources.get('memoryLimit')} GB")))
        accelerator = resources.get("accelerator", {})
        if accelerator:
            count = accelerator.get("resourceCount", accelerator.get("count"))
            machine.append(f"{count} x {accelerator.get('resourceType', accelerator.get('type'))}")
        steps.append((label.removeprefix("exec-"), ", ".join(machine) or "default", container["image"]))
    return steps
