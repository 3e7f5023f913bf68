"""The whole job, submitted to Vertex and executed with what was submitted, on a tiny model and data on Cloud Storage."""

import json
from types import SimpleNamespace

import pytest
from gcs_server import serve_cloud_storage
from google.cloud import aiplatform_v1 as v1
from judge_server import judge_server, material
from secret_manager_server import SECRET, serve_secret_manager
from submitted_run import local_executor
from vertex_server import serve_vertex
from vertex_service import LOCATION, PROJECT, Reply

from rlhf_pipelines.backends.backend import Connection, State, Submission, connect
from rlhf_pipelines.compile import compile_for_submission
from rlhf_pipelines.parameters import PIPELINES, check_parameters

pytestmark = pytest.mark.slow

GOOD, BAD = "salt and gulls and salt", "0 1 2 3 4 5"


def rows(rows_):
    return "".join(json.dumps(row) + "\n" for row in rows_).encode()


def preferences(count, first=0):
    return [
        {
            "input_text": f"Create {number}.",
            "candidate_0": GOOD if number % 2 else BAD,
            "candidate_1": BAD if number % 2 else GOOD,
            "choice": (number + 1) % 2,
        }
        for number in range(first, first + count)
    ]


def prompts(count, word="now"):
    return [{"input_text": f"Create {number} {word}."} for number in range(count)]


def submit(server, values, pipeline="rlhf_pipeline"):
    """Submit the pipeline as it is compiled for Vertex, and return the job when it has ended."""
    vertex = connect("vertex", Connection(project=PROJECT, location=LOCATION, api_endpoint=server.rest))
    submitted = vertex.submit(
        Submission(
            pipeline=pipeline,
            spec=compile_for_submission(pipeline, "vertex", "", {}),
            values=check_parameters(pipeline, values),
            display_name="tiny tune",
            pipeline_root="gs://bucket/runs",
        )
    )
    server.threads[-1].join()
    return vertex.job(submitted.name)


