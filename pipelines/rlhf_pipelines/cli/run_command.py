"""`rlhf run`: start a pipeline on this machine, show it, and say how it ended."""

import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_pipelines.cli.display import Display
from rlhf_pipelines.cli.run_log import RunLog
from rlhf_pipelines.local.containers.engine import check_engine, remove_containers
from rlhf_pipelines.local.failure import count_memory_kills, explain_death
from rlhf_pipelines.local.local_run import Containers, RunRequest
from rlhf_pipelines.local.process_group import Ended, run_in_group
from rlhf_pipelines.local.run_events import RunFailed, RunFollower, StepFailed, StepFinished, StepStarted, Update
from rlhf_pipelines.parameters import OF_A_JUDGE
from rlhf_tuning import __version__, environment
from rlhf_tuning.errors import ParameterError, RunError
from rlhf_tuning.evaluation.judges import JudgeSettings, check_judge, check_server, load_judge
from rlhf_tuning.evaluation.judges.role import TEACHER
from rlhf_tuning.labelling.teacher import LOCAL
from rlhf_tuning.parameters import Value
from rlhf_tuning.promotion.champion import local_name
from rlhf_tuning.registry import check_writable, tuned_by_one
from rlhf_tuning.step import duration
from rlhf_tuning.training.checkpoint_store import trained_to
from rlhf_tuning.vllm_program import needed_vllm

_WARN_FREE_BYTES = 2 * 10**9
_NEEDED_FREE_BYTES = 200 * 10**6
#: The pipeline output whose file is printed at the end of a run.
_SUMMARY = "summary"
#: The pages among a pipeline's outputs, with the names that they get beside the runs: kfp names artifacts without an
#: ending, which browsers and people go by.
_PAGES = {
    "report": ("Report:", "report.html"),
    "data_report": ("Data:", "data-report.html"),
    "methods_report": ("Report:", "methods.html"),
    "smoke_report": ("Report:", "smoke-report.html"),
}
#: The page that is made anew when the whole run is known.
_REPORT = "report"
#: The pipeline output that names the registered model.
MODEL = "model_resource_name"
#: The pipeline that never tunes a model twice at once.
_RECURRING = "recurring_rlhf_pipeline"
#: What the loops of training count, and no others.
_TRAINING_UNIT = "step"
#: What a judge needs to be made.
EXAMPLE_PROMPT = "Create a description for Plantation Palms."


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """A pipeline to run on this machine.

    Args:
        name: The pipeline's name, for people.
        target: The pipeline function, as `module:name`.
        arguments: Checked values of its parameters.
        pipeline_root: Folder that receives everything the run leaves behind.
        caching: Whether finished steps of earlier runs may be used.
        containers: That the steps run in containers; None for processes.
        price_per_hour: What this machine costs an hour, for the report; None where nobody said.
        outputs: File that receives the pipeline's outputs, for a program that goes on from there: a person is then told no
            more than that the run has ended.
    """

    name: str
    target: str
    arguments: Mapping[str, Value]
    pipeline_root: Path
    caching: bool = True
    containers: Containers | None = None
    price_per_hour: float | None = None
    outputs: Path | None = None


def new_containers(images: Mapping[str, str]) -> Containers:
    """Return the containers of a new run, with `images` in the place of those that the components name."""
    return Containers(run_id=uuid.uuid4().hex, images=dict(images))


def run_locally(run: LocalRun, display: Display) -> int:
    """Run a pipeline in a process of its own, show it, and return the command's exit status.

    Raises:
        ParameterError: If the pipeline root, or an engine for containers, cannot be used.
        MachineError: If the registry, or the cache that the run needs, cannot be written to.
        RunError: If its disk is full, or another run tunes the same model now.
    """
    if run.containers:
        check_engine()
    root = prepare_root(run.pipeline_root, display)
    check_early(run.arguments, in_containers=run.containers is not None)
    started, since = time.monotonic(), time.time()
    with _only_tune_of_its_model(run), RunLog(root) as log, _temporary_folder() as temporary:
        log.begin(run.name, __version__, run.arguments)
        outputs = run.outputs or log.path.with_suffix(".outputs.json")
        request = RunRequest(
            target=run.target,
            arguments=dict(run.arguments),
            pipeline_root=str(root),
            caching=run.caching,
            outputs=str(outputs),
            containers=run.containers,
        )
        display.say(f"Running {run.name} in {shown(root)}{', in containers' if run.containers else ''}")
        watch = _Watch(display, log)
        try:
            ended = _run_request(request, temporary, watch)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise RunError(f"The run stopped: {error.strerror or error} ({shown(log.path)}).") from error
        finally:
            display.close()
            if run.containers:
                remove_containers(run.containers.run_id)
        elapsed = time.monotonic() - started
        kept = _kept(watch.follower.finished, trained_to(root, since))
        if ended.stopped_by is not None:
            status = _say_stopped(ended.stopped_by, watch, kept, display)
        elif ended.returncode == 0:
            status = 0
            _say_finished(watch.follower, elapsed, log.path, display)
            if not run.outputs:
                _say_outputs(_read_outputs(outputs), run, watch.follower.finished, display)
        else:
            status = _say_failed(watch, ended, log, kept, display, root)
        log.note(f"ended with status {status} after {duration(elapsed)}")
        return status


