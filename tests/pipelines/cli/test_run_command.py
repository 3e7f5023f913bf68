import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from rlhf_pipelines.cli import run_command
from rlhf_pipelines.cli.display import SparseDisplay
from rlhf_pipelines.cli.run_command import LocalRun, check_early, prepare_root, run_locally
from rlhf_pipelines.local.run_events import StepFinished
from rlhf_pipelines.parameters import OF_A_JUDGE
from rlhf_tuning import environment, vllm_program
from rlhf_tuning.errors import MachineError, ModelError, ParameterError, RunError, UserError
from rlhf_tuning.parameters import PARAMETERS, Value

#: Of `toy_pipelines`.
FOLDER = Path(__file__).parents[2] / "support"


class Toy:
    """A toy run in a folder, and what it showed."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a root"
        self.ran = folder / "ran"
        self.trouble = folder / "trouble"
        self.shown: list[str] = []

    def cause(self, word: str) -> None:
        self.trouble.write_text(word, encoding="utf-8")

    def request(self, *, caching: bool = True) -> LocalRun:
        return LocalRun(
            name="toy",
            target="toy_pipelines:toy_pipeline",
            arguments={"text": "plum", "ran": str(self.ran), "trouble": str(self.trouble)},
            pipeline_root=self.root,
            caching=caching,
        )

    def run(self, *, caching: bool = True) -> int:
        self.shown.clear()
        return run_locally(self.request(caching=caching), SparseDisplay(self.shown.append))

    @property
    def output(self) -> str:
        return "\n".join(self.shown)

    @property
    def steps_run(self) -> list[str]:
        return self.ran.read_text(encoding="utf-8").split("\n")[:-1]

    @property
    def log(self) -> str:
        return sorted((self.root / "logs").glob("*.log"))[-1].read_text(encoding="utf-8")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER), prepend=os.pathsep)
    return Toy(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A run that ended well, to look at."""
    toy = Toy(tmp_path_factory.mktemp("finished"))
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(FOLDER), prepend=os.pathsep)
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr("tempfile.tempdir", str(temporary))
        assert toy.run() == 0
    assert list(temporary.iterdir()) == []
    return toy


def test_run_shows_its_steps_and_ends_with_the_summary(finished: Toy) -> None:
    assert "Prepare Data: 4 characters" in finished.shown
    assert any(line.startswith("Toy Trainer: finished in") and "loss 0.05" in line for line in finished.shown)
    assert "\n\nBase   0.1\nTuned  PLUM\n\nModel:  " in finished.output
    assert "Finished in" in finished.output
    (time_line,) = (line for line in finished.shown if line.startswith("Time: "))
    assert re.fullmatch(
        r"Time: training loops .+ \(\d+%\), answers, scores and other loops .+ \(\d+%\), "
        r"start-up, imports, loading and saving .+ \(\d+%\)",
        time_line,
    )


def test_log_has_the_steps_output_and_no_flood_of_progress(finished: Toy) -> None:
    assert "a line of the step's own output" in finished.log
    assert "@rlhf" not in finished.log
    assert "training step" not in finished.log
    assert "\x1b" not in finished.log
    assert "Warning" not in finished.log
    assert "a line of the step's own output" not in finished.output


def test_run_leaves_nothing_but_its_results_log_and_cache(finished: Toy) -> None:
    names = {path.name for path in finished.root.iterdir() if not path.name.startswith("toy-pipeline-")}
    assert names == {".cache", "logs"}


def test_outputs_are_kept_beside_the_log(finished: Toy) -> None:
    (outputs,) = (finished.root / "logs").glob("*.outputs.json")
    assert json.loads(outputs.read_text(encoding="utf-8"))["parameters"] == {"model_resource_name": "models/plum@1"}


def test_run_ends_with_where_the_model_is_and_the_command_that_calls_it(finished: Toy) -> None:
    model, call = finished.output.splitlines()[-2:]
    assert model.endswith(str(Path("plum", "versions", "1", "model")))
    assert call == "Call:   rlhf predict --model plum@1 --prompt 'Create a description for Plantation Palms.'"


