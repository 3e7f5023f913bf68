"""The notebook, run cell by cell in a kernel of its own, as its reader runs it; only the addresses are of this machine."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from gcs_server import CloudStorage, serve_cloud_storage
from google.cloud import aiplatform_v1 as v1
from nbclient import NotebookClient
from tuned_run import MANIFEST, PROMPTS, write_model
from vertex_server import VertexServer, serve_vertex
from vertex_service import LOCATION, PROJECT, Reply, TaskEnd

from rlhf_pipelines.cli.rlhf import build_parser
from rlhf_pipelines.parameters import check_parameters
from rlhf_tuning import environment
from rlhf_tuning.evaluation.comparison import AnswerPair, ScoredAnswer, summarize, summary_text
from rlhf_tuning.google_cloud.vertex_api import VertexApi
from rlhf_tuning.google_cloud.vertex_endpoint import deploy_to_vertex
from rlhf_tuning.google_cloud.vertex_registry import upload_to_vertex

NOTEBOOK = Path(__file__).parents[2] / "examples/vertex_rlhf.ipynb"
BASE_MODEL = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
RUNNER = f"tuner@{PROJECT}.iam.gserviceaccount.com"
ANSWER = "Tell them that you stopped paying on the day you left."

TEST_VALUES = """
PROJECT, LOCATION, BUCKET = {project!r}, {location!r}, "bucket"
SERVICE_ACCOUNT = {runner!r}
LIGHT_IMAGE = "us-central1-docker.pkg.dev/my-project/rlhf/light@sha256:{digest}"
TRAINER_IMAGE = "us-central1-docker.pkg.dev/my-project/rlhf/trainer@sha256:{digest}"
MACHINE = "l4"
API_ENDPOINT = {api_endpoint!r}
# A command that fails shall fail its cell.
get_ipython().system_raise_on_error = True
# `submit` asks the Resource Manager, which has no address that could be set, for the number of the project.
from google.cloud.aiplatform.utils import resource_manager_utils

resource_manager_utils.get_project_number = lambda *_, **__: "123456789"
"""


def rows(found: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in found).encode()


def put_data(storage: CloudStorage) -> None:
    for number in range(2):
        preferences: list[dict[str, object]] = [
            {
                "input_text": f"Post {number}-{row}: the harbour smells of salt.",
                "candidate_0": "A harbour." if row % 2 else "Gulls call all day.",
                "candidate_1": "Gulls call all day." if row % 2 else "A harbour.",
                "choice": row % 2,
            }
            for row in range(20)
        ]
        storage.put(f"preferences/part-{number}.jsonl", rows(preferences))
        storage.put(f"prompts/part-{number}.jsonl", rows([{"input_text": f"Ask {number}-{row}."} for row in range(20)]))
    storage.put("eval/all.jsonl", rows([{"input_text": f"Held out {row}."} for row in range(5)]))


def put_in_hub_cache(model: Path, home: Path) -> None:
    """Lay a model where the hub's client keeps what it downloaded, under the name that the notebook has."""
    folder = home / "hub" / f"models--{BASE_MODEL.replace('/', '--')}"
    shutil.copytree(model, folder / "snapshots" / ("0" * 40))
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("0" * 40)


def answer(text: str, reward: float) -> ScoredAnswer:
    return ScoredAnswer(text=text, tokens=9, ended=True, reward=reward)


def metrics(values: Mapping[str, float]) -> v1.Artifact:
    return v1.Artifact(schema_title="system.Metrics", metadata=values)


def work(server: VertexServer, storage: CloudStorage, folder: Path) -> Mapping[str, TaskEnd]:
    """Do what the job does at its end: measure, register a version, deploy it, call it."""
    pairs = [
        AnswerPair(
            prompt=[{"role": "user", "content": f"Held out {number}."}],
            base=answer("A harbour.", 0.0),
            tuned=answer("Gulls call all day.", 1.0 if number else -1.0),
        )
        for number in range(8)
    ]
    while not server.received("GetPipelineJob") and not storage.stop.wait(0.05):
        pass  # so that those who follow see it at work
    storage.put("runs/summary.md", summary_text(pairs, width=110).encode())
    api = VertexApi(project=PROJECT, location=LOCATION, api_endpoint=server.rest)
    model_dir = write_model(folder / "bucket/runs/model")
    uploaded = upload_to_vertex(api, model_dir=str(model_dir), name="reddit-summaries", manifest=MANIFEST)
    deploy_to_vertex(api, uploaded.resource_name, prompts=PROMPTS)
    reward_model = {"accuracy": 0.75, "accuracy_low": 0.6, "accuracy_high": 0.86, "n": 40}
    return {
        "train-reward-model": TaskEnd(artifacts={"metrics": metrics(reward_model)}),
        "evaluate": TaskEnd(
            artifacts={
                "metrics": metrics(summarize(pairs).metrics()),
                "summary": v1.Artifact(schema_title="system.Markdown", uri="gs://bucket/runs/summary.md"),
            }
        ),
    }


