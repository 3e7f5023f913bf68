import io
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rlhf_tuning
from rlhf_pipelines.cli import rlhf, run_command
from rlhf_tuning import registry
from rlhf_tuning.images import LIGHT_IMAGE, TRAINER_IMAGE
from rlhf_tuning.parameters import PARAMETERS

REQUIRED = ["--prompt-dataset", "p.jsonl", "--preference-dataset", "q.jsonl", "--large-model-reference", "some/model"]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[run_command.LocalRun]:
    """The runs that the command would start."""
    started: list[run_command.LocalRun] = []

    def run_locally(run: run_command.LocalRun, display: object) -> int:
        started.append(run)
        return 0

    monkeypatch.setattr(run_command, "run_locally", run_locally)
    return started


def run_rlhf(*arguments: str, stdin: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "rlhf_pipelines.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_importing_the_command_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rlhf_pipelines.cli import rlhf; rlhf.build_parser().format_help();"
        "print(sorted(set(sys.modules) & "
        "{'kfp', 'torch', 'transformers', 'yaml', 'google.auth', 'google.api_core', 'numpy', 'huggingface_hub'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_version() -> None:
    assert run_rlhf("--version").stdout == f"rlhf {rlhf_tuning.__version__}\n"


def test_a_character_that_the_terminal_cannot_show_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="latin-1"))
    monkeypatch.setattr("rlhf_pipelines.cli.model_list.as_table", lambda models: "é 漢 ✓")
    assert rlhf.main(["models"]) == 0
    assert shown.getvalue() == b"\xe9 \\u6f22 \\u2713\n"


@pytest.mark.parametrize(
    ("content", "encoding", "asked"),
    [("é".encode(), "ascii", "é"), (b"\xe9", "latin-1", "é"), (b"\xe9", "ascii", None)],
)
def test_a_prompt_from_standard_input_is_read_whatever_the_terminal(
    content: bytes,
    encoding: str,
    asked: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding=encoding))
    monkeypatch.setattr("rlhf_pipelines.cli.commands.predict._ask_model", lambda options, prompt: prompt)
    assert rlhf.main(["predict", "--model", "m", "--prompt", "-"]) == (0 if asked else 2)
    said = capsys.readouterr()
    assert said.out == f"{asked}\n" if asked else "no UTF-8 text" in said.err


def test_closed_streams_are_no_failure() -> None:
    command = f"{shlex.quote(sys.executable)} -m rlhf_pipelines.cli models <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0


def test_what_a_launcher_left_in_the_shell_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    left = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "ACCELERATE_USE_FSDP", "TORCHELASTIC_RUN_ID")
    kept = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "RLHF_PROCESSES")
    for name in (*left, *kept, "OMPI_COMM_WORLD_LOCAL_RANK"):
        monkeypatch.setenv(name, "2")
    assert rlhf.main(["models"]) == 0
    assert [name for name in (*left, *kept, "OMPI_COMM_WORLD_LOCAL_RANK") if name in os.environ] == list(kept)


