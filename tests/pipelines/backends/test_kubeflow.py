import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kfp.client import Client
from kubeflow_server import Fault, KubeflowServer

from rlhf_pipelines.backends import kubeflow_client
from rlhf_pipelines.backends.backend import Connection, Job, Plan, ScheduleState, State, Submission, connect
from rlhf_pipelines.backends.kubeflow import Kubeflow
from rlhf_pipelines.compile import compile_for_submission
from rlhf_pipelines.parameters import PIPELINES, check_parameters
from rlhf_tuning.errors import ParameterError, RunError, UserError
from rlhf_tuning.images import IMAGES, LIGHT_IMAGE
from rlhf_tuning.parameters import Value

SPEC: dict[str, Any] = {
    "pipelineInfo": {"name": "toy-pipeline"},
    "schemaVersion": "2.1.0",
    "sdkVersion": "kfp-2.17.0",
    "deploymentSpec": {"executors": {"exec-a": {"container": {"image": "registry.example.com/light@sha256:0"}}}},
    "components": {
        "comp-a": {"executorLabel": "exec-a"},
        "comp-inner": {
            "dag": {
                "tasks": {
                    "a": {
                        "componentRef": {"name": "comp-a"},
                        "taskInfo": {"name": "The A step"},
                        "cachingOptions": {"enableCache": True},
                    }
                }
            }
        },
    },
    "root": {
        "dag": {
            "tasks": {
                "inner": {"componentRef": {"name": "comp-inner"}, "cachingOptions": {"enableCache": True}},
                "b": {"componentRef": {"name": "comp-a"}},
                "last": {"componentRef": {"name": "comp-a"}},
            }
        },
        "inputDefinitions": {
            "parameters": {
                "prompt_dataset": {"parameterType": "STRING", "isOptional": True},
                "large_model_reference": {"parameterType": "STRING", "isOptional": True},
                "registry_dir": {"parameterType": "STRING", "isOptional": True},
                "judge_rubric": {"parameterType": "STRING", "isOptional": True},
                "regression_suite": {"parameterType": "STRING", "isOptional": True},
                "steps": {"parameterType": "NUMBER_INTEGER", "isOptional": True},
            }
        },
    },
}
SUBMISSION = Submission(
    pipeline="toy_pipeline",
    spec=SPEC,
    values={"steps": 7, "prompt_dataset": "gs://data/prompts.jsonl"},
    display_name="tune-1",
)
RUNS, RECURRING = "/apis/v2beta1/runs", "/apis/v2beta1/recurringruns"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's settings, and no waiting."""
    for name in ("KF_PIPELINES_TOKEN", "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT", "CRON_SCHEDULE_TIMEZONE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "kfp" / "context.json"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr(kubeflow_client, "sleep", lambda seconds: None)


@pytest.fixture
def server() -> Iterator[KubeflowServer]:
    with KubeflowServer() as started:
        yield started


def backend(server: KubeflowServer, namespace: str = "") -> Kubeflow:
    return Kubeflow(Connection(host=server.url, namespace=namespace))


# Submission.


def test_submits_everything_that_the_api_has(server: KubeflowServer) -> None:
    job = backend(server).submit(
        replace(
            SUBMISSION,
            pipeline_root="s3://bucket/runs",
            service_account="tuner",
            experiment="search",
            labels={"team": "search", "cost": "7"},
        )
    )
    (received,) = server.received("POST", RUNS)
    (experiment,) = server.experiments()
    assert received.body["pipeline_spec"] == SPEC
    assert received.body["runtime_config"] == {
        "parameters": {"steps": 7, "prompt_dataset": "gs://data/prompts.jsonl"},
        "pipeline_root": "s3://bucket/runs",
    }
    assert received.body["service_account"] == "tuner"
    assert received.body["display_name"] == "tune-1"
    assert experiment["display_name"] == "search"
    assert received.body["experiment_id"] == experiment["experiment_id"]
    assert "Labels: team=search, cost=7" in received.body["description"]
    (run,) = server.runs()
    assert job == Job(
        name=run["run_id"],
        display_name="tune-1",
        pipeline="toy-pipeline",
        state=State.PENDING,
        link=f"{server.url}/#/runs/details/{run['run_id']}",
        created=datetime.fromisoformat(run["created_at"]),
    )


def test_leaves_to_the_installation_what_is_not_given(server: KubeflowServer) -> None:
    backend(server).submit(SUBMISSION)
    body = server.received("POST", RUNS)[0].body
    assert "service_account" not in body
    assert "pipeline_root" not in body["runtime_config"]
    assert [experiment["display_name"] for experiment in server.experiments()] == ["Default"]


def test_uses_the_experiment_that_is_there(server: KubeflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeflow = backend(server)
    monkeypatch.setenv("KF_PIPELINES_DEFAULT_EXPERIMENT_NAME", "ours")
    kubeflow.submit(SUBMISSION)
    kubeflow.submit(SUBMISSION)
    assert [experiment["display_name"] for experiment in server.experiments()] == ["ours"]
    assert len(server.runs()) == 2


def test_uses_the_experiment_that_someone_makes_at_the_same_time(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    kubeflow.submit(SUBMISSION)
    taken = dict(server.stored["experiments"])
    # The list was read before the other's experiment was there.
    server.faults.append(
        Fault(path="/experiments$", status=200, text='{"total_size": 0}', content_type="application/json")
    )
    kubeflow.submit(SUBMISSION)
    assert server.stored["experiments"] == taken
    assert len(server.runs()) == 2


def test_sends_kubernetes_settings_beside_the_pipeline(server: KubeflowServer) -> None:
    both = {"pipeline_spec": SPEC, "platform_spec": {"platforms": {"kubernetes": {}}}}
    job = backend(server).submit(replace(SUBMISSION, spec=both))
    assert server.received("POST", RUNS)[0].body["pipeline_spec"] == both
    assert job.pipeline == "toy-pipeline"


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_sets_caching_in_every_step_also_of_nested_pipelines(
    server: KubeflowServer, caching: bool, beside: bool
) -> None:
    spec = {"pipeline_spec": SPEC, "platform_spec": {}} if beside else SPEC
    backend(server).submit(replace(SUBMISSION, spec=spec, caching=caching))
    sent = server.received("POST", RUNS)[0].body["pipeline_spec"]
    sent = sent["pipeline_spec"] if beside else sent
    tasks = {**sent["root"]["dag"]["tasks"], **sent["components"]["comp-inner"]["dag"]["tasks"]}
    assert {name: task["cachingOptions"]["enableCache"] for name, task in tasks.items()} == dict.fromkeys(
        ("inner", "b", "last", "a"), caching
    )
    assert "cachingOptions" not in SPEC["root"]["dag"]["tasks"]["b"]


def test_prints_and_logs_nothing(
    server: KubeflowServer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    kubeflow = backend(server)
    kubeflow.jobs(3)
    kubeflow.submit(SUBMISSION)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_connecting_sends_nothing(server: KubeflowServer) -> None:
    connect("kubeflow", Connection(host=server.url))
    assert server.requests == []


# A start whose answer does not come.


@pytest.mark.parametrize("status", [0, 500, 503])
def test_a_lost_answer_starts_no_second_run(server: KubeflowServer, status: int) -> None:
    server.faults.append(Fault(method="POST", path=f"{RUNS}$", status=status, after=True))
    job = backend(server).submit(SUBMISSION)
    (run,) = server.runs()
    assert job.name == run["run_id"]
    assert len(server.received("POST", RUNS)) == 1


def test_a_run_of_the_same_name_is_not_taken_for_the_lost_one(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    before = kubeflow.submit(SUBMISSION)
    server.faults.append(Fault(method="POST", path=f"{RUNS}$"))
    after = kubeflow.submit(SUBMISSION)
    assert before.name != after.name
    assert len(server.runs()) == 2


@pytest.mark.parametrize("status", [0, 429, 500, 502, 503])
def test_starts_the_run_when_earlier_attempts_failed(server: KubeflowServer, status: int) -> None:
    server.faults.append(Fault(method="POST", path=f"{RUNS}$", status=status, times=3, text="later"))
    backend(server).submit(SUBMISSION)
    assert len(server.runs()) == 1
    assert len(server.received("POST", RUNS)) == 4


def test_an_answer_that_is_late_is_waited_for_and_not_asked_for_again(
    server: KubeflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow = backend(server)
    runs = kubeflow._client.services.runs
    start, done = runs.run_service_create_run, threading.Event()
    server.faults.append(Fault(method="POST", path=f"{RUNS}$", until=done, status=200, after=True))

    def impatient(**arguments: Any) -> Any:
        return start(**arguments | {"_request_timeout": (60, 0.2)})

    def wait(seconds: float) -> None:
        """Let the service start the run after the first look for it, however long that takes on a busy machine."""
        if server.received("GET", RUNS):
            done.set()
            while not server.runs():
                time.sleep(0.01)

    monkeypatch.setattr(runs, "run_service_create_run", impatient)
    monkeypatch.setattr(kubeflow_client, "sleep", wait)
    job = kubeflow.submit(SUBMISSION)
    assert [run["run_id"] for run in server.runs()] == [job.name]
    assert len(server.received("POST", RUNS)) == 1


@pytest.mark.parametrize("version", ["2.14.4", "2.5.0", "v2.4.1", "1.8.22"])
def test_an_installation_that_is_too_old_for_the_steps_gets_none(server: KubeflowServer, version: str) -> None:
    server.tag_name = version
    for start in (
        lambda: backend(server).submit(SUBMISSION),
        lambda: backend(server).create_schedule(SUBMISSION, Plan(cron="0 3 * * 1")),
    ):
        with pytest.raises(ParameterError, match=f"is Kubeflow Pipelines {version}, and the steps need 2.15 or newer"):
            start()
    assert not any(request.method == "POST" for request in server.requests)
    assert backend(server).jobs(1) == []  # what runs there can be looked at


@pytest.mark.parametrize("version", ["2.15.0", "v2.15.0-rc.1", "2.17.3", "3.0.0"])
def test_the_least_version_and_newer_ones_are_taken(
    server: KubeflowServer, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.tag_name = version
    backend(server).submit(SUBMISSION)
    assert not caplog.records


def test_a_build_that_does_not_say_its_version_comes_with_a_warning(
    server: KubeflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.tag_name = "unknown"
    backend(server).submit(SUBMISSION)
    assert "does not say which version of Kubeflow Pipelines it is (unknown). It must be 2.15 or newer" in caplog.text


def test_says_that_the_outcome_is_not_known(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    kubeflow.submit(SUBMISSION)
    server.faults += [
        Fault(method="POST", path=f"{RUNS}$", status=500),
        Fault(method="GET", path=f"{RUNS}$", status=503, times=99),
    ]
    with pytest.raises(RunError, match="Whether it was done all the same is not known: look before you try again"):
        kubeflow.submit(SUBMISSION)
    assert len(server.received("POST", RUNS)) == 2


def test_a_refused_start_is_not_tried_again(server: KubeflowServer) -> None:
    with pytest.raises(UserError, match=r"refused to start tune-1 \(400\). It said: .*wrong is not a valid pipeline"):
        backend(server).submit(replace(SUBMISSION, values={"wrong": 1}))
    assert len(server.received("POST", RUNS)) == 1


# Errors.


def message(error: type[Exception], server: KubeflowServer, namespace: str = "") -> str:
    with pytest.raises(error) as raised:
        backend(server, namespace).jobs(1)
    return str(raised.value)


def test_without_a_token_says_where_it_goes(server: KubeflowServer) -> None:
    server.token = "secret-1"
    words = message(UserError, server)
    assert "does not know who asks (401)" in words
    assert "environment variable KF_PIPELINES_TOKEN: it is not set" in words


def test_an_old_token_is_named_as_such_and_not_shown(server: KubeflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "secret-1"
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "secret-0")
    words = message(UserError, server)
    assert "the token in it is not, or no longer, good" in words
    assert "secret" not in words


def test_sends_the_token(server: KubeflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "secret-1"
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "secret-1\n")
    assert backend(server).jobs(1) == []
    assert [(request.path, request.authorization) for request in server.requests] == [
        ("/apis/v2beta1/healthz", "Bearer secret-1"),
        (RUNS, "Bearer secret-1"),
    ]


def test_sends_a_projected_service_account_token(
    server: KubeflowServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.token = "secret-2"
    (tmp_path / "token").write_text("secret-2")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert backend(server).jobs(1) == []


def test_a_token_that_cannot_be_one_is_not_shown(server: KubeflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "secret-1\nsecret-2")
    words = message(ParameterError, server)
    assert "KF_PIPELINES_TOKEN holds no token" in words
    assert "secret" not in words


def test_names_the_namespace_that_is_not_open() -> None:
    with KubeflowServer(multi_user=True) as server:
        words = message(UserError, server, "team-b")
    assert f"{server.url}, namespace team-b refused to list runs: no permission (403)" in words
    assert "Give the --namespace of your own profile" in words


def test_several_users_need_a_namespace() -> None:
    with KubeflowServer(multi_user=True) as server:
        assert "has several users: give --namespace" in message(ParameterError, server)


def test_works_in_a_namespace_of_several() -> None:
    with KubeflowServer(multi_user=True) as server:
        kubeflow = backend(server, "team-a")
        job = kubeflow.submit(SUBMISSION)
        schedule = kubeflow.create_schedule(SUBMISSION, Plan(cron="0 3 * * 1"))
        assert [found.name for found in kubeflow.jobs(5)] == [job.name]
        assert [found.name for found in kubeflow.schedules(5)] == [schedule.name]
        assert server.experiments()[0]["namespace"] == "team-a"
        assert server.recurring_runs()[0]["namespace"] == "team-a"


def test_names_no_namespace_to_an_installation_of_one_user(server: KubeflowServer) -> None:
    kubeflow = backend(server, "kubeflow")
    kubeflow.submit(SUBMISSION)
    kubeflow.jobs(1)
    assert all("namespace" not in request.query and "namespace" not in request.body for request in server.requests)


def test_inside_a_cluster_works_in_its_own_namespace_and_writes_no_settings_for_later_commands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "namespace").write_text("team-a\n")
    monkeypatch.setattr(Client, "_NAMESPACE_PATH", str(tmp_path / "namespace"))
    with KubeflowServer(multi_user=True) as server:
        backend(server).jobs(1)
    assert server.requests[-1].query["namespace"] == "team-a"
    assert not (tmp_path / "kfp").exists()


def test_a_refused_connection_says_how_to_get_one(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RunError) as raised:
        Kubeflow(Connection(host=f"http://127.0.0.1:{port}")).jobs(1)
    assert f"Cannot reach Kubeflow Pipelines at http://127.0.0.1:{port}" in str(raised.value)
    assert "the connection was refused" in str(raised.value)
    assert "kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80" in str(raised.value)
    assert not caplog.records


def test_a_host_without_a_name_is_said_to_be_none() -> None:
    with pytest.raises(RunError, match="there is no host of that name"):
        Kubeflow(Connection(host="http://no-such-host.invalid")).jobs(1)


def test_a_login_page_is_not_taken_for_an_answer(server: KubeflowServer) -> None:
    page = "<html><body>Log in to Your Account</body></html>"
    server.faults.append(Fault(status=200, text=page, content_type="text/html; charset=utf-8", times=9))
    words = message(ParameterError, server)
    assert "answered with a web page" in words
    assert "KF_PIPELINES_TOKEN" in words


@pytest.mark.parametrize("answer", ["[]", "3", "null", "{}", '{"status": "ok"}', "[" * 9999, "{", "hello", "\xff"])
def test_a_server_that_is_another_is_said_to_be(server: KubeflowServer, answer: str) -> None:
    server.faults.append(Fault(status=200, text=answer, content_type="application/json", times=9))
    assert message(ParameterError, server) == (
        f"{server.url} answers, but not as Kubeflow Pipelines does. Is it the right --host?"
    )


@pytest.mark.parametrize(
    "answer",
    [
        *("[]", "3", "null", "\xff", '{"runs": 3, "run_details": {"task_details": 3}}'),
        '{"run_id": "1", "created_at": "x", "runs": [{"created_at": "x"}]}',
        '{"runs": [[]]}',
    ],
)
@pytest.mark.parametrize("method", ["jobs", "job", "cancel", "submit"])
def test_an_answer_that_is_none_of_kubeflows_is_no_job(server: KubeflowServer, answer: str, method: str) -> None:
    given = {"jobs": 1, "submit": SUBMISSION}.get(method, "1")
    faulty = "POST" if method == "submit" else "GET"
    server.faults.append(Fault(method=faulty, path=f"{RUNS}(/1)?$", status=200, text=answer, times=9))
    with pytest.raises((ParameterError, RunError), match=r"not as Kubeflow Pipelines does. Is it the right --host\?"):
        getattr(backend(server), method)(given)


def test_an_address_without_the_api_is_named(server: KubeflowServer) -> None:
    with pytest.raises(
        UserError, match=r"nothing there to say who it is \(404\). Is --host the Kubeflow Pipelines UI or API"
    ):
        Kubeflow(Connection(host=f"{server.url}/elsewhere")).jobs(1)


@pytest.mark.parametrize(
    ("status", "words"),
    [(429, "takes no more requests for now (429)"), (500, "failed to list runs"), (503, "failed to list runs")],
)
def test_a_service_that_keeps_failing_is_a_run_error(server: KubeflowServer, status: int, words: str) -> None:
    server.faults.append(Fault(path=f"{RUNS}$", status=status, times=99))
    assert words in message(RunError, server)
    assert len(server.received("GET", RUNS)) == 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_reading_is_repeated(server: KubeflowServer, status: int) -> None:
    server.faults.append(Fault(path="", status=status, times=3))
    assert backend(server).jobs(1) == []


def test_what_a_proxy_says_is_passed_on_in_one_harmless_line(server: KubeflowServer) -> None:
    server.faults.append(Fault(path=f"{RUNS}$", status=403, text="RBAC: access\n denied\x1b[31m"))
    assert message(UserError, server).endswith("It said: RBAC: access denied[31m")


@pytest.mark.parametrize("text", ["<html>Bad Gateway</html>", "<html>Schl\xfcssel</html>"])
def test_a_page_of_an_error_is_left_out(server: KubeflowServer, text: str) -> None:
    server.faults.append(Fault(path=f"{RUNS}$", status=502, times=9, text=text))
    assert message(RunError, server).endswith("failed to list runs, also when asked again (502).")


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("localhost:8080", "--host is 'localhost:8080'; it must be a URL that begins with http:// or https://"),
        ("http://127.0.0.1:99999", "names a host that there can be"),
        ("http://me:hunter2@localhost", "--host holds a user name or a password"),
        ("http://localhost:8080/#/runs", "leave away what follows the address"),
    ],
)
def test_refuses_an_address_that_cannot_be_one(host: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words) as raised:
        Kubeflow(Connection(host=host))
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("name", ["project", "location", "api_endpoint"])
def test_refuses_what_is_of_vertex(name: str) -> None:
    with pytest.raises(ParameterError, match=f"--{name.replace('_', '-')} is of Vertex"):
        Kubeflow(Connection(host="http://localhost", **{name: "x"}))


def test_without_an_address_says_what_to_give(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ParameterError, match="give --host, or set KF_PIPELINES_ENDPOINT"):
        Kubeflow(Connection()).jobs(1)
    assert capfd.readouterr() == ("", "")


def test_takes_the_address_from_kfps_variables(server: KubeflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "localhost")
    with pytest.raises(ParameterError, match="KF_PIPELINES_ENDPOINT is 'localhost'; it must be a URL"):
        Kubeflow(Connection())
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", f"{server.url}/".replace("http", "HTTP"))
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://pipelines.example.com/")
    job = Kubeflow(Connection()).submit(SUBMISSION)
    assert job.link == f"https://pipelines.example.com/#/runs/details/{job.name}"


# Jobs.


def test_lists_the_newest_jobs_over_several_pages(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    names = [kubeflow.submit(replace(SUBMISSION, display_name=f"tune-{index}")).name for index in range(5)]
    server.requests.clear()
    assert [job.name for job in kubeflow.jobs(3)] == names[:1:-1]
    assert [request.query["page_size"] for request in server.received("GET", RUNS)] == ["3"]


def test_asks_for_every_page(server: KubeflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_pipelines.backends.kubeflow._PAGE", 2)
    kubeflow = backend(server)
    names = [kubeflow.submit(SUBMISSION).name for _ in range(5)]
    server.requests.clear()
    assert [job.name for job in kubeflow.jobs(4)] == names[:0:-1]
    assert [job.name for job in kubeflow.jobs(100)] == names[::-1]
    assert [request.query["page_size"] for request in server.received("GET", RUNS)] == ["2", "2", "2", "2", "2"]


def test_no_jobs_are_an_empty_list(server: KubeflowServer) -> None:
    assert backend(server).jobs(10) == []


def node(name: str, state: str, start: str = "1970-01-01T00:00:00Z", **more: Any) -> dict[str, Any]:
    return {"display_name": name, "state": state, "start_time": start, **more}


#: What the API tells of a run: every node of its workflow.
NODES = [
    node("toy-pipeline-k8dxc", "FAILED", "2026-11-23T02:00:00Z"),
    node("root", "FAILED", "2026-11-23T02:00:00Z"),
    node("root-driver", "SUCCEEDED", "2026-11-23T02:00:00Z"),
    node(
        "b",
        "FAILED",
        "2026-11-23T04:00:00Z",
        end_time="2026-11-23T05:00:00Z",
        error={"code": 2, "message": "OOMKilled"},
    ),
    node("b-driver", "SUCCEEDED", "2026-11-23T03:59:00Z"),
    node("inner", "SUCCEEDED", "2026-11-23T03:00:00Z"),
    node("inner-driver", "SUCCEEDED", "2026-11-23T03:00:00Z"),
    node("The A step", "SUCCEEDED", "2026-11-23T03:00:00Z"),
    node("executor", "SUCCEEDED", "2026-11-23T03:00:00Z"),
    node("executor", "FAILED", "2026-11-23T04:00:00Z"),
    node("last", "SKIPPED"),
]


def test_tells_tasks_states_times_and_errors(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    job = kubeflow.submit(SUBMISSION)
    server.stored["runs"][job.name] |= {
        "state": "FAILED",
        "finished_at": "2026-11-23T05:00:00Z",
        "run_details": {"task_details": NODES},
    }
    shown = kubeflow.job(job.link)
    assert shown.state is State.FAILED
    assert shown.error == "b: OOMKilled"
    assert shown.ended == datetime(2026, 11, 23, 5, tzinfo=UTC)
    assert [(task.name, task.state, task.error) for task in shown.tasks] == [
        ("The A step", State.SUCCEEDED, ""),
        ("b", State.FAILED, "OOMKilled"),
        ("last", State.SKIPPED, ""),
    ]
    assert shown.tasks[1].started == datetime(2026, 11, 23, 4, tzinfo=UTC)
    assert shown.tasks[2].started is None


def test_names_the_failed_step_when_the_api_does_not_say_why(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    job = kubeflow.submit(SUBMISSION)
    server.stored["runs"][job.name] |= {"state": "FAILED", "run_details": {"task_details": [node("b", "FAILED")]}}
    assert kubeflow.job(job.name).error == "b: its log, on the page of the run, says why."


def test_tells_tasks_of_a_run_whose_pipeline_is_not_told(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    job = kubeflow.submit(SUBMISSION)
    server.stored["runs"][job.name] |= {"pipeline_spec": None, "run_details": {"task_details": NODES[1:]}}
    assert [task.name for task in kubeflow.job(job.name).tasks] == ["inner", "The A step", "b", "last"]


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", State.PENDING),
        ("RUNNING", State.RUNNING),
        ("PAUSED", State.RUNNING),
        ("CANCELING", State.RUNNING),
        ("SUCCEEDED", State.SUCCEEDED),
        ("CANCELED", State.CANCELLED),
        ("RUNTIME_STATE_UNSPECIFIED", State.PENDING),
        ("A_STATE_OF_LATER_DAYS", State.PENDING),
    ],
)
def test_every_state_has_our_word(server: KubeflowServer, word: str, state: State) -> None:
    kubeflow = backend(server)
    job = kubeflow.submit(SUBMISSION)
    server.stored["runs"][job.name]["state"] = word
    assert kubeflow.job(job.name).state is state


def test_an_unknown_job_is_the_persons_mistake(server: KubeflowServer) -> None:
    with pytest.raises(ParameterError, match=r"has no job 'nope'\. `rlhf jobs list` shows them"):
        backend(server).job("nope")
    with pytest.raises(ParameterError, match=r"has no schedule 'nope'\. `rlhf schedule list` shows them"):
        backend(server).schedule("nope")
    with pytest.raises(ParameterError, match="Give the name of a job"):
        backend(server).job(" ")


def test_cancels_a_job_and_not_one_that_has_ended(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    job = kubeflow.submit(SUBMISSION)
    kubeflow.cancel(job.name)
    assert server.stored["runs"][job.name]["state"] == "CANCELING"
    server.stored["runs"][job.name]["state"] = "CANCELED"
    with pytest.raises(ParameterError, match=r"is over \(cancelled\)"):
        kubeflow.cancel(job.name)


def test_a_job_that_failed_is_run_again_and_no_other(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    job = kubeflow.submit(SUBMISSION)
    with pytest.raises(ParameterError, match="only one that failed or was cancelled can be resumed"):
        kubeflow.resume_job(job.name)
    server.stored["runs"][job.name]["state"] = "FAILED"
    resumed = kubeflow.resume_job(job.name)
    assert (resumed.name, resumed.state) == (job.name, State.PENDING)


def test_a_lost_answer_to_a_cancellation_is_no_error(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    job = kubeflow.submit(SUBMISSION)
    server.faults.append(Fault(method="POST", path=":terminate$", after=True))
    kubeflow.cancel(job.name)
    assert server.stored["runs"][job.name]["state"] == "CANCELING"
    kubeflow.cancel(job.name)


def test_a_cancellation_without_permission_is_refused(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    job = kubeflow.submit(SUBMISSION)
    server.faults.append(Fault(method="POST", path=":terminate$", status=403))
    with pytest.raises(UserError, match=r"no permission \(403\)"):
        kubeflow.cancel(job.name)


# What is refused before it is sent.


def problems(server: KubeflowServer, **changed: Any) -> list[str]:
    found = backend(server).problems(replace(SUBMISSION, **changed))
    assert server.requests == []
    return found


def test_has_nothing_against_a_good_submission(server: KubeflowServer) -> None:
    good = {"steps": 7, "prompt_dataset": "gs://data/*.jsonl", "large_model_reference": "org/model"}
    for rubric, suite in (("", ""), ("Be kind.", "general"), ("gs://data/rubric.md", "gs://data/suite.jsonl")):
        values = good | {"judge_rubric": rubric, "regression_suite": suite}
        assert problems(server, values=values, pipeline_root="minio://mlpipeline/v2") == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"values": {"steps": "7"}}, "steps must be a whole number"),
        ({"pipeline_root": "/data/runs"}, "takes minio://, s3:// and gs:// with a bucket"),
        ({"pipeline_root": "gs://"}, "takes minio://, s3:// and gs:// with a bucket"),
        ({"network": "n"}, "--network is of Vertex"),
        ({"reserved_ip_ranges": ("r",)}, "--reserved-ip-range is of Vertex"),
        ({"encryption_spec_key_name": "k"}, "--encryption-spec-key-name is of Vertex"),
        ({"tensorboard_resource_id": "t"}, "--tensorboard-resource-id is of Vertex"),
        ({"fail_fast": True}, "--failure-policy fast is of Vertex"),
        ({"values": {"prompt_dataset": "data/prompts.jsonl"}}, "the steps in the cluster cannot read"),
        ({"values": {"large_model_reference": "/models/base"}}, "the steps in the cluster cannot read"),
        ({"values": {"registry_dir": "/registry"}}, "gone with the container"),
        ({"values": {"regression_suite": "suite.jsonl"}}, "regression_suite is 'suite.jsonl', which the steps"),
        ({"values": {"judge_rubric": "data/rubric.md"}}, "judge_rubric is 'data/rubric.md', a file that the steps"),
    ],
)
def test_names_what_would_fail(server: KubeflowServer, changed: dict[str, Any], words: str) -> None:
    (found,) = problems(server, **changed)
    assert words in found


def test_a_folder_that_the_steps_mount_can_be_read(server: KubeflowServer) -> None:
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {
        "exec-a": {"pvcMount": [{"mountPath": "/data", "constant": "claim"}]}}}}}}  # fmt: skip
    spec = {"pipeline_spec": SPEC, "platform_spec": platform}
    assert problems(server, spec=spec, values={"prompt_dataset": "/data/prompts.jsonl"}) == []
    assert problems(server, spec=spec, values={"judge_rubric": "/data/rubric.md"}) == []
    assert len(problems(server, spec=spec, values={"prompt_dataset": "/database/prompts.jsonl"})) == 1


def test_a_pipeline_that_was_compiled_for_vertex_is_named(server: KubeflowServer) -> None:
    images = {image: f"registry.example.com/{kind}" for kind, image in IMAGES.items()}
    spec = compile_for_submission("infer_pipeline", "vertex", "l4", images)
    values = {"prompt_dataset": "gs://data/prompts.jsonl", "large_model_reference": "org/m"}
    assert problems(server, spec=spec, values=values) == [
        "The pipeline asks for NVIDIA_L4, as Vertex calls it. Compile it with: rlhf compile --target kubeflow"
    ]


def test_images_that_only_this_machine_has_are_named(server: KubeflowServer) -> None:
    spec = {**SPEC, "deploymentSpec": {"executors": {"exec-a": {"container": {"image": LIGHT_IMAGE}}}}}
    (found,) = problems(server, spec=spec)
    assert "--image light=REGISTRY/light@sha256:" in found


#: What is no file, of the parameters that a pipeline needs.
OF_NO_FILE: dict[str, Value] = {
    "large_model_reference": "org/m",
    "teacher_model_reference": "org/teacher",
    "student_model_reference": "org/m",
    "task_type": "question_answering",
    "rewards": '[{"kind": "length", "low": 20, "high": 60}]',
}


@pytest.mark.parametrize("pipeline", list(PIPELINES))
def test_our_own_pipelines_are_taken_with_their_kubernetes_settings(server: KubeflowServer, pipeline: str) -> None:
    required = {
        parameter.name: OF_NO_FILE.get(parameter.name, "gs://data/rows.jsonl")
        for parameter in PIPELINES[pipeline]
        # Some need preferences or feedback, and so require neither.
        if parameter.required or parameter.name == "preference_dataset"
    }
    images = {image: f"registry.example.com/{kind}@sha256:{'0' * 64}" for kind, image in IMAGES.items()}
    submission = replace(
        SUBMISSION,
        spec=compile_for_submission(pipeline, "kubeflow", "l4", images),
        values=check_parameters(pipeline, required),
    )
    kubeflow = backend(server)
    assert kubeflow.problems(submission) == []
    assert kubeflow.submit(submission).pipeline == pipeline.replace("_", "-")
    sent = server.received("POST", RUNS)[0].body["pipeline_spec"]
    executors = sent["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert any("nodeSelector" in executor for executor in executors.values())


# Schedules.

WEEKLY = Plan(cron="0 3 * * 1")


def test_creates_a_recurring_run_with_all_of_the_submission(server: KubeflowServer) -> None:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=10)
    plan = replace(WEEKLY, start=start, end=start + timedelta(days=90))
    schedule = backend(server).create_schedule(
        replace(
            SUBMISSION,
            pipeline_root="gs://b/runs",
            service_account="tuner",
            experiment="weekly",
            labels={"team": "search"},
            caching=False,
        ),
        plan,
    )
    (received,) = server.received("POST", RECURRING)
    body = received.body
    assert body["trigger"] == {
        "cron_schedule": {
            "cron": "0 0 3 * * 1",
            "start_time": start.isoformat(),
            "end_time": (start + timedelta(days=90)).isoformat(),
        }
    }
    assert body["no_catchup"] is True
    assert body["max_concurrency"] == "1"
    assert body["mode"] == "ENABLE"
    assert body["runtime_config"]["pipeline_root"] == "gs://b/runs"
    assert body["runtime_config"]["parameters"]["steps"] == 7
    assert body["service_account"] == "tuner"
    assert "team=search" in body["description"]
    assert body["pipeline_spec"]["root"]["dag"]["tasks"]["b"]["cachingOptions"] == {"enableCache": False}
    assert body["experiment_id"] == server.experiments()[0]["experiment_id"]
    assert schedule.plan == plan
    assert schedule.state is ScheduleState.ACTIVE
    assert schedule.link == f"{server.url}/#/recurringrun/details/{schedule.name}"
    assert schedule.pipeline == "toy-pipeline"
    assert schedule.next_run is not None
    assert schedule.next_run >= start
    assert (schedule.next_run.weekday(), schedule.next_run.hour) == (0, 3)


def test_queueing_is_kubeflows_catching_up(server: KubeflowServer) -> None:
    schedule = backend(server).create_schedule(SUBMISSION, replace(WEEKLY, queue=True, max_concurrent_runs=3))
    body = server.received("POST", RECURRING)[0].body
    assert body["no_catchup"] is False
    assert body["max_concurrency"] == "3"
    assert schedule.plan.queue
    assert schedule.plan.max_concurrent_runs == 3


def test_a_start_in_the_past_would_catch_up_and_is_left_out(server: KubeflowServer) -> None:
    backend(server).create_schedule(SUBMISSION, replace(WEEKLY, start=datetime(2020, 1, 1, tzinfo=UTC)))
    assert server.received("POST", RECURRING)[0].body["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}


@pytest.mark.parametrize(
    ("cron", "sent"),
    [
        ("0 3 * * 7", "0 0 3 * * 0"),
        ("0 3 * * 5-7", "0 0 3 * * 0,5,6"),
        ("0 3 * * mon,7", "0 0 3 * * 0,1"),
        ("*/15 8-18 1,15 jan MON-FRI", "0 */15 8-18 1,15 jan MON-FRI"),
        ("0 3 * * */7", "0 0 3 * * */7"),
        ("7 7 7 7 *", "0 7 7 7 7 *"),
    ],
)
def test_cron_gets_seconds_and_kubeflows_sunday(server: KubeflowServer, cron: str, sent: str) -> None:
    backend(server).create_schedule(SUBMISSION, Plan(cron=cron))
    assert server.received("POST", RECURRING)[0].body["trigger"]["cron_schedule"]["cron"] == sent


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cron": "0 3 * *"}, "has 4 fields, not 5"),
        ({"time_zone": "Nowhere/Land"}, "is no time zone"),
        ({"time_zone": "Asia/Tokyo"}, r"03:00 in Asia/Tokyo, is .* 18:00 in UTC: give --cron in that zone"),
        (
            {"max_runs": 4},
            r"cannot count runs; give --end instead. --end \d{4}-\d\d-\d\dT03:00 is the time of the last",
        ),
        ({"max_concurrent_runs": 11}, "takes 1 to 10"),
        ({"end": datetime(2020, 1, 1, tzinfo=UTC)}, "before the first run"),
    ],
)
def test_refuses_what_a_recurring_run_cannot_do(server: KubeflowServer, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        backend(server).create_schedule(SUBMISSION, replace(WEEKLY, **changed))
    assert server.recurring_runs() == []
    with pytest.raises(ParameterError, match=words):
        Kubeflow(Connection(host="http://nowhere.invalid")).check_schedule(SUBMISSION, replace(WEEKLY, **changed))


def test_takes_the_time_zone_of_an_installation_that_has_it(
    server: KubeflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRON_SCHEDULE_TIMEZONE", "Asia/Tokyo")
    schedule = backend(server).create_schedule(SUBMISSION, replace(WEEKLY, time_zone="Asia/Tokyo"))
    assert server.received("POST", RECURRING)[0].body["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert schedule.next_run is not None
    assert schedule.next_run.astimezone(UTC).hour == 18
    with pytest.raises(ParameterError, match="which is Asia/Tokyo"):
        backend(server).create_schedule(SUBMISSION, WEEKLY)
    monkeypatch.setenv("CRON_SCHEDULE_TIMEZONE", "Nowhere")
    with pytest.raises(ParameterError, match="variable CRON_SCHEDULE_TIMEZONE is 'Nowhere', which is no time zone"):
        backend(server).create_schedule(SUBMISSION, WEEKLY)


@pytest.mark.parametrize(
    ("asked", "installation", "taken"),
    [
        ("Etc/UTC", "UTC", True),
        ("Europe/Berlin", "Europe/Zurich", True),
        ("Europe/London", "UTC", False),
        ("Africa/Lagos", "Europe/Zurich", False),
    ],
)
def test_a_time_zone_of_another_name_is_taken_when_its_clocks_agree_all_year(
    server: KubeflowServer, monkeypatch: pytest.MonkeyPatch, asked: str, installation: str, taken: bool
) -> None:
    monkeypatch.setenv("CRON_SCHEDULE_TIMEZONE", installation)
    plan = replace(WEEKLY, time_zone=asked)
    if taken:
        assert backend(server).create_schedule(SUBMISSION, plan).plan.time_zone == installation
    else:
        with pytest.raises(ParameterError, match=f"--time-zone is {asked}"):
            backend(server).create_schedule(SUBMISSION, plan)


def test_a_lost_answer_makes_no_second_schedule(server: KubeflowServer) -> None:
    server.faults.append(Fault(method="POST", path=f"{RECURRING}$", after=True))
    schedule = backend(server).create_schedule(SUBMISSION, WEEKLY)
    assert [found["recurring_run_id"] for found in server.recurring_runs()] == [schedule.name]


def test_pauses_resumes_and_deletes(server: KubeflowServer, caplog: pytest.LogCaptureFixture) -> None:
    kubeflow = backend(server)
    name = kubeflow.create_schedule(SUBMISSION, WEEKLY).name
    kubeflow.pause(name)
    paused = kubeflow.schedule(name)
    assert paused.state is ScheduleState.PAUSED
    assert paused.next_run is None
    kubeflow.resume(name, catch_up=False)
    assert "Kubeflow starts the newest such run now" in caplog.text
    assert kubeflow.schedule(name).state is ScheduleState.ACTIVE
    kubeflow.delete_schedule(name)
    assert kubeflow.schedules(5) == []


def test_resuming_does_what_the_schedule_was_made_for_or_says_so(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    plain = kubeflow.create_schedule(SUBMISSION, WEEKLY).name
    queued = kubeflow.create_schedule(SUBMISSION, replace(WEEKLY, queue=True)).name
    with pytest.raises(ParameterError, match="was made without --queue"):
        kubeflow.resume(plain, catch_up=True)
    with pytest.raises(ParameterError, match="Kubeflow would start every run that fell into the pause"):
        kubeflow.resume(queued, catch_up=False)
    kubeflow.pause(queued)
    kubeflow.resume(queued, catch_up=True)
    assert kubeflow.schedule(queued).state is ScheduleState.ACTIVE


def test_a_lost_answer_to_a_deletion_is_no_error(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    name = kubeflow.create_schedule(SUBMISSION, WEEKLY).name
    server.faults.append(Fault(method="DELETE", status=503, after=True))
    kubeflow.delete_schedule(name)
    assert server.recurring_runs() == []


def test_a_schedule_whose_end_has_come_is_completed(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    name = kubeflow.create_schedule(SUBMISSION, WEEKLY).name
    server.stored["recurringruns"][name]["trigger"]["cron_schedule"]["end_time"] = "2026-01-01T00:00:00Z"
    assert kubeflow.schedule(name).state is ScheduleState.COMPLETED


def test_a_schedule_that_ends_before_another_run_has_no_next_one(server: KubeflowServer) -> None:
    kubeflow = backend(server)
    later = datetime.now(UTC) + timedelta(days=40)
    name = kubeflow.create_schedule(SUBMISSION, Plan(cron=f"0 3 {later.day} {later.month} *")).name
    assert kubeflow.schedule(name).next_run is not None
    end = datetime.now(UTC) + timedelta(days=10)
    server.stored["recurringruns"][name]["trigger"]["cron_schedule"]["end_time"] = end.isoformat()
    assert kubeflow.schedule(name).next_run is None


@pytest.mark.parametrize(
    ("trigger", "cron"),
    [
        ({"periodic_schedule": {"interval_second": "3600"}}, "every 3600 s"),
        ({"cron_schedule": {"cron": "@daily"}}, "@daily"),
        ({"cron_schedule": {"cron": "30 0 9 ? * 2-6"}}, "30 0 9 ? * 2-6"),
        ({"cron_schedule": {"cron": "0 0 9 ? * 2-6"}}, "0 9 * * 2-6"),
    ],
)
def test_shows_schedules_that_were_made_elsewhere(server: KubeflowServer, trigger: dict[str, Any], cron: str) -> None:
    kubeflow = backend(server)
    name = kubeflow.create_schedule(SUBMISSION, WEEKLY).name
    server.stored["recurringruns"][name] |= {"trigger": trigger, "pipeline_spec": None}
    (shown,) = kubeflow.schedules(5)
    assert shown.plan.cron == cron
    assert (shown.next_run is not None) == (cron == "0 9 * * 2-6")


# Changing a schedule, which the API cannot.


@pytest.fixture
def schedule(server: KubeflowServer) -> str:
    return backend(server).create_schedule(replace(SUBMISSION, labels={"team": "search"}), WEEKLY).name


def states(server: KubeflowServer) -> dict[str, str]:
    return {one["recurring_run_id"]: one["status"] for one in server.recurring_runs()}


def test_a_changed_schedule_takes_the_place_of_the_old(server: KubeflowServer, schedule: str) -> None:
    before = dict(server.stored["recurringruns"][schedule])
    server.requests.clear()
    changed = backend(server).update_schedule(schedule, Plan(cron="0 4 * * *", max_concurrent_runs=2))
    (now,) = server.recurring_runs()
    assert changed.name == now["recurring_run_id"] != schedule
    assert changed.plan.cron == "0 4 * * *"
    for same in ("pipeline_spec", "runtime_config", "experiment_id", "display_name"):
        assert now[same] == before[same]
    assert "team=search" in now["description"]
    assert now["description"].count("Submission ") == 1
    assert now["status"] == "ENABLED"
    assert [(r.method, r.path.rpartition(":")[2][:7]) for r in server.requests if r.method != "GET"] == [
        ("POST", "/apis/v"),
        ("POST", "disable"),
        ("POST", "enable"),
        ("DELETE", "/apis/v"),
    ]
    assert server.received("POST", RECURRING)[0].body["mode"] == "DISABLE"


def test_a_paused_schedule_stays_paused_when_changed(server: KubeflowServer, schedule: str) -> None:
    kubeflow = backend(server)
    kubeflow.pause(schedule)
    assert kubeflow.update_schedule(schedule, Plan(cron="0 4 * * *")).state is ScheduleState.PAUSED
    assert list(states(server).values()) == ["DISABLED"]


def test_a_change_that_cannot_be_made_changes_nothing(server: KubeflowServer, schedule: str) -> None:
    with pytest.raises(ParameterError):
        backend(server).update_schedule(schedule, Plan(cron="0 4 * * *", max_concurrent_runs=99))
    server.faults.append(Fault(method="POST", path=f"{RECURRING}$", status=403))
    with pytest.raises(UserError):
        backend(server).update_schedule(schedule, Plan(cron="0 4 * * *"))
    assert states(server) == {schedule: "ENABLED"}


@pytest.mark.parametrize("step", ["disable", "enable"])
def test_a_failure_in_between_puts_the_old_schedule_back(server: KubeflowServer, schedule: str, step: str) -> None:
    server.faults.append(Fault(method="POST", path=f":{step}$", status=403))
    with pytest.raises(RunError, match="The schedule is as it was before"):
        backend(server).update_schedule(schedule, Plan(cron="0 4 * * *"))
    assert states(server) == {schedule: "ENABLED"}


def test_two_schedules_are_never_active_while_things_are_put_back(server: KubeflowServer, schedule: str) -> None:
    server.faults.append(Fault(method="POST", path=":enable$", status=503, times=4, after=True))
    with pytest.raises(RunError, match="The schedule is as it was before"):
        backend(server).update_schedule(schedule, Plan(cron="0 4 * * *"))
    assert states(server) == {schedule: "ENABLED"}
    changes = [request.path.rpartition("/")[2] for request in server.requests if ":" in request.path]
    new = changes[1].partition(":")[0]
    assert changes == [f"{schedule}:disable", *[f"{new}:enable"] * 4, f"{new}:disable", f"{schedule}:enable"]


def test_a_failure_that_cannot_be_undone_names_both_schedules(server: KubeflowServer, schedule: str) -> None:
    server.faults.append(Fault(method="POST", path=":enable$", status=503, times=99))
    with pytest.raises(RunError, match=f"look whether {schedule} .before. or .* .changed. is active"):
        backend(server).update_schedule(schedule, Plan(cron="0 4 * * *"))
    assert list(states(server).values()) == ["DISABLED", "DISABLED"]


def test_an_old_schedule_that_cannot_be_deleted_is_named(server: KubeflowServer, schedule: str) -> None:
    server.faults.append(Fault(method="DELETE", status=503, times=99))
    with pytest.raises(RunError, match=f"rlhf schedule delete {schedule}"):
        backend(server).update_schedule(schedule, Plan(cron="0 4 * * *"))
    assert sorted(states(server).values()) == ["DISABLED", "ENABLED"]
    assert states(server)[schedule] == "DISABLED"


# What is submitted runs.


def compiled_toy(tmp_path: Path) -> dict[str, Any]:
    import toy_pipelines
    import yaml
    from kfp import compiler

    compiler.Compiler().compile(toy_pipelines.toy_pipeline, str(tmp_path / "toy.yaml"))
    spec: dict[str, Any] = yaml.safe_load((tmp_path / "toy.yaml").read_text())
    return spec


def ended(kubeflow: Kubeflow, name: str, server: KubeflowServer) -> Job:
    until = time.monotonic() + 60
    while not (job := kubeflow.job(name)).state.ended:
        assert time.monotonic() < until, "the run has not ended"
        threading.Event().wait(0.1)
    return job


@pytest.mark.parametrize("trouble", ["", "user"])
def test_a_submitted_run_runs_and_its_tasks_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "support"))
    spec = compiled_toy(tmp_path)
    (tmp_path / "trouble").write_text(trouble)
    values = {"text": "abc", "ran": str(tmp_path / "ran"), "trouble": str(tmp_path / "trouble")}
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    with KubeflowServer(execute_in=tmp_path / "cluster") as server:
        kubeflow = backend(server)
        submitted = kubeflow.submit(replace(SUBMISSION, spec=spec, values=values))
        job = ended(kubeflow, submitted.name, server)
    log = (tmp_path / "cluster" / job.name / "log.txt").read_text()
    told = [(task.name, task.state) for task in job.tasks]
    assert (tmp_path / "ran").read_text() == "prepare\ntrain\n", log
    if trouble:
        assert job.state is State.FAILED
        assert told == [("prepare", State.SUCCEEDED), ("train", State.FAILED)]
        assert job.error
    else:
        assert job.state is State.SUCCEEDED, log
        assert told == [("prepare", State.SUCCEEDED), ("train", State.SUCCEEDED), ("report", State.SUCCEEDED)]
        assert job.ended is not None
