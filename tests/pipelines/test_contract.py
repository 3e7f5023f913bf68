"""The parameters of the Vertex RLHF job, as its own compiled pipeline declared them, and ours beside them."""

import inspect
from pathlib import Path

import pytest
import yaml
from kfp import dsl

from rlhf_components.validate_inputs import validate_inputs
from rlhf_pipelines.compile import load_pipeline
from rlhf_pipelines.parameters import check_parameters
from rlhf_tuning.errors import ParameterError

VERTEX_YAML = Path(__file__).parents[2] / "pipelines" / "compiled" / "vertex"

#: Name, type and default in google-cloud-pipeline-components 2.22.0, preview.llm.rlhf_pipeline. `None` there is the
#: empty string here, since kfp's local runner refuses a None default.
VERTEX_CONTRACT = {
    "prompt_dataset": (str, ...),
    "preference_dataset": (str, ...),
    "large_model_reference": (str, ...),
    "model_display_name": (str, ""),
    "prompt_sequence_length": (int, 512),
    "target_sequence_length": (int, 64),
    "reward_model_learning_rate_multiplier": (float, 1.0),
    "reinforcement_learning_rate_multiplier": (float, 1.0),
    "reward_model_train_steps": (int, 1000),
    "reinforcement_learning_train_steps": (int, 1000),
    "kl_coeff": (float, 0.1),
    "instruction": (str, ""),
    "deploy_model": (bool, True),
    "eval_dataset": (str, ""),
    "project": (str, ""),
    "location": (str, ""),
    "accelerator_type": (str, "GPU"),
    "encryption_spec_key_name": (str, ""),
    "tensorboard_resource_id": (str, ""),
}

#: Likewise of Vertex's job for supervised tuning, as far as its parameters mean something here, or are refused.
SUPERVISED_CONTRACT = {
    "dataset_uri": (str, ...),
    "large_model_reference": (str, ...),
    "train_steps": (int, 300),
    "learning_rate_multiplier": (float, 1.0),
    "evaluation_data_uri": (str, ""),
    "evaluation_interval": (int, 20),
    "enable_early_stopping": (bool, True),
    "enable_checkpoint_selection": (str, "default"),
    "default_context": (str, ""),
    "max_context_length": (str, ""),
    "tuning_method": (str, "tune_v2"),
    "model_display_name": (str, ""),
    "project": (str, ""),
    "location": (str, ""),
    "tensorboard_resource_id": (str, ""),
    "encryption_spec_key_name": (str, ""),
    "accelerator_type": (str, "GPU"),
}

#: Likewise of Vertex's distillation, whose models can no longer be had.
DISTILLATION_CONTRACT = {
    "dataset_uri": (str, ...),
    "teacher_model_reference": (str, ...),
    "student_model_reference": (str, ...),
    "train_steps": (int, 300),
    "learning_rate_multiplier": (float, 1.0),
    "temperature": (float, 0.0),
    "model_display_name": (str, "distilled-student-model"),
    "location": (str, ""),
    "evaluation_data_uri": (str, ""),
    "evaluation_interval": (int, 100),
    "enable_early_stopping": (bool, True),
    "enable_checkpoint_selection": (str, "default"),
    "tensorboard_resource_id": (str, ""),
    "accelerator_type": (str, "GPU"),
    "max_context_length": (str, ""),
    "encryption_spec_key_name": (str, ""),
}

#: Likewise of preview.llm.rlaif_pipeline; the models that it compared can no longer be had.
RLAIF_CONTRACT = {
    "prompt_dataset": (str, ...),
    "preference_prompt_dataset": (str, ...),
    "large_model_reference": (str, ...),
    "task_type": (str, ...),
    "model_display_name": (str, ""),
    "prompt_sequence_length": (int, 512),
    "target_sequence_length": (int, 64),
    "large_model_a_reference": (str, ""),
    "large_model_b_reference": (str, ""),
    "reward_model_learning_rate_multiplier": (float, 1.0),
    "reinforcement_learning_rate_multiplier": (float, 1.0),
    "reward_model_train_steps": (int, 1000),
    "reinforcement_learning_train_steps": (int, 1000),
    "kl_coeff": (float, 0.1),
    "sampling_strategy": (str, "temperature_sampling"),
    "instruction": (str, ""),
    "eval_dataset": (str, ""),
    "project": (str, ""),
    "accelerator_type": (str, "GPU"),
    "location": (str, ""),
    "tensorboard_resource_id": (str, ""),
}

