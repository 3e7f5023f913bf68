"""The commands `submit`, `jobs` and `schedule`, apart from any one backend; the backends have tests of their own."""

import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from recording_backend import Recording, job, lost, task

from rlhf_pipelines.backends import backend as backends
from rlhf_pipelines.backends.backend import State
from rlhf_pipelines.cli import rlhf
from rlhf_pipelines.cli.job_display import follow
from rlhf_tuning.errors import ModelNotAtHandError, RunError
from rlhf_tuning.models.architecture import LLAMA_8B
from rlhf_tuning.planning import run_budget
from rlhf_tuning.planning.forecast import Plan

TEMPLATE = str(Path(__file__).parents[3] / "pipelines" / "compiled" / "vertex" / "rlhf_pipeline.yaml")
VALUES = {
    "prompt_dataset": "gs://b/prompts/*.jsonl",
    "preference_dataset": "gs://b/preferences.jsonl",
    "large_model_reference": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "model_display_name": None,
}
VERTEX = ["--project", "my-project", "--location", "us-central1", "--pipeline-root", "gs://b/runs"]


@pytest.fixture(autouse=True)
def recording(monkeypatch):
    for target in backends.BACKENDS:
        monkeypatch.setitem(backends.BACKENDS, target, "recording_backend:Recording")
    monkeypatch.setattr(Recording, "found", [])
    monkeypatch.setattr(Recording, "story", [])
    monkeypatch.setattr("rlhf_pipelines.cli.job_display._POLL_SECONDS", 0.0)


@pytest.fixture
def values(tmp_path):
    file = tmp_path / "values.json"
    file.write_text(json.dumps(VALUES), encoding="utf-8")
    return ["--parameter-values", str(file), "--template-path", TEMPLATE]


def test_submits_what_the_flags_and_the_file_say(values, capsys):
    flags = ["--kl-coeff", "0.05", "--label", "team=writing", "--service-account", "a@b.iam.gserviceaccount.com"]
    assert rlhf.main(["submit", *values, *VERTEX, *flags, "--no-cache", "--failure-policy", "fast"]) == 0
    (submission,) = Recording.last.submissions
    assert Recording.last.connection.project == "my-project"
    assert submission.values["kl_coeff"] == 0.05
    assert submission.values["project"] == "my-project"
    assert submission.values["model_display_name"] == ""
    assert submission.labels == {"team": "writing"}
    assert submission.caching is False
    assert submission.fail_fast is True
    assert submission.pipeline_root == "gs://b/runs"
    assert submission.spec["pipelineInfo"]["name"] == "rlhf-pipeline"
    shown = capsys.readouterr().out
    assert "https://console/runs/rlhf-1" in shown
    assert "rlhf jobs follow rlhf-1 --project my-project --location us-central1" in shown


def test_the_job_has_a_project_also_where_the_pipeline_has_no_such_parameter(tmp_path):
    arguments = ["--pipeline", "infer_pipeline", "--prompt-dataset", "gs://b/p", "--large-model-reference", "a/b"]
    assert rlhf.main(["submit", *arguments, *VERTEX]) == 0
    assert Recording.last.connection.project == "my-project"
    assert "project" not in Recording.last.submissions[0].values


def test_caching_is_left_to_the_steps_unless_it_is_switched_off(values):
    rlhf.main(["submit", *values, *VERTEX])
    assert Recording.last.submissions[0].caching is None


def test_a_cost_has_the_list_price_of_the_machine_and_what_it_is_not_enough_for_is_not_submitted(
    values, monkeypatch, capsys
):
    plan = Plan(reward_model_train_steps=100, reinforcement_learning_train_steps=100)
    monkeypatch.setattr(run_budget, "plan_of_data", lambda *_, **__: (plan, LLAMA_8B, LLAMA_8B))
    flags = ["submit", *values[:2], *VERTEX, "--machine", "a100-80gb"]
    assert rlhf.main([*flags, "--max-cost", "500"]) == 0
    (submission,) = Recording.last.submissions
    assert submission.values["price_per_hour"] == 5.0688
    assert "rlhf: price: 5.0688 USD an hour: a2-ultragpu-1g on demand in us-central1" in capsys.readouterr().err
    env = submission.spec["deploymentSpec"]["executors"]["exec-validate-inputs"]["container"]["env"]
    assert env == [{"name": "RLHF_MACHINE", "value": "a100-80gb"}]
    # Of a YAML it is the machine that it is compiled for.
    assert rlhf.main(["submit", *values, *VERTEX, "--max-cost", "500"]) == 0
    assert Recording.last.submissions[0].values["price_per_hour"] == 5.0688
    assert rlhf.main(["submit", *values, *VERTEX, "--max-cost", "5", "--price-per-hour", "4"]) == 2
    assert "The budget is 5.00 at 4 an hour" in capsys.readouterr().err
    assert rlhf.main([*flags, "--max-cost", "5", "--price-per-hour", "4"]) == 2
    assert "The budget is 5.00 at 4 an hour, 1 h 15 min, and this run is forecast" in capsys.readouterr().err
    assert rlhf.main([*flags[:-2], "--machine", "h200-x8", "--max-cost", "5"]) == 2
    assert "The list has no price of h200-x8 in that region." in capsys.readouterr().err
    assert not Recording.last.submissions