def prepare_root(pipeline_root: Path, display: Display) -> Path:
    """Make the pipeline root and check that it can be written to, now rather than after hours; return its full path."""
    root = pipeline_root.expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
        (root / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise ParameterError(
            f"Cannot write to the pipeline root {root}: {error.strerror}. Choose another folder with --pipeline-root."
        ) from None
    free = shutil.disk_usage(root).free
    if free < _NEEDED_FREE_BYTES:
        raise RunError(
            f"Only {free / 1e6:.0f} MB are free on the disk of {root}; a run needs 2 GB or more. Free some space or "
            "choose another --pipeline-root."
        )
    if free < _WARN_FREE_BYTES:
        display.say(
            f"Warning: only {free / 1e9:.1f} GB are free on the disk of {root}; a run usually needs 2 GB or more."
        )
    return root


def check_early(arguments: Mapping[str, Value], *, in_containers: bool) -> None:
    """Check what a run needs at its end: places to write to, vLLM where it is asked for, and credentials of its judge.

    Args:
        arguments: Of the pipeline.
        in_containers: Whether its steps have packages of their own.

    Raises:
        MachineError: If the registry, or the cache that the run needs, cannot be written to.
        UserError: If vLLM or the judge cannot be used.
    """
    if "registry_dir" in arguments:
        registry_dir = str(arguments["registry_dir"])
        check_writable(Path(registry_dir).expanduser() if registry_dir else None)
    judge = str(arguments.get("judge", ""))
    if "judge" in arguments:
        check_judge(**{name: arguments[name] for name in OF_A_JUDGE})  # type: ignore[arg-type]
    check_server(judge, "")  # a secret is read by the first step
    if arguments.get("teacher", LOCAL) != LOCAL:
        TEACHER.key("")
    if arguments.get("inference_engine") == "vllm" and not in_containers:
        needed_vllm(needed_by="inference_engine 'vllm'")
    if judge == "gemini" and not in_containers:
        load_judge(judge, JudgeSettings(**{name: arguments[name] for name in OF_A_JUDGE if name != "judge"}))  # type: ignore[arg-type]


@contextmanager
def _only_tune_of_its_model(run: LocalRun) -> Iterator[None]:
    """Let a recurring run of a model begin only when no other is under way."""
    if run.name != _RECURRING:
        yield
        return
    name = local_name(str(run.arguments["model_display_name"]), str(run.arguments["large_model_reference"]))
    registry_dir = str(run.arguments["registry_dir"])
    with tuned_by_one(name, Path(registry_dir).expanduser() if registry_dir else None):
        yield


class _Watch:
    """Hands each line of the run to those who want it, and remembers what a failure must say."""

    def __init__(self, display: Display, log: RunLog) -> None:
        self.follower = RunFollower()
        self.causes: list[str] = []
        self._display = display
        self._log = log
        self._memory_kills = count_memory_kills()

    def line(self, line: str) -> None:
        """Take one line that the run's process printed."""
        update, is_event = self.follower.feed(line)
        if not is_event:
            self._log.line(line)
        if update is not None:
            self._log.show(update)
            self._display.show(update)
            self._remember(update)

    def tick(self) -> None:
        """Let the display move."""
        self._display.tick()

    def stopping(self, number: signal.Signals) -> None:
        """Say that the run is being stopped."""
        self._display.close()
        self._display.say("Stopping the run; a training saves what it has learnt. A second signal kills it ...")
        self._log.note(f"stopping, {number.name} received")

    def memory_kills(self) -> int:
        """Return how many processes the kernel killed for want of memory since the newest step began."""
        return count_memory_kills() - self._memory_kills

    def _remember(self, update: Update) -> None:
        match update:
            case StepStarted():
                self._memory_kills = count_memory_kills()
            case StepFailed():
                self.causes.append(update.text or explain_death(update.last_lines, self.memory_kills()))


def _run_request(request: RunRequest, temporary: Path, watch: _Watch) -> Ended:
    request_file = temporary / "request.json"
    request.write(request_file)
    return run_in_group(
        [str(_python_without_spaces(temporary)), "-m", "rlhf_pipelines.local.local_run", str(request_file)],
        env=_environment(temporary),
        on_line=watch.line,
        on_tick=watch.tick,
        on_stopping=watch.stopping,
    )


def _environment(temporary: Path) -> dict[str, str]:
    return {
        **os.environ,
        "RLHF_PROGRESS": "events",
        "PYTHONUNBUFFERED": "1",
        # A file datasets.py or a folder kfp/ where the user stands must not take the place of the library.
        "PYTHONSAFEPATH": "1",
        "PYTHONIOENCODING": "utf-8",
        # kfp makes a folder for each task and leaves it; this one goes when the run ends.
        "TMPDIR": str(temporary),
        # Bars drawn with carriage returns come out as floods of lines. The steps report their progress themselves.
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _python_without_spaces(temporary: Path) -> Path:
    """Return this Python by a path that the shell takes as one word: kfp writes it into a command without quotes."""
    executable = Path(sys.executable)
    if all(character.isalnum() or character in "/._-+@:,=" for character in str(executable)):
        return executable
    environment = executable.parent.parent  # as a whole, since Python finds pyvenv.cfg beside the path it was called by
    link = temporary / "python"
    link.symlink_to(environment, target_is_directory=True)
    return link / executable.relative_to(environment)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rlhf-run-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _say_finished(follower: RunFollower, elapsed: float, log: Path, display: Display) -> None:
    steps = len(follower.finished)
    cached = sum(step.cached for step in follower.finished)
    kept = f", {cached} of them in an earlier run" if cached else ""
    display.say(f"Finished in {duration(elapsed)}: {steps} {_steps(steps)}{kept}. Log: {shown(log)}")
    if words := _time_words(follower.finished, elapsed):
        display.say(words)


def _time_words(finished: Sequence[StepFinished], elapsed: float) -> str:
    """Return what the time of a run went into; nothing for one without a loop, all of whose steps were cached, say."""
    training = sum(step.loops.get(_TRAINING_UNIT, 0.0) for step in finished)
    other = sum(sum(step.loops.values()) for step in finished) - training
    if training + other == 0:
        return ""
    parts = (
        ("training loops", training),
        ("answers, scores and other loops", other),
        ("start-up, imports, loading and saving", elapsed - training - other),
    )
    return "Time: " + ", ".join(f"{name} {duration(seconds)} ({seconds / elapsed:.0%})" for name, seconds in parts)


def _say_outputs(outputs: Mapping[str, Any], run: LocalRun, finished: Sequence[StepFinished], display: Display) -> None:
    """Print the pipeline's own summary or, where it has none, its outputs; and where to go from here."""
    artifacts: Mapping[str, Mapping[str, Any]] = outputs["artifacts"]
    if _SUMMARY in artifacts:
        try:
            display.say("\n" + Path(artifacts[_SUMMARY]["path"]).read_text(encoding="utf-8").rstrip("\n"))
        except OSError as error:
            display.say(f"The run's summary cannot be read: {error.strerror}.")
    else:
        for name, value in outputs["parameters"].items():
            if value != "":
                display.say(f"  {name}: {value}")
        for name, artifact in artifacts.items():
            if name not in _PAGES and Path(artifact["path"]).exists():
                display.say(f"  {name}: {shown(Path(artifact['path']))}")
    if lines := _next_steps(outputs, run, finished):
        display.say("\n".join(["", *lines]))


def _next_steps(outputs: Mapping[str, Any], run: LocalRun, finished: Sequence[StepFinished]) -> list[str]:
    """Return where the reports and the model are, and the command that calls the model."""
    lines = []
    root = run.pipeline_root.expanduser().absolute()
    name = str(outputs["parameters"].get(MODEL, ""))
    model_lines, call = _model_lines(name, run) if name else ([], "")
    for output, (label, file_name) in _PAGES.items():
        artifact = outputs["artifacts"].get(output)
        if artifact and Path(artifact["path"]).is_file():
            page = Path(artifact["path"]).parents[1] / file_name
            if output == _REPORT:
                _complete_report(page.parent, page, run, finished, name, call)
                _copy_page(page, root / file_name)
            else:
                _place_page(Path(artifact["path"]), page, root)
            lines.append(f"{label:<7} {shown(page)}")
    return lines + model_lines


def _place_page(made: Path, page: Path, root: Path) -> None:
    """Copy a page to its place in the run's folder, and to the pipeline root.

    Of several runs under one root each has its own, and that of the one that ended last stands beside them too.
    """
    _copy_page(made, page)
    _copy_page(made, root / page.name)


def _copy_page(page: Path, to: Path) -> None:
    from rlhf_tuning.reports.page import write_page

    write_page(page.read_text(encoding="utf-8"), str(to))


def _with_pages(cause: str, root: Path) -> str:
    """Return what a step that failed said; a page that it names is put where one of a run that succeeds is."""
    lines = []
    for line in cause.split("\n"):
        label, _, path = line.partition(": ")
        made = Path(path)
        if label == "Report" and made.name in _PAGES and made.is_file():
            page = made.parents[1] / _PAGES[made.name][1]
            _place_page(made, page, root)
            line = f"{label}: {shown(page)}"
        lines.append(line)
    return "\n".join(lines)


def _complete_report(
    folder: Path, page: Path, run: LocalRun, finished: Sequence[StepFinished], model: str, call: str
) -> None:
    """Make the report with what only the whole run knows; where an earlier run evaluated, with what is known of that one."""
    from rlhf_pipelines.local.complete_report import (
        RUN_FILE,
        write_complete_report,
        write_report_again,
        write_run_file,
    )
    from rlhf_tuning.reports.report import StepTime

    if (folder / RUN_FILE).exists():
        write_report_again(folder, page, run.price_per_hour)
        return
    write_run_file(
        folder,
        pipeline=run.name,
        arguments=run.arguments,
        steps=[StepTime(name=step.step, seconds=step.seconds, cached=step.cached) for step in finished],
        model=model,
        call=call,
        ended=time.strftime("%Y-%m-%d %H:%M"),
        price_per_hour=run.price_per_hour,
    )
    write_complete_report(folder, page, run.price_per_hour)


def _model_lines(name: str, run: LocalRun) -> tuple[list[str], str]:
    """Return where the model is and how it is called, and the call alone."""
    spec = name.removeprefix("models/")
    registry_dir = str(run.arguments.get("registry_dir", ""))
    place = ["--registry-dir", registry_dir] if registry_dir else []
    folder = Path(registry_dir).expanduser().absolute() if registry_dir else environment.REGISTRY_DIR
    model, _, version = spec.partition("@")
    call = shlex.join(["rlhf", "predict", "--model", spec, *place, "--prompt", EXAMPLE_PROMPT])
    return [f"Model:  {shown(folder / model / 'versions' / version / 'model')}", f"Call:   {call}"], call


def _read_outputs(file: Path) -> Mapping[str, Any]:
    outputs: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return outputs


def _say_failed(watch: _Watch, ended: Ended, log: RunLog, kept: str, display: Display, root: Path) -> int:
    failures = watch.follower.failed
    steps = [failure for failure in failures if isinstance(failure, StepFailed)]
    lines = [""]
    for step, cause in zip(steps, watch.causes, strict=True):
        lines += [f"{step.step} failed:", *_indented(_with_pages(cause, root)), ""]
    for failure in failures:
        if isinstance(failure, RunFailed):
            lines += ["The run failed:", *_indented(failure.text), ""]
    if not failures:
        lines += [_unexplained(watch, ended), ""]
    for line in filter(None, lines):
        log.note(line)
    display.say("\n".join([*lines, f"Full log: {shown(log.path)}", kept]))
    return failures[0].status if failures else 1


def _unexplained(watch: _Watch, ended: Ended) -> str:
    where = f" during {watch.follower.running_step}" if watch.follower.running_step else ""
    if watch.memory_kills() > 0:
        return f"The run was killed{where} because the machine ran out of memory."
    if ended.returncode < 0:
        name = signal.Signals(-ended.returncode).name
        return f"The run was killed{where} from outside ({name}); the likely cause is that memory ran out."
    return f"The run ended{where} with status {ended.returncode} and without an error message."


def _say_stopped(number: signal.Signals, watch: _Watch, kept: str, display: Display) -> int:
    where = f" during {watch.follower.running_step}" if watch.follower.running_step else ""
    display.say(f"Stopped{where}. {kept}")
    return 128 + number


def _kept(finished: Sequence[StepFinished], trained: int) -> str:
    """Return what another run begins with: the steps that finished, and a training up to some step of its own."""
    kept = [f"{len(finished)} finished {_steps(len(finished))}"] if finished else []
    kept += [f"a training up to its step {trained:,}"] if trained else []
    if not kept:
        return "No step had finished."
    are = "is" if len(finished) + bool(trained) == 1 else "are"
    words = f"{' and '.join(kept)} {are} kept; run the same command again to continue."
    return words[0].upper() + words[1:]


def _steps(number: int) -> str:
    return "step" if number == 1 else "steps"


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.split("\n")]


def shown(path: Path) -> str:
    """Return `path` as it is shortest to read from here."""
    try:
        return f"./{path.relative_to(Path.cwd())}"
    except (ValueError, OSError):
        return str(path)
