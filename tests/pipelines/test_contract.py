"""The parameters of the Vertex RLHF job, as its own compiled pipeline declared them, and ours beside them."""

import inspect

import pytest

from rlhf_pipelines.compile import PIPELINES, load_pipeline
from rlhf_pipelines.parameters import PIPELINES as PARAMETERS

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
        "Perform Inference (tuned model)",
        "Upload and Deploy Tuned Model",
    } <= names
    phases = {
        task.task_info.name: spec.components[task.component_ref.name].dag.tasks
        for task in spec.root.dag.tasks.values()
        if task.task_info.name in ("Train Reward Model", "Reinforcement Learning")
    }
    assert {task.task_info.name for task in phases["Train Reward Model"].values()} == {
        "Import Preference Dataset",
        "Reward Model Trainer",
    }
    assert {task.task_info.name for task in phases["Reinforcement Learning"].values()} == {
        "Import Prompt Dataset",
        "Reinforcer",
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_the_command_s_table_of_parameters_is_the_pipeline_s_signature(name):
    table = {
        parameter.name: (parameter.type, ... if parameter.default is None else parameter.default)
        for parameter in PARAMETERS[name]
    }
    assert signature(name) == table