def test_a_budget_whose_data_is_not_here_is_left_to_the_first_step(values, monkeypatch, capsys):
    def away(*_, **__):
        raise ModelNotAtHandError("The hub cannot be reached.")

    monkeypatch.setattr(run_budget, "plan_of_data", away)
    assert rlhf.main(["submit", *values[:2], *VERTEX, "--max-hours", "1"]) == 0
    assert "the budget is checked by the job's first step, not here: The hub" in capsys.readouterr().err


def test_a_dry_run_shows_the_job_and_submits_nothing(values, capsys):
    assert rlhf.main(["submit", *values, *VERTEX, "--dry-run"]) == 0
    assert Recording.last.submissions == []
    shown = capsys.readouterr().out
    assert "train-reward-model" in shown
    assert "prompt_dataset = 'gs://b/prompts/*.jsonl'" in shown
    assert "kl_coeff" not in shown


def test_every_problem_is_listed_and_nothing_is_submitted(values, capsys, monkeypatch):
    monkeypatch.setattr(Recording, "found", ["the bucket is in europe", "the label is wrong"])
    assert rlhf.main(["submit", *values, *VERTEX]) == 2
    assert Recording.last.submissions == []
    shown = capsys.readouterr().err
    assert "  - the bucket is in europe\n  - the label is wrong" in shown