@pytest.fixture
def place(tiny_model, tmp_path, monkeypatch):
    """Vertex, which runs what is submitted, and Cloud Storage with the base model; endpoints answer with what they serve."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    mount = tmp_path / "mount"
    answers = []

    def answer(version, body):
        """What the container does: load the model from its address, and answer."""
        folder = mount / version.artifact_uri.removeprefix("gs://")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        (instance,) = json.loads(body)["instances"]
        prompt = tokenizer.apply_chat_template(
            instance["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(folder)
        # Sampled, as the likeliest words of so small a model are the same one over and over.
        made = model.generate(**prompt, do_sample=True, min_new_tokens=4, max_new_tokens=8)
        text = tokenizer.decode(made[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        answers.append(text)
        return Reply(
            body=json.dumps({"predictions": [{"choices": [{"message": {"content": f"Palms: {text}"}}]}]}).encode()
        )

    with (
        serve_cloud_storage() as storage,
        serve_vertex() as server,
        serve_secret_manager(b"sk-from-secret\n") as secrets,
    ):
        for file in tiny_model.iterdir():
            storage.put(f"base/{file.name}", file.read_bytes())
        server.use_credentials(monkeypatch, tmp_path)
        server.serve = answer
        steps = {
            "STORAGE_EMULATOR_HOST": storage.address,
            "RLHF_VERTEX_API_ENDPOINT": server.rest,
            "RLHF_GCS_MOUNT": str(mount),
            "RLHF_SECRET_MANAGER_ENDPOINT": secrets.url,
            "RLHF_CACHE_DIR": str(tmp_path / "cache"),
        }
        server.run_job = local_executor(mount / "outputs" / "runs", steps)
        yield SimpleNamespace(storage=storage, server=server, secrets=secrets, mount=mount, answers=answers)


def more_letters(question: str) -> str:
    """Judge by what tells the answers to the preferences apart: letters are better than digits."""
    parts = material(question)
    a, b = (
        sum(sign.isalpha() for sign in answer) - 3 * sum(sign.isdigit() for sign in answer)
        for answer in (parts["answer A"], parts["answer B"])
    )
    return f"Verdict: {'tie' if a == b else 'A' if a > b else 'B'}"


def test_the_submitted_job_tunes_registers_deploys_and_calls_a_model(place, tmp_path):
    storage, server, mount = place.storage, place.server, place.mount
    with judge_server(more_letters) as judge:
        storage.put("rubric.md", b"Longer is better.")
        storage.put("data/part-1.jsonl", rows(preferences(30)))
        storage.put("data/part-2.jsonl", rows(preferences(30, first=30)))
        storage.put("prompts.jsonl", rows(prompts(40, "please")))
        storage.put("eval.jsonl", rows(prompts(150)))
        values = {
            "preference_dataset": "gs://bucket/data/*.jsonl",
            "supervise_on_preferred": True,
            # Enough to be shown better than the base model, without which nothing is deployed.
            "supervised_train_steps": 150,
            "supervised_learning_rate_multiplier": 50.0,
            "prompt_dataset": "gs://bucket/prompts.jsonl",
            "eval_dataset": "gs://bucket/eval.jsonl",
            "large_model_reference": "gs://bucket/base",
            "model_display_name": "tiny",
            "prompt_sequence_length": 48,
            "target_sequence_length": 8,
            "reward_model_train_steps": 25,
            "reward_model_max_epochs": 0.0,
            "reward_model_learning_rate_multiplier": 50.0,
            "reinforcement_learning_train_steps": 8,
            "batch_size": 8,
            "judge": "language_model",
            "judge_model": "judge-1",
            "judge_endpoint": f"{judge.url}/v1",
            "judge_key_secret": SECRET,
            "judge_rubric": "gs://bucket/rubric.md",
            "dtype": "float32",
        }
        job = submit(server, values)
        (made,) = server.of_kind(v1.PipelineJob)
        assert job.state is State.SUCCEEDED, made.error.message
        assert storage.downloads
        steps = {"Supervised Trainer", "Reward Model Trainer", "Reinforcer", "Deploy Tuned Model"}
        assert steps <= {task.name for task in job.tasks}

        # The key came from its secret to the judge, with the rubric, and is left nowhere.
        assert len(place.secrets.asked) == 2
        assert {headers["authorization"] for headers in judge.headers} == {"Bearer sk-from-secret"}
        assert all("Longer is better." in question for question in judge.questions)
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or b"sk-from-secret" not in path.read_bytes(), path

        # The version leads to files that load, and the endpoint answered with them.
        ((version,),) = server.versions.values()
        (endpoint,) = server.of_kind(v1.Endpoint)
        assert job.outputs["model_resource_name"] == f"{version.name}@1"
        assert job.outputs["endpoint_resource_name"] == endpoint.name
        assert list(endpoint.traffic_split.values()) == [100]
        assert {"champion", "default"} <= set(version.version_aliases)
        assert place.answers
        manifest = json.loads((mount / version.artifact_uri.removeprefix("gs://") / "manifest.json").read_text())
        assert manifest["parameters"]["reinforcement_learning_train_steps"] == 8
        assert manifest["base_model"] == "gs://bucket/base"
        assert manifest["supervised"]["train_steps"] == 150
        (report,) = (mount / "outputs" / "runs").glob("**/evaluate/report")
        times = report.read_text().split('id="time"')[1].split("</section>")[0]
        assert all(
            words in times for words in ("Time by step", ">Reinforcer<", ">Evaluate Tuned Model<", "These steps")
        )
        assert "from an earlier run" not in times

        # The same once more, by the clock: the champion is found, and nothing is new to it.
        again = submit(server, values | {"min_new_preferences": 1}, "recurring_rlhf_pipeline")
        assert again.state is State.SUCCEEDED
        assert again.outputs["outcome"].startswith("Nothing new: 0 new preferences, 1 needed.")
        assert [len(found) for found in server.versions.values()] == [1]


def test_the_submitted_supervised_job_learns_from_demonstrations_and_deploys_the_model(place):
    demonstrations = [
        {"messages": [{"author": "user", "content": f"Create {number}."}, {"author": "assistant", "content": GOOD}]}
        for number in range(60)
    ]
    place.storage.put("demonstrations.jsonl", rows(demonstrations))
    values = {
        "dataset_uri": "gs://bucket/demonstrations.jsonl",
        "large_model_reference": "gs://bucket/base",
        "model_display_name": "tiny",
        "default_context": "Be brief.",
        "train_steps": 20,
        "learning_rate_multiplier": 20.0,
        "prompt_sequence_length": 48,
        "target_sequence_length": 12,
        "eval_prompts": 6,
        "batch_size": 8,
        # Six held-out answers rule no harm out.
        "gate_min_prompts": 6,
        **{f"gate_max_{harm}_rise": 0.0 for harm in ("unfinished", "empty", "repetitive", "refusal")},
        "dtype": "float32",
    }
    job = submit(place.server, values, "supervised_tuning_pipeline")
    (made,) = place.server.of_kind(v1.PipelineJob)
    assert job.state is State.SUCCEEDED, made.error.message
    ((version,),) = place.server.versions.values()
    assert job.outputs["model_resource_name"] == f"{version.name}@1"
    assert {"champion", "default"} <= set(version.version_aliases)
    assert job.outputs["endpoint_resource_name"]
    assert place.answers
    folder = place.mount / version.artifact_uri.removeprefix("gs://")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["fingerprints"]["demonstrations"].startswith("sha256:")
    assert manifest["parameters"]["instruction_role"] == "system"
    assert manifest["evaluation"]["demonstrated_win_rate_low"] > 0.5


def test_the_submitted_preference_tuning_needs_no_reward_model_to_learn_from_and_deploys_the_model(place):
    storage = place.storage
    storage.put("preferences.jsonl", rows(preferences(80)))
    storage.put("eval.jsonl", rows(prompts(80)))
    with judge_server() as judge:
        values = {
            "preference_dataset": "gs://bucket/preferences.jsonl",
            "eval_dataset": "gs://bucket/eval.jsonl",
            "large_model_reference": "gs://bucket/base",
            "model_display_name": "tiny",
            "prompt_sequence_length": 48,
            "target_sequence_length": 8,
            "epoch_count": 3,
            "learning_rate_multiplier": 200.0,
            "rpo_alpha": 1.0,
            "batch_size": 8,
            "watch_prompts": 0,
            "held_out_reward_model_share": 0.0,
            "judge": "language_model",
            "judge_model": "judge-1",
            "judge_endpoint": f"{judge.url}/v1",
            "judge_key_secret": SECRET,
            "dtype": "float32",
        }
        job = submit(place.server, values, "preference_tuning_pipeline")
    (made,) = place.server.of_kind(v1.PipelineJob)
    assert job.state is State.SUCCEEDED, made.error.message
    ((version,),) = place.server.versions.values()
    assert {"champion", "default"} <= set(version.version_aliases)
    assert job.outputs["endpoint_resource_name"]
    folder = place.mount / version.artifact_uri.removeprefix("gs://")
    assert json.loads((folder / "manifest.json").read_text())["method"] == "preference"


FEEDBACK = [
    {"prompt": f"Create {number}.", "completion": GOOD if number % 2 else BAD, "label": number % 2 > 0}
    for number in range(24)
]
REWARDS = [
    {"kind": "python", "name": "often", "function": "often.py"},
    {"kind": "string_match", "expression": "{{references.letter}}", "operation": "partial_match"},
]
OFTEN = b"""
def evaluate(example, response):
    return response['parts'][0]['text'].count(example['references']['letter']) / 6
