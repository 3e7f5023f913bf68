"""Each component's parameters are the fields of the configuration that its body builds, with the same defaults."""

import dataclasses
import importlib
import inspect

import pytest

from rlhf_tuning.evaluation.evaluate import EvaluationConfig
from rlhf_tuning.generation.inference import InferenceConfig
from rlhf_tuning.promotion.recurring import RecurringConfig
from rlhf_tuning.training.reinforcement import ReinforcementConfig
from rlhf_tuning.training.reward_model import RewardModelConfig

PAIRS = {
    "train_reward_model": RewardModelConfig,
    "train_policy": ReinforcementConfig,
    "infer": InferenceConfig,
    "evaluate": EvaluationConfig,
    "count_new_preferences": RecurringConfig,
}
#: Fields that no component sets: they are no settings of a run.
INTERNAL = {"centring_prompts"}


@pytest.mark.parametrize("name", PAIRS)
def test_names_types_and_defaults_are_those_of_the_configuration(name):
    component = getattr(importlib.import_module(f"rlhf_components.{name}"), name)
    parameters = inspect.signature(component.python_func).parameters
    fields = {field.name: field for field in dataclasses.fields(PAIRS[name]) if field.name not in INTERNAL}
    assert set(fields) <= set(parameters)
    for field in fields.values():
        parameter = parameters[field.name]
        assert parameter.annotation is field.type
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        assert default == (... if field.default is dataclasses.MISSING else field.default)


@pytest.mark.parametrize(
    "name",
    [
        "validate_inputs",
        "preprocess_inputs",
        "import_preference_dataset",
        "import_prompt_dataset",
        "train_reward_model",
        "train_policy",
        "infer",
        "evaluate",
        "upload_model",
        "count_new_preferences",
        "nothing_new",
        "upload_model_to_vertex",
        "upload_model_to_kubeflow",
        "deploy_model",
    ],
)
def test_every_parameter_is_described(name):
    component = getattr(importlib.import_module(f"rlhf_components.{name}"), name)
    spec = component.component_spec
    described = component.python_func.__doc__
    for parameter in inspect.signature(component.python_func).parameters:
        assert f"{parameter}: " in described, parameter
    assert spec.implementation.container.image.startswith("rlhf-pipelines/")
