"""`rlhf run --runner docker` on a real engine: the command as a person gives it, steps in our images, no network."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_pipelines.local.containers.engine import RUN_LABEL
from rlhf_tuning.images import LIGHT_IMAGE
from rlhf_tuning.registry import list_models

pytestmark = pytest.mark.docker

#: Of `toy_pipelines`.
FOLDER = Path(__file__).parents[2] / "support"
GOOD, BAD = "salt and gulls and salt", "0 1 2 3 4 5"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to work in, and the environment of a shell whose caches are there too."""
    folder = tmp_path_factory.mktemp("place")
    temporary = tmp_path_factory.mktemp("temporary")  # a run that is killed cannot remove its own
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")]),
        "TMPDIR": str(temporary),
        "RLHF_DOCKER_NETWORK": "none",
        "RLHF_CACHE_DIR": str(folder / "cache"),
        "RLHF_REGISTRY_DIR": str(folder / "models"),
        "HF_HOME": str(folder / "hub"),
        "OMP_NUM_THREADS": "1",
    }
    return folder, environment


def rlhf(place, *arguments):
    folder, environment = place
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_pipelines.cli", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


TOY = """
import signal, sys
from pathlib import Path
from rlhf_pipelines.cli.display import SparseDisplay
from rlhf_pipelines.cli.run_command import LocalRun, new_containers, run_locally
signal.signal(signal.SIGINT, signal.default_int_handler)
root, word = Path(sys.argv[1]), sys.argv[2]
root.mkdir(exist_ok=True)
(root / "trouble").write_text(word)
run = LocalRun(
    name="toy",
    target="toy_pipelines:toy_pipeline",
    arguments={"text": "plum", "ran": str(root / "ran"), "trouble": str(root / "trouble")},
    pipeline_root=root,
    containers=new_containers({"toy/light:1": sys.argv[3]}),
)
sys.exit(run_locally(run, SparseDisplay(lambda line: print(line, flush=True))))
"""


def start_toy(place, root, word, image=LIGHT_IMAGE):
    folder, environment = place
    command = [sys.executable, "-c", TOY, str(root), word, image]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish_toy(*arguments, **keywords):
    process = start_toy(*arguments, **keywords)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def containers_of_runs(engine):
    return engine.containers.list(all=True, filters={"label": RUN_LABEL})


def test_steps_pass_artifacts_between_containers_and_report_their_progress(place, tmp_path, engine):
    status, output = finish_toy(place, tmp_path / "a root", "")
    assert status == 0, output
    assert "Prepare Data: 4 characters" in output
    assert "loss 0.05" in output
    assert "Tuned  PLUM" in output
    assert {path.stat().st_uid for path in (tmp_path / "a root").rglob("*")} == {os.getuid()}
    assert containers_of_runs(engine) == []
    _, again = finish_toy(place, tmp_path / "a root", "")
    assert again.count("cached") == 3


@pytest.mark.parametrize(
    ("trouble", "status", "words"),
    [
        ("user", 2, "row 3 of prompts.jsonl has no input_text."),
        ("crash", 1, "ZeroDivisionError: a fault of ours"),
        ("kill", 1, "the likely cause is that memory ran out"),
        ("segfault", 1, "crashed (Segmentation fault"),
        ("import", 1, "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
    ],
)
def test_a_failed_step_is_explained_as_without_containers(place, tmp_path, trouble, status, words):
    ended, output = finish_toy(place, tmp_path / "root", trouble)
    assert ended == status, output
    assert f"Toy Trainer failed:\n  {words}" in output or words in output
    assert "1 finished step is kept" in output
    assert "Traceback" not in output


def test_a_missing_image_is_told_before_any_step(place, tmp_path):
    status, output = finish_toy(place, tmp_path / "root", "", image="rlhf-pipelines/light:0.0.0")
    assert status == 2
    assert "The Docker engine does not have rlhf-pipelines/light:0.0.0" in output
    assert "started" not in output


@pytest.mark.parametrize(
    ("word", "number", "status"),
    [
        ("hang", signal.SIGINT, 130),
        ("hang", signal.SIGTERM, 143),
        ("hang stubborn", signal.SIGINT, 130),
        ("hang", signal.SIGKILL, -9),
    ],
)
def test_a_stopped_run_leaves_no_container(place, tmp_path, engine, word, number, status):
    root = tmp_path / "root"
    process = start_toy(place, root, word)
    deadline = time.monotonic() + 60
    while not ((root / "ran").exists() and "pids" in (root / "ran").read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(containers_of_runs(engine)) == 1
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    if number != signal.SIGKILL:
        assert "Stopped during Toy Trainer. 1 finished step is kept" in output
    deadline = time.monotonic() + 20
    while containers_of_runs(engine) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert containers_of_runs(engine) == []


@pytest.fixture(scope="module")
def job(place, tiny_model):
    """The values of a short job on a tiny model; the dataset beside the folder, its path with a tilde."""
    folder, environment = place
    home = folder / "home"
    home.mkdir()
    environment["HOME"] = str(home)
    rows = [
        {
            "input_text": f"Create {number}.",
            "candidate_0": GOOD if number % 2 else BAD,
            "candidate_1": BAD if number % 2 else GOOD,
            "choice": (number + 1) % 2,
        }
        for number in range(60)
    ]
    (home / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts").mkdir()
    for part in (0, 1):
        prompts = [{"input_text": f"Create {number}, please."} for number in range(part, 40, 2)]
        text = "".join(json.dumps(row) + "\n" for row in prompts)
        (folder / "prompts" / f"{part}.jsonl").write_text(text)
    values = {
        "preference_dataset": "~/preferences.jsonl",
        "prompt_dataset": "prompts/*.jsonl",
        "large_model_reference": str(tiny_model),
        "model_display_name": "tiny",
        "prompt_sequence_length": 48,
        "target_sequence_length": 12,
        "reward_model_train_steps": 5,
        "reinforcement_learning_train_steps": 3,
        "batch_size": 4,
        "lora_dim": 4,
        "reward_lora_dim": 4,
        "min_reward_model_accuracy": 0.0,
        "scorer": "house_style",
        "dtype": "float32",
    }
    (folder / "values.json").write_text(json.dumps(values))
    return place


def test_the_whole_job_ends_in_a_model_that_this_machine_loads(job, engine):
    status, output = rlhf(job, "run", "--runner", "docker", "--parameter-values", "values.json")
    assert status == 0, output
    folder, _ = job
    (version,) = list_models(folder / "models")
    assert version.path.owner() == folder.owner()
    assert {path.stat().st_uid for path in (folder / "runs").rglob("*")} == {os.getuid()}
    assert "rlhf predict --model tiny@1" in output
    assert (folder / "runs" / "report.html").is_file()
    assert containers_of_runs(engine) == []
    answered, answer = rlhf(job, "predict", "--model", "tiny@1", "--prompt", "Create 1.")
    assert answered == 0, answer
    assert answer.strip()


def test_a_mistake_in_the_data_gets_the_message_and_status_of_a_run_without_containers(job):
    folder, _ = job
    (folder / "bad.jsonl").write_text('{"input_text": ""}\n')
    arguments = ("run", "--parameter-values", "values.json", "--prompt-dataset", "bad.jsonl")
    without = rlhf(job, *arguments, "--pipeline-root", "bad-1")
    within = rlhf(job, *arguments, "--pipeline-root", "bad-2", "--runner", "docker")
    assert without[0] == within[0] == 2
    problem = [line for line in without[1].splitlines() if "bad.jsonl:1" in line]
    assert problem
    assert problem == [line for line in within[1].splitlines() if "bad.jsonl:1" in line]