def test_finished_steps_run_again_only_without_the_cache_or_when_their_result_was_deleted(toy: Toy) -> None:
    toy.run()
    assert toy.run() == 0
    assert toy.steps_run == ["prepare", "train"]
    assert [line for line in toy.shown if "cached" in line] == [
        f"{step}: cached, finished in an earlier run" for step in ("Prepare Data", "Toy Trainer", "Report Results")
    ]
    assert "\nTuned  PLUM\n" in toy.output
    for path in toy.root.glob("toy-pipeline-*/train"):
        shutil.rmtree(path)
    assert toy.run() == 0
    assert toy.steps_run == ["prepare", "train", "train"]
    assert toy.run(caching=False) == 0
    assert toy.steps_run == ["prepare", "train", "train", "prepare", "train"]


def test_error_in_the_inputs_shows_the_steps_own_message_and_the_run_continues_after_it(toy: Toy) -> None:
    toy.cause("user")
    assert toy.run() == 2
    assert "Toy Trainer failed:\n  row 3 of prompts.jsonl has no input_text.\n  Add it.\n" in toy.output
    assert "Traceback" not in toy.output
    assert "Inner task failed" not in toy.output
    assert "1 finished step is kept; run the same command again to continue." in toy.output
    log_line = next(line for line in toy.shown if line.startswith("Full log: "))
    assert Path(log_line.removeprefix("Full log: ")).is_file()
    toy.trouble.unlink()
    assert toy.run() == 0
    assert toy.steps_run == ["prepare", "train", "train"]


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("crash", "ZeroDivisionError: a fault of ours"),
        ("kill", "the likely cause is that memory ran out"),
        ("segfault", "crashed (Segmentation fault"),
        ("import", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
    ],
)
def test_step_that_dies_is_explained_without_a_traceback(toy: Toy, trouble: str, words: str) -> None:
    toy.cause(trouble)
    assert toy.run() == 1
    assert words in toy.output
    assert "Traceback" not in toy.output


def test_failure_outside_a_step_is_told(toy: Toy) -> None:
    run = LocalRun(name="none", target="toy_pipelines:none", arguments={}, pipeline_root=toy.root)
    assert run_locally(run, SparseDisplay(toy.shown.append)) == 1
    assert "The run failed:\n  KeyError: 'none'" in toy.output
    assert "No step had finished." in toy.output
    assert not list((toy.root / "logs").glob("*.outputs.json"))


COMMAND = """
import functools, signal, sys
from pathlib import Path
from rlhf_pipelines.cli import run_command
from rlhf_pipelines.cli.display import SparseDisplay
from rlhf_pipelines.cli.run_command import LocalRun, run_locally
run_command.run_in_group = functools.partial(run_command.run_in_group, grace_seconds=1.0)
signal.signal(signal.SIGINT, signal.default_int_handler)
root, ran, trouble = sys.argv[1:]
arguments = {"text": "plum", "ran": ran, "trouble": trouble}
run = LocalRun(name="toy", target="toy_pipelines:toy_pipeline", arguments=arguments, pipeline_root=Path(root))
sys.exit(run_locally(run, SparseDisplay(lambda line: print(line, flush=True))))
"""


