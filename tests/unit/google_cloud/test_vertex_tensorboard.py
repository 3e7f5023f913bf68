"""Metrics in a Vertex AI TensorBoard, against a server that behaves like Vertex AI's."""

import json
from datetime import UTC, datetime

import pytest
from google.cloud import aiplatform_v1 as v1
from vertex_server import serve_vertex
from vertex_service import LOCATION, PROJECT, Fault

from rlhf_tuning import google_errors
from rlhf_tuning.errors import UserError
from rlhf_tuning.google_cloud import vertex_tensorboard
from rlhf_tuning.google_cloud.vertex_api import VertexApi
from rlhf_tuning.google_cloud.vertex_tensorboard import experiment_id, write_to_tensorboard

BOARD = f"projects/{PROJECT}/locations/{LOCATION}/tensorboards/7"


@pytest.fixture
def vertex(monkeypatch, tmp_path):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(google_errors, "DELAYS", (0.0, 0.0))
    with serve_vertex() as server:
        server.use_credentials(monkeypatch, tmp_path)
        server.tensorboards.add(BOARD)
        yield server


@pytest.fixture
def write(vertex, tmp_path):
    phases = {
        "reward": [{"step": step, "seconds": 2.0 * step, "loss": 1 / step, "accuracy": 0.5} for step in (1, 2, 3)],
        "adapter": [{"step": step, "seconds": 9.0 * step, "reward": 0.1 * step, "kl": 0.2 * step} for step in (1, 2)],
    }
    for folder, records in phases.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def write(board=BOARD):
        api = VertexApi(project=PROJECT, location=LOCATION, api_endpoint=vertex.rest)
        return write_to_tensorboard(
            api,
            board,
            experiment="RLHF run_1",
            reward_model_dir=str(tmp_path / "reward"),
            adapter_dir=str(tmp_path / "adapter"),
        )

    return write


def test_both_phases_arrive_under_our_names_and_those_of_the_vertex_job(vertex, write):
    assert write().endswith("/tensorboards/7/experiments/rlhf-run-1")
    assert vertex.scalars[("reward-model", "loss")] == vertex.scalars[("reward-model", "rank_loss")]
    assert vertex.scalars[("reward-model", "loss")] == pytest.approx({1: 1.0, 2: 0.5, 3: 1 / 3})
    assert vertex.scalars[("reinforcement-learning", "kl_loss")] == pytest.approx({1: 0.2, 2: 0.4})
    assert set(vertex.scalars) == {
        *(("reward-model", tag) for tag in ("loss", "rank_loss", "accuracy")),
        *(("reinforcement-learning", tag) for tag in ("reward", "kl", "kl_loss")),
    }


def test_the_curves_of_supervised_tuning_are_under_its_name(vertex, write, tmp_path):
    (tmp_path / "adapter" / "held_out_loss.json").write_text("{}")
    write()
    assert vertex.scalars[("supervised-tuning", "reward")] == pytest.approx({1: 0.1, 2: 0.2})


def test_points_are_as_far_apart_as_their_steps_were(vertex, write):
    write()
    points = vertex.received("WriteTensorboardExperimentData")[0].write_run_data_requests[0].time_series_data[0].values
    times = [point.wall_time.timestamp() for point in points]
    assert times[2] - times[0] == pytest.approx(4.0, abs=1e-3)
    assert times[2] <= datetime.now(UTC).timestamp()


def test_the_same_again_makes_nothing_twice(vertex, write):
    write()
    before = len(vertex.of_kind(v1.TensorboardTimeSeries))
    write()
    assert len(vertex.of_kind(v1.TensorboardTimeSeries)) == before == 6
    assert len(vertex.of_kind(v1.TensorboardRun)) == 2


def test_long_runs_are_written_in_parts(vertex, write, monkeypatch):
    monkeypatch.setattr(vertex_tensorboard, "_VALUES", 3)
    write()
    assert len(vertex.received("WriteTensorboardExperimentData")) == 3 + 2
    assert len(vertex.scalars[("reward-model", "loss")]) == 3


def test_a_service_that_fails_for_a_moment_is_asked_again(vertex, write):
    vertex.fail("CreateTensorboardExperiment", Fault(status="UNAVAILABLE"))
    vertex.fail("WriteTensorboardExperimentData", Fault(status="UNAVAILABLE"))
    write()
    assert len(vertex.scalars[("reward-model", "loss")]) == 3


def test_a_tensorboard_that_is_not_there_is_named(write):
    with pytest.raises(UserError, match="tensorboards/8"):
        write(BOARD[:-1] + "8")


@pytest.mark.parametrize(("name", "made"), [("My Run_2", "my-run-2"), ("---", "rlhf"), ("x" * 200, "x" * 127)])
def test_names_become_ids(name, made):
    assert experiment_id(name) == made