#: Of `preferenceOptimizationSpec.hyperParameters`, whose defaults Google's notebook names where it has any.
GOOGLE_PREFERENCE_TUNING = {
    "beta": (float, 0.1),
    "epoch_count": (float, 1.0),
    "learning_rate_multiplier": (float, 1.0),
    "adapter_size": (int, 16),
}

#: `parameter_values` as the notebooks for the Vertex job had them, but for the model; and what else could be said then.
NOTEBOOK = {
    "preference_dataset": (
        "gs://vertex-ai/generative-ai/rlhf/text_small/summarize_from_feedback_tfds/comparisons/train/*.jsonl"
    ),
    "prompt_dataset": "gs://vertex-ai/generative-ai/rlhf/text_small/reddit_tfds/train/*.jsonl",
    "eval_dataset": "gs://vertex-ai/generative-ai/rlhf/text_small/reddit_tfds/val/*.jsonl",
    "large_model_reference": "meta-llama/Llama-2-7b-hf",
    "reward_model_train_steps": 1410,
    "reinforcement_learning_train_steps": 320,
    "reward_model_learning_rate_multiplier": 1.0,
    "reinforcement_learning_rate_multiplier": 0.2,
    "kl_coeff": 0.1,
    "instruction": "Summarize in less than 50 words",
}
THE_REST = {
    "model_display_name": None,
    "prompt_sequence_length": 512,
    "target_sequence_length": 64,
    "eval_dataset": None,
    "deploy_model": False,
    "project": "my-project",
    "location": "europe-west4",
    "accelerator_type": "GPU",
    "encryption_spec_key_name": "",
    "tensorboard_resource_id": None,
}
#: What the Vertex job called its models, and a word of what to use instead.
OLD_MODELS = {
    "text-bison@001": "SmolLM2",
    "chat-bison@002": "SmolLM2",
    "BISON": "SmolLM2",
    "otter": "SmolLM2",
    "t5-small": "SmolLM2",
    "T5-XXL": "SmolLM2",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-2-13b-chat": "meta-llama/Llama-2-13b-chat-hf",
}


def signature(name):
    parameters = inspect.signature(load_pipeline(name).pipeline_func).parameters.values()
    return {
        parameter.name: (
            parameter.annotation,
            ... if parameter.default is inspect.Parameter.empty else parameter.default,
        )
        for parameter in parameters
    }


def test_the_vertex_job_s_parameters_keep_their_names_types_and_defaults():
    ours = signature("rlhf_pipeline")
    assert {name: ours[name] for name in VERTEX_CONTRACT} == VERTEX_CONTRACT
    assert list(ours)[: len(VERTEX_CONTRACT)] == list(VERTEX_CONTRACT)
    assert list(signature("supervised_tuning_pipeline").items())[: len(SUPERVISED_CONTRACT)] == list(
        SUPERVISED_CONTRACT.items()
    )
    assert DISTILLATION_CONTRACT.items() <= signature("distillation_pipeline").items()
    assert RLAIF_CONTRACT.items() <= signature("rlaif_pipeline").items()


def test_google_s_preference_tuning_s_parameters_keep_their_names_and_meaning():
    ours = signature("preference_tuning_pipeline")
    assert {name: ours[name] for name in GOOGLE_PREFERENCE_TUNING} == GOOGLE_PREFERENCE_TUNING
    assert {name for name, (_, default) in ours.items() if default is ...} == {"large_model_reference"}


def test_only_the_vertex_job_s_required_parameters_are_required():
    required = {name for name, (_, default) in signature("rlhf_pipeline").items() if default is ...}
    assert required == {name for name, (_, default) in VERTEX_CONTRACT.items() if default is ...}


def test_the_outputs_of_the_vertex_job_are_there():
    outputs = load_pipeline("rlhf_pipeline").component_spec.outputs
    assert {"model_resource_name", "endpoint_resource_name"} <= set(outputs)


def test_the_graph_has_the_vertex_job_s_phases_under_their_display_names():
    spec = load_pipeline("rlhf_pipeline").pipeline_spec
    names = {task.task_info.name for task in spec.root.dag.tasks.values()}
    assert {
        "Validate Inputs",
        "Preprocess Inputs",
        "Train Reward Model",
        "Reinforcement Learning",
        "Evaluate and Promote",
    } <= names
    phases = {
        task.task_info.name: spec.components[task.component_ref.name].dag.tasks
        for task in spec.root.dag.tasks.values()
        if task.task_info.name in ("Train Reward Model", "Reinforcement Learning", "Evaluate and Promote")
    }
    assert {task.task_info.name for task in phases["Train Reward Model"].values()} == {
        "Import Preference Dataset",
        "Reward Model Trainer",
    }
    assert {task.task_info.name for task in phases["Reinforcement Learning"].values()} == {
        "Import Prompt Dataset",
        "Reinforcer",
    }
    assert {"Perform Inference (tuned model)", "Upload and Deploy Tuned Model"} <= {
        task.task_info.name for task in phases["Evaluate and Promote"].values()
    }