def test_help_marks_parameters_that_only_other_pipelines_have(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rlhf.main(["run", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("only of recurring_rlhf_pipeline") == 2
    assert shown.count("only of smoke_pipeline") == 1


def test_help_names_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rlhf.main(["run", "--help"])
    shown = capsys.readouterr().out
    for name in PARAMETERS:
        assert f"--{name.replace('_', '-')} " in shown
    assert "default: True" not in shown
    assert "default: False" not in shown


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert rlhf.main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--kl-coeff", "--kl_coeff"])
def test_flags_have_both_spellings(runs: list[run_command.LocalRun], flag: str) -> None:
    assert rlhf.main(["run", *REQUIRED, flag, "0.05"]) == 0
    assert runs[0].arguments["kl_coeff"] == 0.05
    assert runs[0].target == "rlhf_pipelines.rlhf_pipeline:rlhf_pipeline"


@pytest.mark.parametrize(
    ("flags", "value"), [([], True), (["--deploy-model", "false"], False), (["--deploy-model"], True)]
)
def test_switch_takes_a_value_or_stands_alone(runs: list[run_command.LocalRun], flags: list[str], value: bool) -> None:
    rlhf.main(["run", *flags, *REQUIRED])
    assert runs[0].arguments["deploy_model"] is value


def test_options_of_the_run_arrive(runs: list[run_command.LocalRun], tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("prompt_dataset: p\nlarge_model_reference: m\nseed: 1\n", encoding="utf-8")
    arguments = ["run", "--pipeline", "infer_pipeline", "--parameter-values", str(values)]
    assert rlhf.main([*arguments, "--seed", "2", "--no-cache", "--pipeline-root", "elsewhere"]) == 0
    (run,) = runs
    assert run.name == "infer_pipeline"
    assert run.arguments["prompt_dataset"] == "p"
    assert run.arguments["seed"] == 2
    assert run.caching is False
    assert run.pipeline_root == Path("elsewhere")


def test_steps_run_in_containers_only_when_asked_and_with_the_images_named(runs: list[run_command.LocalRun]) -> None:
    rlhf.main(["run", *REQUIRED])
    assert runs[0].containers is None
    rlhf.main(["run", *REQUIRED, "--runner", "docker", "--image", "light=r/light:2", "--image", "trainer=r/trainer:2"])
    rlhf.main(["run", *REQUIRED, "--runner", "docker"])
    ours, plain = runs[1].containers, runs[2].containers
    assert ours is not None
    assert plain is not None
    assert ours.images == {LIGHT_IMAGE: "r/light:2", TRAINER_IMAGE: "r/trainer:2"}
    assert plain.images == {}
    assert ours.run_id != plain.run_id


def test_an_image_flag_without_containers_is_refused(
    runs: list[run_command.LocalRun], capsys: pytest.CaptureFixture[str]
) -> None:
    assert rlhf.main(["run", *REQUIRED, "--image", "light=r/light:2"]) == 2
    assert "--image needs --runner docker" in capsys.readouterr().err
    assert runs == []


def test_wrong_parameters_end_with_status_2_before_anything_starts(
    runs: list[run_command.LocalRun], capsys: pytest.CaptureFixture[str]
) -> None:
    assert rlhf.main(["run", *REQUIRED, "--reward-model-train-steps", "0", "--kl-coeff", "nan"]) == 2
    message = capsys.readouterr().err
    assert "reward_model_train_steps is 0; it must be at least 1" in message
    assert "kl_coeff is nan" in message
    assert runs == []


def test_misspelt_flag_is_answered_with_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert rlhf.main(["run", "--reward-model-steps", "3"]) == 2
    assert "Did you mean --reward-model-train-steps?" in capsys.readouterr().err


def test_flags_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert rlhf.main(["run", "--kl", "3"]) == 2
    assert "unrecognized arguments: --kl 3" in capsys.readouterr().err


def test_no_message_moves_the_cursor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "values.json").write_text('{"\\u001b[31mred": 1, "b\\u009bad": 1}')
    assert rlhf.main(["run", "--parameter-values", str(tmp_path / "values.json")]) == 2
    assert {c for c in capsys.readouterr().err if not c.isprintable()} == {"\n"}


@pytest.mark.parametrize("path", ["gs://bucket/x", ""])
@pytest.mark.parametrize(
    "command",
    [
        *("run --pipeline-root", "compile --output-dir", "validate --output-dir", "report x --output"),
        *("convert x.csv --output", "compare x y --output", "run --parameter-values"),
    ],
)
def test_what_is_written_here_has_a_path_here(command: str, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        rlhf.main([*command.split(), path])
    assert caught.value.code == 2
    assert f"argument {command.split()[-1]}" in (said := capsys.readouterr().err)
    assert f"{path!r} is no path on this machine" in said


@pytest.mark.parametrize("number", ["0", "-1", "x", "1" * 5000])
def test_a_count_is_1_or_more(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rlhf.main(["plan", "--sample", "--mean-prompt-tokens", number])
    assert "argument --mean-prompt-tokens" in (said := capsys.readouterr().err)
    assert "cannot be used; give a whole number of 1 to" in said


def test_unknown_pipeline_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        rlhf.main(["run", "--pipeline", "none"])
    assert caught.value.code == 2
    assert "rlhf_pipeline" in capsys.readouterr().err


def test_unexpected_error_is_one_line_and_its_details_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(run: object, display: object) -> int:
        raise RuntimeError("surprise")

    monkeypatch.setattr(run_command, "run_locally", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert rlhf.main(["run", *REQUIRED]) == 1
    message = capsys.readouterr().err
    assert message.startswith("rlhf: unexpected RuntimeError: surprise\n")
    assert "Traceback" not in message
    assert "Traceback" in Path(message.split()[-1]).read_text(encoding="utf-8")


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(run: object, display: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_command, "run_locally", interrupt)
    assert rlhf.main(["run", *REQUIRED]) == 130
    assert capsys.readouterr().err == "rlhf: interrupted\n"


def register(folder: Path) -> None:
    model = folder / "made"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    registry.register_model(
        model_dir=str(model),
        adapter_dir="",
        name="plantation",
        manifest={"base_model": "smollm2-135m-instruct"},
        registry_dir=folder / "registry",
    )


def test_models_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register(tmp_path)
    assert rlhf.main(["models", "--registry-dir", str(tmp_path / "registry")]) == 0
    assert "smollm2-135m-instruct" in capsys.readouterr().out


def test_models_into_a_closed_pipe_says_nothing(tmp_path: Path) -> None:
    register(tmp_path)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_pipelines.cli", "models", "--registry-dir", str(tmp_path / "registry")],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_predict_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from rlhf_tuning.generation import generate

    asked: dict[str, Any] = {}

    def predict(model: str, prompt: str, **options: object) -> str:
        asked.update(options, model=model, prompt=prompt)
        return "An answer."

    monkeypatch.setattr(registry, "named_model", lambda model, registry_dir: None)
    monkeypatch.setattr(generate, "predict", predict)
    assert rlhf.main(["predict", "--model", "plantation@2", "--prompt", "Describe it.", "--max-tokens", "9"]) == 0
    assert capsys.readouterr().out == "An answer.\n"
    assert asked == {
        "model": "plantation@2",
        "prompt": "Describe it.",
        "registry_dir": None,
        "target_sequence_length": 9,
        "temperature": 0.0,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "No model 'nobody' in the registry"),
        (("--temperature", "-1"), "--temperature is -1"),
        (("--seed", "-1"), "--seed is -1"),
    ],
)
def test_what_cannot_be_asked_ends_with_status_2_before_torch_is_loaded(
    flags: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "rlhf_tuning.generation.generate", None)
    asked = ["predict", "--model", "nobody", "--prompt", "x", "--registry-dir", str(tmp_path)]
    assert rlhf.main([*asked, *flags]) == 2
    assert words in capsys.readouterr().err


def test_predict_without_torch_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')", encoding="utf-8"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    done = run_rlhf(
        "predict",
        "--model",
        str(tmp_path / "model"),
        "--prompt",
        "x",
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    )
    assert done.returncode == 2
    assert "needs the package torch" in done.stderr
    assert "pip install 'rlhf-pipelines[train]'" in done.stderr


def test_compile_takes_a_target_a_machine_and_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = ["--image", f"light=r/light@sha256:{'0' * 64}", "--image", "trainer=r/trainer:2"]
    folders = ["--output-dir", str(tmp_path), "--components-dir", str(tmp_path / "components")]
    assert rlhf.main(["compile", "--target", "vertex", "--machine", "l4", *images, *folders]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    paths = [Path(line) for line in shown.out.split()]
    assert {path.parent for path in paths} == {tmp_path / "vertex", tmp_path / "components"}
    for path in paths:
        assert "image: r/" in path.read_text()
        if path.parent == tmp_path / "components":
            continue
        assert "type: NVIDIA_L4\n" in path.read_text()
        assert "image: r/trainer:2\n" in path.read_text()


@pytest.mark.parametrize(
    ("flags", "warnings"),
    [
        (["--target", "local"], []),
        (["--target", "kubeflow"], ["cannot be pulled"]),
        (["--target", "vertex", "--image", "light=r/light:1"], [f"warning: {TRAINER_IMAGE} cannot be pulled"]),
        (
            ["--target", "vertex", "--machine", "h100-x2"],
            ["not on demand", "name them with --image light="],
        ),
    ],
)
def test_compile_warns_of_what_will_not_run_as_it_is(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    warnings: list[str],
) -> None:
    monkeypatch.setattr("rlhf_pipelines.compile.compile_all", lambda *_: [])
    assert rlhf.main(["compile", *flags, "--output-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(warnings)
    for line, warning in zip(lines, warnings, strict=True):
        assert line.startswith("rlhf: warning: ")
        assert warning in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target", "vertex", "--machine", "a100-80g"], "Did you mean a100-80gb"),
        (["--target", "local", "--machine", "l4"], "--target local runs on this machine as it is"),
        (["--machine", "l4"], "--machine needs --target: vertex or kubeflow."),
        (["--output-dir", "/dev/null/there"], "--output-dir is '/dev/null/there', where nothing can be written"),
        (
            ["--components-dir", "/dev/null/there"],
            "--components-dir is '/dev/null/there', where nothing can be written",
        ),
    ],
)
def test_what_compile_cannot_do_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert rlhf.main(["compile", "--output-dir", str(tmp_path), *flags]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
