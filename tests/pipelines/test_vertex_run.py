"""The whole job, submitted to Vertex and executed with what was submitted, on a tiny model and data on Cloud Storage."""

import json

import pytest
from google.cloud import aiplatform_v1 as v1
from submitted_run import local_executor
from tests.gcs_server import serve_cloud_storage
from vertex_server import serve_vertex
from vertex_service import LOCATION, PROJECT

from rlhf_pipelines.backend import Connection, State, Submission, connect
from rlhf_pipelines.compile import compile_for_submission
from rlhf_pipelines.parameters import check_parameters
from rlhf_tuning.registry import list_models

pytestmark = pytest.mark.slow

GOOD, BAD = "salt and gulls and salt", "0 1 2 3 4 5"


def rows(rows_):
    return "".join(json.dumps(row) + "\n" for row in rows_).encode()


def test_the_submitted_job_tunes_a_model_from_data_on_cloud_storage(tiny_model, tmp_path, monkeypatch):
    preferences = [
        {
            "input_text": f"Create {number}.",
            "candidate_0": GOOD if number % 2 else BAD,
            "candidate_1": BAD if number % 2 else GOOD,
            "choice": (number + 1) % 2,
        }
        for number in range(24)
    ]
    # With the local registry at its end: the Model Registry's part has tests of its own.
    spec = compile_for_submission("rlhf_pipeline", "local", "", {})
    with serve_cloud_storage() as storage, serve_vertex() as server:
        storage.put("data/part-1.jsonl", rows(preferences[:12]))
        storage.put("data/part-2.jsonl", rows(preferences[12:]))
        storage.put("prompts.jsonl", rows({"input_text": f"Create {number}, please."} for number in range(16)))
        server.use_credentials(monkeypatch, tmp_path)
        steps = {"STORAGE_EMULATOR_HOST": storage.address, "RLHF_CACHE_DIR": str(tmp_path / "cache")}
        server.run_job = local_executor(tmp_path / "runs", steps)
        values = check_parameters(
            "rlhf_pipeline",
            {
                "preference_dataset": "gs://bucket/data/*.jsonl",
                "prompt_dataset": "gs://bucket/prompts.jsonl",
                "large_model_reference": str(tiny_model),  # gs:// models are read through Vertex's mount alone
                "model_display_name": "tiny",
                "prompt_sequence_length": 48,
                "target_sequence_length": 8,
                "reward_model_train_steps": 2,
                "reinforcement_learning_train_steps": 2,
                "batch_size": 4,
                "eval_prompts": 4,
                "dtype": "float32",
                "registry_dir": str(tmp_path / "registry"),
            },
        )
        vertex = connect("vertex", Connection(project=PROJECT, location=LOCATION, api_endpoint=server.rest))
        submitted = vertex.submit(
            Submission(
                pipeline="rlhf_pipeline",
                spec=spec,
                values=values,
                display_name="tiny tune",
                pipeline_root="gs://bucket/runs",
            )
        )
        server.threads[0].join()
        job = vertex.job(submitted.name)
        (made,) = server.of_kind(v1.PipelineJob)
        assert job.state is State.SUCCEEDED, made.error.message
        assert storage.downloads
    assert job.outputs["model_resource_name"]
    (version,) = list_models(tmp_path / "registry")
    assert version.manifest["parameters"]["reinforcement_learning_train_steps"] == 2
    assert {task.state for task in job.tasks} == {State.SUCCEEDED}
    assert "Reward Model Trainer" in {task.name for task in job.tasks}
    from rlhf_tuning.generation import predict

    assert predict("tiny", "Create 1.", registry_dir=str(tmp_path / "registry"), target_sequence_length=8)