@pytest.mark.parametrize("values", [NOTEBOOK, NOTEBOOK | THE_REST], ids=["as in the notebook", "with all there was"])
def test_a_pipeline_job_takes_the_parameter_values_of_an_old_notebook_but_for_the_model(values):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform

    job = aiplatform.PipelineJob(
        display_name="tutorial-rlhf",
        template_path=str(VERTEX_YAML / "rlhf_pipeline.yaml"),
        pipeline_root="gs://my-bucket/root",
        parameter_values=values,
        project="my-project",
        location="europe-west4",
        credentials=AnonymousCredentials(),
    ).to_dict()
    given = {name: value for name, value in values.items() if value is not None}
    assert job["runtimeConfig"] == {"gcsOutputDirectory": "gs://my-bucket/root", "parameterValues": given}
    # Whatever is not given, null included, has a default on the server.
    taken = job["pipelineSpec"]["root"]["inputDefinitions"]["parameters"]
    assert {name for name, parameter in taken.items() if not parameter.get("isOptional")} <= set(given)
    assert set(VERTEX_CONTRACT) <= set(taken)


@pytest.mark.parametrize("values", [NOTEBOOK, NOTEBOOK | THE_REST], ids=["as in the notebook", "with all there was"])
def test_the_command_takes_them_as_well(values):
    checked = check_parameters("rlhf_pipeline", values)
    assert {name: checked[name] for name, value in values.items() if value is not None}.items() <= values.items()


def validated(tmp_path, **values):
    """What the step Validate Inputs does with parameters, as a job that no command has checked gives them."""
    outputs = {name: dsl.Artifact(uri=str(tmp_path / name)) for name in ("data_report", "problems", "bad_rows")}
    datasets = dict.fromkeys(("prompt_dataset", "preference_dataset", "eval_dataset"), "gs://no-bucket/*.jsonl")
    validate_inputs.python_func(**outputs, **datasets, instruction="", **values)


@pytest.mark.parametrize(("model", "instead"), OLD_MODELS.items())
def test_an_old_model_is_answered_with_what_to_use_instead_by_the_command_and_by_the_step(
    tmp_path, capsys, model, instead
):
    with pytest.raises(ParameterError) as caught:
        check_parameters("rlhf_pipeline", NOTEBOOK | {"large_model_reference": model})
    with pytest.raises(SystemExit) as ended:
        validated(tmp_path, large_model_reference=model)
    assert ended.value.code == 2
    for told in (str(caught.value), capsys.readouterr().out):
        assert f"large_model_reference is '{model}'" in told
        assert instead in told


def test_tpu_is_answered_with_what_to_use_instead_by_the_command_and_by_the_step(tmp_path, capsys):
    with pytest.raises(ParameterError) as caught:
        check_parameters("rlhf_pipeline", NOTEBOOK | {"accelerator_type": "TPU"})
    with pytest.raises(SystemExit) as ended:
        validated(tmp_path, large_model_reference="some/model", accelerator_type="TPU")
    assert ended.value.code == 2
    for told in (str(caught.value), capsys.readouterr().out):
        assert "accelerator_type is 'TPU', which is not supported yet. Use 'GPU'" in told


@pytest.mark.parametrize(
    "name",
    [
        "rlhf_pipeline",
        "reward_model_pipeline",
        "infer_pipeline",
        "supervised_tuning_pipeline",
        "preference_tuning_pipeline",
        "distillation_pipeline",
        "rlaif_pipeline",
    ],
)
def test_in_every_compiled_pipeline_the_step_gets_what_it_refuses_before_any_other_step_runs(name):
    spec = yaml.load((VERTEX_YAML / f"{name}.yaml").read_text(), yaml.CSafeLoader)
    tasks = spec["root"]["dag"]["tasks"]
    inputs = tasks["validate-inputs"]["inputs"]["parameters"]
    for parameter in {"large_model_reference", "accelerator_type"} & set(
        spec["root"]["inputDefinitions"]["parameters"]
    ):
        assert inputs[parameter] == {"componentInputParameter": parameter}
    assert [task for task, details in tasks.items() if not details.get("dependentTasks")] == ["validate-inputs"]