@pytest.fixture
def storage() -> Iterator[CloudStorage]:
    with serve_cloud_storage() as served:
        put_data(served)
        yield served


@pytest.fixture
def vertex(
    storage: CloudStorage, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VertexServer]:
    monkeypatch.setattr(environment, "GCS_MOUNT", tmp_path / "gcs")
    put_in_hub_cache(tiny_model, tmp_path / "hub-home")
    for name, value in {
        "STORAGE_EMULATOR_HOST": storage.address,
        "HF_HOME": str(tmp_path / "hub-home"),
        "HF_HUB_OFFLINE": "1",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }.items():
        monkeypatch.setenv(name, value)
    with serve_vertex() as server:
        server.use_credentials(monkeypatch, tmp_path)
        server.steps = 1
        server.serve = lambda model, body: Reply(
            body=json.dumps({"predictions": [{"choices": [{"message": {"content": ANSWER}}]}]}).encode()
        )
        server.run_job = lambda job: work(server, storage, tmp_path / "gcs")
        yield server


def run_notebook(api_endpoint: str, folder: Path) -> Any:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    values = TEST_VALUES.format(
        project=PROJECT, location=LOCATION, runner=RUNNER, digest="a" * 64, api_endpoint=api_endpoint
    )
    notebook.cells.insert(parameters + 1, nbformat.v4.new_code_cell(values))
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def shown(notebook: Any, wanted: str) -> str:
    """Return what the one cell whose source holds `wanted` printed, with the line ends of no terminal."""
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and wanted in cell.source)
    return "".join(output.text for output in cell.outputs if output.output_type == "stream").replace("\r\n", "\n")


def test_the_notebook_holds_no_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert not [cell.id for cell in cells if cell.outputs or cell.execution_count is not None]


def test_every_link_of_the_notebook_leads_somewhere() -> None:
    text = "".join(cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells)
    for page, _, heading in re.findall(r"\]\(([^)#]+)(#([^)]+))?\)", text):
        headings = re.findall(r"^#+ (.+)$", (NOTEBOOK.parent / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert not heading or heading in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]


def test_the_schedule_at_the_end_is_one_that_rlhf_takes() -> None:
    text = nbformat.read(NOTEBOOK, as_version=4).cells[-1].source
    (command,) = re.findall(r"```sh\nrlhf (.*?)```", text, flags=re.DOTALL)
    options = build_parser().parse_args(shlex.split(command.replace("\\\n", " ")))
    assert (options.pipeline, options.cron, options.time_zone) == (
        "recurring_rlhf_pipeline",
        "0 3 * * 1",
        "Europe/Zurich",
    )


@pytest.mark.slow
def test_every_cell_runs_from_the_data_to_a_prediction(vertex: VertexServer, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    notebook = run_notebook(vertex.rest, folder)

    (request,) = vertex.received("CreatePipelineJob")
    job = request.pipeline_job
    values = json.loads(v1.PipelineJob.to_json(job))["runtimeConfig"]["parameterValues"]
    assert values["preference_dataset"] == "gs://bucket/preferences/*.jsonl"
    assert values["large_model_reference"] == BASE_MODEL
    assert (values["reward_model_train_steps"], values["kl_coeff"], values["deploy_model"]) == (1000, 0.1, True)
    check_parameters("recurring_rlhf_pipeline", values)
    assert job.runtime_config.gcs_output_directory == "gs://bucket/runs"
    assert (job.display_name, job.service_account) == ("tutorial-rlhf-tuning", RUNNER)
    spec = json.dumps(v1.PipelineJob.to_dict(job)["pipeline_spec"])
    assert "rlhf/trainer@sha256:aaaa" in spec
    assert "NVIDIA_L4" in spec

    assert "Rows: eval_dataset 5, preference_dataset 40, prompt_dataset 40" in shown(notebook, "!rlhf validate")
    assert "Lengths were not checked" not in shown(notebook, "!rlhf validate")
    followed = shown(notebook, "!rlhf jobs follow")
    assert followed.index("Reinforcer: running") < followed.index("Reinforcer: succeeded")

    measured = shown(notebook, '"reward_win_rate"')
    assert measured.startswith("accuracy         75.0%  [60.0%, 86.0%]\nreward_win_rate  87.5%  [52.9%, 97.8%]\n\n")
    assert "By reward it wins 88% [53%, 98%] of 8 held-out prompts: no difference is shown beyond chance." in measured

    ((version,),) = vertex.versions.values()
    assert f"{version.name} version 1 [" in shown(notebook, "Model.list")
    asked = json.loads(v1.PredictRequest.to_json(vertex.received("Predict")[-1]))["instances"]
    assert asked[0]["messages"][0]["content"].endswith("What should I tell them?")
    assert shown(notebook, "!rlhf predict").strip() == ANSWER