@pytest.fixture
def hanging(toy: Toy) -> Iterator[Callable[[str], tuple["subprocess.Popen[str]", list[int]]]]:
    """Start a run whose second step hangs with a child of its own; return the command and the pids below it."""
    started: list[subprocess.Popen[str]] = []

    def start(word: str) -> tuple["subprocess.Popen[str]", list[int]]:
        toy.cause(word)
        command = [sys.executable, "-c", COMMAND, str(toy.root), str(toy.ran), str(toy.trouble)]
        environment = {**os.environ, "TMPDIR": str(toy.root.parent)}
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if toy.ran.exists() and toy.steps_run[-1].startswith("pids "):
                return started[-1], [int(pid) for pid in toy.steps_run[-1].split()[1:]]
            time.sleep(0.05)
        raise AssertionError("the step did not start")

    yield start
    for process in started:
        process.kill()
        process.communicate()


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def all_end(pids: list[int]) -> bool:
    """Say whether the processes end, a moment after they were killed."""
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize(
    ("word", "number", "status"), [("hang stubborn", signal.SIGINT, 130), ("hang", signal.SIGTERM, 143)]
)
def test_stopped_run_leaves_no_process_and_keeps_its_results(
    toy: Toy,
    hanging: Callable[[str], tuple["subprocess.Popen[str]", list[int]]],
    word: str,
    number: signal.Signals,
    status: int,
) -> None:
    command, pids = hanging(word)
    assert all(is_alive(pid) for pid in pids)
    command.send_signal(number)
    output, _ = command.communicate(timeout=30)
    assert command.returncode == status
    assert "Stopped during Toy Trainer. 1 finished step is kept" in output
    assert "Traceback" not in output
    assert all_end(pids)
    if number == signal.SIGTERM:
        toy.trouble.unlink()
        assert toy.run() == 0
        assert toy.steps_run.count("prepare") == 1


def test_runs_under_one_root_have_pages_of_their_own(tmp_path: Path) -> None:
    lines = []
    for name in ("run-1", "run-2"):
        page = tmp_path / name / "validate-inputs" / "data_report"
        page.parent.mkdir(parents=True)
        page.write_text(f"of {name}", encoding="utf-8")
        outputs = {"parameters": {}, "artifacts": {"data_report": {"path": str(page)}}}
        run = LocalRun(name="toy", target="", arguments={}, pipeline_root=tmp_path)
        lines += run_command._next_steps(outputs, run, [])
    pages = [Path(line.partition("Data:")[2].strip()) for line in lines]
    assert [page.read_text(encoding="utf-8") for page in pages] == ["of run-1", "of run-2"]
    assert (tmp_path / "data-report.html").read_text(encoding="utf-8") == "of run-2"


def test_the_page_that_a_refused_run_names_opens_as_one(tmp_path: Path) -> None:
    made = tmp_path / "run-1" / "validate-inputs" / "data_report"
    made.parent.mkdir(parents=True)
    made.write_text("of run-1", encoding="utf-8")
    page = tmp_path / "run-1" / "data-report.html"
    cause = f"1 row is bad.\nBad rows: /elsewhere\nReport: {made}"
    assert run_command._with_pages(cause, tmp_path) == f"1 row is bad.\nBad rows: /elsewhere\nReport: {page}"
    assert page.read_text(encoding="utf-8") == "of run-1"
    assert (tmp_path / "data-report.html").read_text(encoding="utf-8") == "of run-1"
    assert run_command._with_pages("Report: /nowhere/data_report", tmp_path) == "Report: /nowhere/data_report"


def test_a_training_that_was_stopped_is_kept_too() -> None:
    finished = [StepFinished("Import", 1.0, {}, False)]
    assert run_command._kept(finished, 1200).startswith(
        "1 finished step and a training up to its step 1,200 are kept; "
    )
    assert run_command._kept([], 7).startswith("A training up to its step 7 is kept; ")


def test_steps_end_when_the_command_itself_is_killed(
    hanging: Callable[[str], tuple["subprocess.Popen[str]", list[int]]],
) -> None:
    command, pids = hanging("hang stubborn")
    command.kill()
    command.wait()
    assert all_end(pids)


