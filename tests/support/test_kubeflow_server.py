"""`kfp.Client`, as people use it, against the server of these tests: what it expects is there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubeflow_server import Fault, KubeflowServer

pytestmark = pytest.mark.filterwarnings("ignore:This client only works with Kubeflow Pipeline:FutureWarning")

SPEC: dict[str, Any] = {
    "pipelineInfo": {"name": "small"},
    "schemaVersion": "2.1.0",
    "sdkVersion": "kfp-2.17.0",
    "root": {"dag": {}, "inputDefinitions": {"parameters": {"steps": {"parameterType": "NUMBER_INTEGER"}}}},
}


@pytest.fixture
def server() -> Iterator[KubeflowServer]:
    with KubeflowServer() as started:
        yield started


@pytest.fixture
def client(server: KubeflowServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    from kfp.client import Client

    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "none.json"))
    return Client(host=server.url)


@pytest.fixture
def package(tmp_path: Path) -> str:
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(SPEC))
    return str(file)


def test_a_run_is_made_listed_ended_archived_and_deleted(client: Any, package: str) -> None:
    from kfp_server_api import ApiException

    made = client.create_run_from_pipeline_package(package, arguments={"steps": 3}, run_name="one", experiment_name="e")
    other = client.create_run_from_pipeline_package(package, arguments={"steps": 3}, run_name="two")
    run = client.get_run(made.run_id)
    assert (run.display_name, run.state, run.runtime_config.parameters) == ("one", "PENDING", {"steps": 3})
    assert run.experiment_id == client.get_experiment(experiment_name="e").experiment_id
    assert [found.run_id for found in client.list_runs(experiment_id=run.experiment_id).runs] != []
    assert [found.run_id for found in client.list_runs(sort_by="created_at desc").runs] == [other.run_id, made.run_id]
    client.terminate_run(made.run_id)
    assert client.get_run(made.run_id).state == "CANCELING"
    client.archive_run(made.run_id)
    assert client.get_run(made.run_id).storage_state == "ARCHIVED"
    client.delete_run(made.run_id)
    with pytest.raises(ApiException) as raised:
        client.get_run(made.run_id)
    assert raised.value.status == 404
    assert json.loads(raised.value.body)["code"] == 5


def test_a_run_belongs_to_the_experiment_that_is_asked_for(client: Any, package: str) -> None:
    client.create_run_from_pipeline_package(package, arguments={"steps": 3}, experiment_name="e")
    mine = client.create_run_from_pipeline_package(package, arguments={"steps": 3}, experiment_name="f")
    experiment = client.get_experiment(experiment_name="f").experiment_id
    assert [run.run_id for run in client.list_runs(experiment_id=experiment).runs] == [mine.run_id]


def test_a_recurring_run_is_made_paused_and_deleted(client: Any, package: str) -> None:
    experiment = client.create_experiment("e")
    made = client.create_recurring_run(
        experiment.experiment_id,
        "weekly",
        cron_expression="0 0 3 * * 1",
        pipeline_package_path=package,
        no_catchup=True,
    )
    (listed,) = client.list_recurring_runs().recurring_runs
    assert (listed.status, listed.max_concurrency, listed.no_catchup) == ("ENABLED", "1", True)
    client.disable_recurring_run(made.recurring_run_id)
    assert client.get_recurring_run(made.recurring_run_id).status == "DISABLED"
    client.enable_recurring_run(made.recurring_run_id)
    client.delete_recurring_run(made.recurring_run_id)
    assert client.list_recurring_runs().recurring_runs is None


def test_pages_follow_one_another_until_there_is_none(client: Any) -> None:
    for number in range(5):
        client.create_experiment(f"e{number}")
    names, token = [], ""
    while True:
        page = client.list_experiments(page_size=2, page_token=token, sort_by="created_at")
        names += [experiment.display_name for experiment in page.experiments]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"e{number}" for number in range(5)]


def test_wrong_requests_are_refused_as_by_the_real_one(client: Any, package: str) -> None:
    from kfp_server_api import ApiException

    experiment = client.create_experiment("e").experiment_id
    wrong = [
        lambda: client.run_pipeline(experiment, "x", package, params={"unknown": 1}),
        lambda: client.run_pipeline("nowhere", "x", package),
        lambda: client.create_recurring_run(
            experiment, "x", cron_expression="* *", pipeline_package_path=package
        ),
        lambda: client.create_recurring_run(
            experiment, "x", cron_expression="* * * * * *", max_concurrency=11, pipeline_package_path=package
        ),
        lambda: client.list_runs(namespace="team-a"),
        lambda: client.list_runs(sort_by="colour"),
        lambda: client.list_runs(page_token="?"),
        lambda: client.list_runs(filter='{"predicates": [{"operation": "EQUALS", "key": "colour"}]}'),
    ]  # fmt: skip
    for number, request in enumerate(wrong):
        with pytest.raises(ApiException) as raised:
            request()
        assert (number, raised.value.status, json.loads(raised.value.body)["code"]) == (number, 400, 3)


def test_faults_happen_as_often_as_asked_and_after_acting(client: Any, server: KubeflowServer) -> None:
    from kfp_server_api import ApiException
    from urllib3.exceptions import ProtocolError

    server.faults += [Fault(method="POST", status=503), Fault(method="POST", after=True)]
    with pytest.raises(ApiException) as raised:
        client.experiments.experiment_service_create_experiment(experiment={"display_name": "a"})
    assert (raised.value.status, server.experiments()) == (503, [])
    with pytest.raises(ProtocolError):
        client.experiments.experiment_service_create_experiment(experiment={"display_name": "a"})
    assert len(server.experiments()) == 1
    with pytest.raises(ApiException) as raised:
        client.experiments.experiment_service_create_experiment(experiment={"display_name": "a"})
    assert raised.value.status == 409