"""
#: On Cloud Storage, by name.
DATA = {
    "preferences.jsonl": preferences(60),
    "feedback.jsonl": FEEDBACK,
    "prompts.jsonl": [row | {"references": {"letter": "e"}} for row in prompts(24, "please")],
    "eval.jsonl": [row | {"references": {"letter": "e"}} for row in prompts(8)],
    "rewards/rewards.json": [REWARDS],
}
REWARD_MODELS = {"reward_model_train_steps": 2, "min_reward_model_accuracy": 0.0, "held_out_reward_model_share": 0.5}
REINFORCEMENT = {"reinforcement_learning_train_steps": 1, "num_generations": 2, "watch_prompts": 0}
#: Pipeline to its settings, and to the method that the registered model tells of.
SHORT = {
    "preference_tuning_pipeline": (
        {"feedback_dataset": "gs://bucket/feedback.jsonl", "loss_type": "kto", "watch_prompts": 0, **REWARD_MODELS},
        "preference",
    ),
    "reward_tuning_pipeline": (
        {"prompt_dataset": "gs://bucket/prompts.jsonl", "rewards": "gs://bucket/rewards/rewards.json", **REINFORCEMENT},
        "reinforcement",
    ),
    "distillation_pipeline": (
        {"dataset_uri": "gs://bucket/prompts.jsonl", "student_model_reference": "gs://bucket/base", "train_steps": 1},
        "supervised",
    ),
    "rlaif_pipeline": (
        {
            "prompt_dataset": "gs://bucket/prompts.jsonl",
            "preference_prompt_dataset": "gs://bucket/prompts.jsonl",
            "task_type": "question_answering@001",
            **REWARD_MODELS,
            **REINFORCEMENT,
        },
        "reinforcement",
    ),
    "method_comparison_pipeline": (
        {
            "preference_dataset": "gs://bucket/preferences.jsonl",
            "prompt_dataset": "gs://bucket/prompts.jsonl",
            "supervised_train_steps": 1,
            "best_of": 2,
            **REWARD_MODELS,
            **REINFORCEMENT,
        },
        "",
    ),
}


@pytest.mark.parametrize("pipeline", SHORT)
def test_every_other_pipeline_runs_as_it_was_submitted(place, pipeline):
    settings, method = SHORT[pipeline]
    for name, content in DATA.items():
        place.storage.put(name, rows(content))
    place.storage.put("rewards/often.py", OFTEN)
    with judge_server(
        lambda question: GOOD if pipeline == "distillation_pipeline" else more_letters(question)
    ) as server:
        endpoint = {"endpoint": f"{server.url}/v1", "key_secret": SECRET}
        given = {
            **settings,
            "eval_dataset": "gs://bucket/eval.jsonl",
            "evaluation_data_uri": "gs://bucket/eval.jsonl",
            "large_model_reference": "gs://bucket/base",
            "model_display_name": "tiny",
            "prompt_sequence_length": 48,
            "target_sequence_length": 8,
            "batch_size": 4,
            "gate_min_prompts": 8,
            "dtype": "float32",
            "judge": "language_model",
            "judge_model": "judge-1",
            "teacher": "language_model",
            "teacher_model_reference": "teacher-1",
            **{f"{who}_{name}": value for who in ("judge", "teacher") for name, value in endpoint.items()},
        }
        taken = {parameter.name for parameter in PIPELINES[pipeline]}
        job = submit(place.server, {name: value for name, value in given.items() if name in taken}, pipeline)
    (made,) = place.server.of_kind(v1.PipelineJob)
    assert job.state is State.SUCCEEDED, made.error.message
    if method:
        ((version,),) = place.server.versions.values()
        assert job.outputs["model_resource_name"] == f"{version.name}@1"
        manifest = json.loads((place.mount / version.artifact_uri.removeprefix("gs://") / "manifest.json").read_text())
        assert (manifest["method"], manifest["base_model"]) == (method, "gs://bucket/base")
    else:
        (found,) = (place.mount / "outputs" / "runs").glob("**/compare-methods/results")
        assert list(json.loads(found.read_text())["methods"]) == ["base", "supervised", "dpo", "rlhf", "best_of_n"]