def test_a_base_model_that_is_here_and_cannot_be_tuned_is_refused(values, capsys, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert rlhf.main(["submit", *values, *VERTEX, "--large-model-reference", str(tmp_path)]) == 2
    assert Recording.last.submissions == []
    assert "It is an adapter alone" in capsys.readouterr().err


def test_wrong_parameters_end_before_any_backend_is_asked(capsys, values):
    del_attr = Recording.__dict__.get("last")
    assert rlhf.main(["submit", *values, *VERTEX, "--kl-coeff", "nan", "--batch-size", "0"]) == 2
    assert "2 parameters cannot be used" in capsys.readouterr().err
    assert Recording.__dict__.get("last") is del_attr


@pytest.mark.parametrize("command", [("submit",), ("schedule", "create", "--cron", "0 3 * * 1")])
def test_a_key_in_place_of_the_name_of_its_secret_is_refused_and_not_shown(values, capsys, monkeypatch, command):
    monkeypatch.setattr(Recording, "last", None, raising=False)
    assert rlhf.main([*command, *values, *VERTEX, "--judge-key-secret", "sk-hunter2"]) == 2
    shown = "".join(capsys.readouterr())
    assert "judge_key_secret is no name of a secret" in shown
    assert "hunter2" not in shown
    assert Recording.last is None


@pytest.mark.parametrize("label", ["team", "=x"])
def test_a_label_without_key_and_value_is_refused(values, capsys, label):
    assert rlhf.main(["submit", *values, *VERTEX, "--label", label]) == 2
    assert "give KEY=VALUE" in capsys.readouterr().err


def test_a_template_that_is_no_pipeline_of_ours_is_refused(tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text("pipelineInfo: {name: other}\n", encoding="utf-8")
    assert rlhf.main(["submit", "--template-path", str(other), *VERTEX]) == 2
    assert "none of our pipelines" in capsys.readouterr().err


def test_a_machine_beside_a_template_is_refused(values, capsys):
    assert rlhf.main(["submit", *values, *VERTEX, "--machine", "l4"]) == 2
    assert "leave them away beside --template-path" in capsys.readouterr().err


def test_a_host_means_kubeflow(monkeypatch, values):
    monkeypatch.setitem(backends.BACKENDS, "vertex", "nowhere:Nothing")
    assert rlhf.main(["jobs", "list", "--host", "http://localhost:8080", "--namespace", "team"]) == 0
    assert (Recording.last.connection.host, Recording.last.connection.namespace) == ("http://localhost:8080", "team")


def test_a_file_of_the_vertex_job_may_name_its_project_on_kubeflow(tmp_path):
    file = tmp_path / "values.json"
    file.write_text(json.dumps(VALUES | {"project": "my-project", "location": "us-central1"}), encoding="utf-8")
    assert rlhf.main(["submit", "--parameter-values", str(file), "--host", "http://localhost:8080"]) == 0
    assert Recording.last.connection.project == ""
    assert Recording.last.submissions[0].values["project"] == "my-project"


def test_waiting_shows_each_step_once_and_ends_with_the_outputs(values, capsys, monkeypatch):
    running = job(State.RUNNING, task("Validate Inputs", State.RUNNING), task("Reinforcer", State.PENDING))
    story = [
        running,
        running,
        lost(),
        job(State.RUNNING, task("Validate Inputs", State.SUCCEEDED), task("Reinforcer", State.RUNNING)),
        job(State.SUCCEEDED, task("Validate Inputs", State.SUCCEEDED), task("Reinforcer", State.CACHED)),
    ]
    monkeypatch.setattr(Recording, "story", story)
    assert rlhf.main(["submit", *values, *VERTEX, "--wait"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("Validate Inputs: running") == 1
    assert "Validate Inputs: succeeded after 60 s" in shown
    assert "no answer, asking again" in shown
    assert "Reinforcer: cached" in shown
    assert "succeeded after 1 h 00 min" in shown
    assert "model_resource_name  models/m@1" in shown


def test_a_failed_job_ends_with_its_error_and_status_1(capsys, monkeypatch):
    monkeypatch.setattr(
        Recording, "story", [job(State.FAILED, task("Reinforcer", State.FAILED, error="out of \x1b[31mmemory"))]
    )
    assert rlhf.main(["jobs", "follow", "rlhf-1", *VERTEX[:4]]) == 1
    shown = capsys.readouterr().out
    assert "Reinforcer: out of [31mmemory" in shown
    assert "\x1b" not in shown


def test_a_service_that_stays_silent_is_asked_for_ten_minutes(monkeypatch):
    monkeypatch.setattr(Recording, "story", [lost() for _ in range(100)])
    times = itertools.count(0, 60)
    silent = backends.connect("vertex", backends.Connection())
    with pytest.raises(RunError):
        follow(silent, "rlhf-1", lambda line: None, clock=lambda: float(next(times)))
    assert 9 <= 100 - len(Recording.story) <= 12


def test_ctrl_c_says_that_the_job_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(Recording, "story", [KeyboardInterrupt()])
    assert rlhf.main(["jobs", "follow", "rlhf-1", "--project", "p", "--location", "l"]) == 130
    shown = capsys.readouterr().out
    assert "rlhf jobs follow rlhf-1 --project p --location l" in shown
    assert "rlhf jobs cancel rlhf-1 --project p --location l" in shown


def test_jobs_are_listed_shown_and_cancelled(capsys, monkeypatch):
    monkeypatch.setattr(Recording, "story", [job(State.RUNNING, task("Validate Inputs", State.SUCCEEDED))] * 2)
    assert rlhf.main(["jobs", "list"]) == 0
    assert rlhf.main(["jobs", "show", "rlhf-1"]) == 0
    assert rlhf.main(["jobs", "show", "rlhf-1", "--json"]) == 0
    assert rlhf.main(["jobs", "cancel", "rlhf-1"]) == 0
    shown = capsys.readouterr().out
    assert "JOB     NAME" in shown
    assert "Validate Inputs  succeeded" in shown
    assert '"state": "running"' in shown
    assert Recording.last.calls == [("cancel", "rlhf-1")]


def test_a_job_is_resumed(capsys):
    assert rlhf.main(["resume", "rlhf-1", "--project", "p", "--location", "us-central1"]) == 0
    assert "rlhf jobs follow rlhf-1 --project p --location us-central1" in capsys.readouterr().out
    assert Recording.last.calls == [("resume_job", "rlhf-1")]


@pytest.mark.parametrize("command", [["submit"], ["resume", "rlhf-1"]])
def test_names_that_a_server_gives_move_no_cursor(values, capsys, monkeypatch, command):
    evil = replace(job(State.PENDING), name="jobs/\x1b[2Jrlhf-1", display_name="\x1b[31mEVIL", link="https://\x1b]0;x")
    monkeypatch.setattr(Recording, "submit", lambda self, submission: evil)
    monkeypatch.setattr(Recording, "resume_job", lambda self, name: evil)
    assert rlhf.main([*command, *(values if command == ["submit"] else []), *VERTEX[:4]]) == 0
    shown = capsys.readouterr().out
    assert "ed [31mEVIL\n  job      jobs/[2Jrlhf-1\n  console  https://]0;x\nFollow it with: " in shown
    assert "\x1b" not in shown


def test_a_job_that_does_not_exist_is_the_persons_mistake(capsys):
    assert rlhf.main(["jobs", "show", "nope"]) == 2
    assert "There is no job nope." in capsys.readouterr().err


def test_a_schedule_gets_its_plan(values, capsys):
    plan = ["--cron", "0 3 * * 1", "--time-zone", "Europe/Zurich", "--start", "2027-01-31T06:00", "--max-runs", "3"]
    assert rlhf.main(["schedule", "create", *values, *VERTEX, *plan]) == 0
    made = Recording.last.plan
    assert made.start == datetime(2027, 1, 31, 5, 0, tzinfo=UTC)
    assert (made.cron, made.time_zone, made.max_runs, made.max_concurrent_runs) == ("0 3 * * 1", "Europe/Zurich", 3, 1)
    assert made.queue is False
    assert "0 3 * * 1 (Europe/Zurich)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cron", "0 3 * *"], "cron"),
        (["--cron", "0 3 * * 1", "--time-zone", "Zurich"], "Zurich"),
        (["--cron", "0 3 * * 1", "--time-zone", "Zurich", "--start", "2027-01-31"], "Zurich"),
        (["--cron", "0 3 * * 1", "--start", "tomorrow"], "--start is 'tomorrow'"),
        (["--cron", "0 3 * * 1", "--start", "2027-01-02", "--end", "2027-01-01"], "--end must come after --start"),
        (["--cron", "0 3 * * 1", "--end", "2020-01-01"], "--end is 2020-01-01 00:00 UTC, before the first run"),
        (["--cron", "0 3 * * 1", "--start", "9999-12-31"], "--start is '9999-12-31'"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_plan_that_cannot_be_is_refused(values, capsys, flags, message, dry):
    assert rlhf.main(["schedule", "create", *values, *VERTEX, *flags, *dry]) == 2
    assert message in capsys.readouterr().err


def test_a_dry_run_of_a_schedule_has_the_backend_check_its_plan(values, capsys):
    assert (
        rlhf.main(["schedule", "create", *values, *VERTEX, "--cron", "0 3 * * 1", "--max-runs", "3", "--dry-run"]) == 0
    )
    ((checked, _, plan),) = Recording.last.calls
    assert (checked, plan.max_runs, Recording.last.submissions) == ("check_schedule", 3, [])


@pytest.mark.parametrize(
    "command",
    [
        ["jobs", "list", "--limit"],
        ["schedule", "list", "--limit"],
        ["schedule", "create", "--cron", "0 3 * * 1", "--max-runs"],
        ["schedule", "update", "weekly", "--max-concurrent-runs"],
        ["serve", "palms", "--gpus"],
    ],
)
@pytest.mark.parametrize("number", ["0", "-2", "1.5", "9" * 20])
def test_what_counts_something_is_a_whole_number_of_at_least_1(capsys, command, number):
    with pytest.raises(SystemExit, match="2"):
        rlhf.main([*command, number])
    assert f"argument {command[-1]}: {number!r} cannot be used; give a whole number of 1 to" in capsys.readouterr().err


def test_an_update_changes_only_what_is_given(capsys):
    assert rlhf.main(["schedule", "update", "weekly", "--cron", "0 4 * * 1"]) == 0
    (_, _, plan) = Recording.last.calls[-1]
    assert (plan.cron, plan.time_zone) == ("0 4 * * 1", "Europe/Zurich")
    assert rlhf.main(["schedule", "update", "weekly"]) == 2
    assert "Nothing to change" in capsys.readouterr().err


def test_schedules_are_listed_paused_resumed_and_deleted(capsys):
    assert rlhf.main(["schedule", "list"]) == 0
    for action, call in (
        (["pause", "weekly"], ("pause", "weekly")),
        (["resume", "weekly", "--catch-up"], ("resume", "weekly", True)),
        (["delete", "weekly"], ("delete", "weekly")),
    ):
        assert rlhf.main(["schedule", *action]) == 0
        assert Recording.last.calls == [call]
    assert "0 3 * * 1 (Europe/Zurich)" in capsys.readouterr().out
