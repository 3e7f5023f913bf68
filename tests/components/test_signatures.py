"""Each component's parameters are those of the table, and the fields of the configuration that its body builds."""

import dataclasses
import importlib
import inspect
from pathlib import Path

import pytest

import rlhf_components
from rlhf_tuning.evaluation.evaluate import EvaluationConfig
from rlhf_tuning.generation.inference import InferenceConfig
from rlhf_tuning.labelling.preferences import PreferenceLabelConfig
from rlhf_tuning.labelling.teacher import TeacherConfig
from rlhf_tuning.parameters import PARAMETERS
from rlhf_tuning.promotion.recurring import RecurringConfig
from rlhf_tuning.training import distillation, kto, preference, supervised
from rlhf_tuning.training.distillation import DistillationConfig
from rlhf_tuning.training.preference import PreferenceConfig
from rlhf_tuning.training.reinforcement import ReinforcementConfig
from rlhf_tuning.training.reward_model import RewardModelConfig
from rlhf_tuning.training.supervised import SupervisedConfig

PAIRS = {
    "train_reward_model": RewardModelConfig,
    "train_policy": ReinforcementConfig,
    "train_preference": PreferenceConfig,
    "train_supervised": SupervisedConfig,
    "train_student": DistillationConfig,
    "label_demonstrations": TeacherConfig,
    "label_preferences": PreferenceLabelConfig,
    "infer": InferenceConfig,
    "evaluate": EvaluationConfig,
    "count_new_preferences": RecurringConfig,
}
#: Where a component's default is not the table's, and why.
OTHER_DEFAULTS = {
    # A pipeline has two of these or one, and may count characters for want of a tokenizer.
    ("validate_inputs", "prompt_dataset"): "",
    ("validate_inputs", "preference_dataset"): "",
    ("validate_inputs", "dataset_uri"): "",
    ("validate_inputs", "large_model_reference"): "",
    # Of a reward model alone there are none.
    ("import_preference_dataset", "prompt_dataset"): "",
    # Most runs have no teacher; of one that has, the temperature is the teacher's.
    ("validate_inputs", "teacher_model_reference"): "",
    ("preprocess_inputs", "teacher_model_reference"): "",
    ("label_demonstrations", "temperature"): 0.0,
    # Most runs have no prompts to label, and so no task.
    ("validate_inputs", "preference_prompt_dataset"): "",
    ("validate_inputs", "task_type"): "",
    # Or there is feedback.
    ("import_preference_dataset", "preference_dataset"): "",
    # By itself the step learns from all preferences; a share is for two of them.
    ("import_supervised_dataset", "held_out_reward_model_share"): 0.0,
    ("train_reward_model", "held_out_reward_model_share"): 0.0,
    ("train_preference", "held_out_reward_model_share"): 0.0,
}
#: Fields that no component sets: they are no settings of a run.
INTERNAL = {"centring_prompts"}


@pytest.mark.parametrize("name", PAIRS)
def test_names_types_and_defaults_are_those_of_the_configuration(name):
    component = getattr(rlhf_components, name)
    parameters = inspect.signature(component.python_func).parameters
    fields = {field.name: field for field in dataclasses.fields(PAIRS[name]) if field.name not in INTERNAL}
    assert set(fields) <= set(parameters)
    for field in fields.values():
        parameter = parameters[field.name]
        assert parameter.annotation is field.type
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        assert default == (... if field.default is dataclasses.MISSING else field.default)


@pytest.mark.parametrize(
    "functions",
    [
        (preference.train_on_preferences, kto.train_on_feedback),
        (supervised.train_supervised, distillation.train_student),
    ],
)
def test_what_one_component_chooses_between_is_called_alike(functions):
    one, other = ([*inspect.signature(function).parameters] for function in functions)
    assert one == other


def test_every_component_is_in_the_list_under_the_name_of_its_file():
    files = [path.stem for path in Path(rlhf_components.__file__).parent.glob("*.py") if path.stem != "__init__"]
    assert sorted(rlhf_components.__all__) == sorted(files)
    for name in files:
        assert getattr(rlhf_components, name) is vars(importlib.import_module(f"rlhf_components.{name}"))[name]


@pytest.mark.parametrize("name", rlhf_components.__all__)
def test_every_parameter_is_described_and_is_as_the_table_has_it(name):
    component = getattr(rlhf_components, name)
    assert component.component_spec.implementation.container.image.startswith("rlhf-pipelines/")
    for parameter in inspect.signature(component.python_func).parameters.values():
        assert f"{parameter.name}: " in component.python_func.__doc__, parameter
        if parameter.name not in PARAMETERS:
            continue
        described = PARAMETERS[parameter.name]
        assert parameter.annotation is described.type, parameter
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.default == OTHER_DEFAULTS.get((name, parameter.name), described.default), parameter