def test_spaces_in_paths_and_files_where_the_user_stands_do_no_harm_and_without_a_summary_outputs_are_shown(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / "my project" / ".venv"
    environment.parent.mkdir()
    environment.symlink_to(sys.prefix, target_is_directory=True)
    monkeypatch.setattr(sys, "executable", str(environment / "bin" / "python"))
    (tmp_path / "kfp.py").write_text("raise RuntimeError('shadowed')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    run = LocalRun(
        name="plain",
        target="toy_pipelines:plain_pipeline",
        arguments={"text": "plum", "ran": str(toy.ran)},
        pipeline_root=toy.root,
    )
    assert run_locally(run, SparseDisplay(toy.shown.append)) == 0, toy.output
    assert "/prepare/data" in toy.shown[-1]


def quiet() -> SparseDisplay:
    return SparseDisplay(lambda line: None)


def test_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"Cannot write to the pipeline root .*file.*--pipeline-root"):
        prepare_root(tmp_path / "file" / "runs", quiet())


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a folder that even root cannot write to")
def test_root_without_permission_is_refused() -> None:
    with pytest.raises(ParameterError, match="Cannot write to the pipeline root /proc/rlhf-runs"):
        prepare_root(Path("/proc/rlhf-runs"), quiet())


#: What a run is given of a judge that is loaded, and of one behind a server.
LOCAL: dict[str, Value] = {name: PARAMETERS[name].default for name in OF_A_JUDGE} | {
    "judge": "local_model",
    "judge_model": "m",
}
SERVED = LOCAL | {"judge": "language_model", "judge_endpoint": "http://localhost:1/v1"}


def free(number: int) -> Callable[[Path], object]:
    return lambda path: shutil._ntuple_diskusage(10**12, 0, number)


def test_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", free(10**7))
    with pytest.raises(RunError, match="Only 10 MB are free"):
        prepare_root(tmp_path, quiet())


def test_nearly_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(shutil, "disk_usage", free(10**9))
    prepare_root(tmp_path, SparseDisplay(lines.append))
    assert len(lines) == 1
    assert "only 1.0 GB are free" in lines[0]


def test_home_folder_may_be_abbreviated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepare_root(Path("~/runs"), quiet()) == tmp_path / "runs"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"registry_dir": "FILE/r"},
            r"registered in FILE/r, where nothing .*: Not a directory\..* registry_dir, or .*RLHF_",
        ),
        ({"registry_dir": ""}, "registered in FILE/models, where nothing can be written"),
        (SERVED, "verdicts would be kept in FILE/cache.* RLHF_CACHE_DIR"),
        (LOCAL, ""),
    ],
)
def test_places_that_a_run_writes_to_at_its_end_are_tried_before_it_begins(
    arguments: dict[str, Value], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(environment, "REGISTRY_DIR", file / "models")
    monkeypatch.setattr(environment, "CACHE_DIR", file / "cache")
    given = arguments | {
        name: value.replace("FILE", str(file)) for name, value in arguments.items() if isinstance(value, str)
    }
    with pytest.raises(MachineError, match=said.replace("FILE", str(file))) if said else nullcontext():
        check_early(given, in_containers=False)


def test_what_can_be_no_key_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "JUDGE_API_KEY", "a key\nand more")
    with pytest.raises(ParameterError, match="RLHF_JUDGE_API_KEY holds can be no key"):
        check_early(SERVED, in_containers=True)
    check_early(LOCAL, in_containers=True)


def test_what_a_judge_lacks_is_told_before_the_run() -> None:
    with pytest.raises(ParameterError, match="judge_max_cost is 2, and there is no judge_price"):
        check_early(SERVED | {"judge_max_cost": 2.0}, in_containers=False)


def test_a_gemini_judge_that_cannot_be_made_is_refused_before_a_run_of_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = LOCAL | {"judge": "gemini"}
    monkeypatch.setitem(sys.modules, "google.genai", None)
    with pytest.raises(ModelError, match="google-genai is missing"):
        check_early(judge, in_containers=False)
    check_early(judge, in_containers=True)


def test_a_vllm_that_is_asked_for_is_missed_before_the_run_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_program, "find_vllm", lambda python: None)
    with pytest.raises(UserError, match="There is no vLLM here, which inference_engine 'vllm' needs"):
        check_early({"inference_engine": "vllm"}, in_containers=False)
    check_early({"inference_engine": "vllm"}, in_containers=True)


def test_closed_output_ends_the_run(toy: Toy) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    stream = Closed()
    with pytest.raises(BrokenPipeError):
        run_locally(toy.request(), SparseDisplay(lambda line: print(line, file=stream)))
