import json
import math

import pytest

from rlhf_pipelines.parameters import PIPELINES, check_parameters, parse_text
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.parameters import PARAMETERS, Value

REQUIRED: dict[str, object] = {
    "prompt_dataset": "prompts.jsonl",
    "preference_dataset": "preferences.jsonl",
    "large_model_reference": "some/model",
}

# The Vertex job's parameters, read from google-cloud-pipeline-components 2.22.0. "None" there is "" here.
CONTRACT: dict[str, tuple[type[Value], Value | None]] = {
    "prompt_dataset": (str, None),
    "preference_dataset": (str, None),
    "large_model_reference": (str, None),
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


def problem(pipeline: str = "rlhf_pipeline", **values: object) -> str:
    with pytest.raises(ParameterError) as caught:
        check_parameters(pipeline, REQUIRED | values)
    return str(caught.value)


def test_contract_keeps_names_types_and_defaults() -> None:
    found = {parameter.name: (parameter.type, parameter.default) for parameter in PIPELINES["rlhf_pipeline"]}
    assert {name: found.get(name) for name in CONTRACT} == CONTRACT


def test_every_default_has_its_parameters_type_and_is_allowed() -> None:
    for parameter in PARAMETERS.values():
        assert parameter.required or type(parameter.default) is parameter.type, parameter.name
    assert check_parameters("rlhf_pipeline", REQUIRED)["lora_dim"] == 16


def test_defaults_fill_in_for_absent_and_null_parameters() -> None:
    values = check_parameters("rlhf_pipeline", REQUIRED | {"kl_coeff": None, "instruction": None})
    assert values["kl_coeff"] == 0.1
    assert values["instruction"] == ""
    assert list(values) == [parameter.name for parameter in PIPELINES["rlhf_pipeline"]]


def test_whole_number_becomes_a_float_where_a_float_is_wanted() -> None:
    value = check_parameters("rlhf_pipeline", REQUIRED | {"kl_coeff": 0})["kl_coeff"]
    assert (value, type(value)) == (0.0, float)


def test_float_without_a_fraction_is_a_whole_number() -> None:
    value = check_parameters("rlhf_pipeline", REQUIRED | {"seed": 7.0})["seed"]
    assert (value, type(value)) == (7, int)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("reward_model_train_steps", 0, "at least 1"),
        ("reward_model_train_steps", -5, "at least 1"),
        ("reinforcement_learning_train_steps", 0, "at least 1"),
        ("reward_model_train_steps", 2.5, "must be a whole number"),
        ("reward_model_train_steps", True, "must be a whole number, not true"),
        ("reward_model_train_steps", "3", "without quotes"),
        ("reward_model_train_steps", "many", "not the text 'many'"),
        ("reward_model_train_steps", 2**60, "not exact"),
        ("prompt_sequence_length", 8193, "at most 8192"),
        ("prompt_sequence_length", 0, "at least 1"),
        ("target_sequence_length", 1025, "at most 1024"),
        ("kl_coeff", -0.1, "at least 0"),
        ("kl_coeff", math.nan, "finite"),
        ("kl_coeff", math.inf, "finite"),
        ("kl_coeff", "0.1", "without quotes"),
        ("kl_coeff", 10**400, "must be a number"),
        ("reward_model_learning_rate_multiplier", 0, "greater than 0"),
        ("reinforcement_learning_rate_multiplier", -1.0, "greater than 0"),
        ("batch_size", 0, "at least 1"),
        ("num_generations", 1, "at least 2"),
        ("temperature", 0, "greater than 0"),
        ("lora_dim", -1, "at least 0"),
        ("reward_lora_dim", -1, "at least 0"),
        ("seed", -1, "at least 0"),
        ("eval_prompts", 0, "at least 1"),
        ("rl_algorithm", "ppo", "'rloo', 'grpo'"),
        ("dtype", "float16", "'bfloat16'"),
        ("scorer", "mine", "'house_style'"),
        ("deploy_model", "true", "without quotes"),
        ("deploy_model", 1, "must be true or false, not 1"),
        ("instruction", 5, "must be text"),
        ("instruction", ["a"], 'not ["a"]'),
        ("instruction", "a\x00b", "control character"),
        ("instruction", "a" * 40_000, "32 KiB"),
        ("instruction", "a\ud800", "not valid Unicode"),
        ("accelerator_type", "TPU", "not supported yet"),
        ("accelerator_type", "gpu", "must be 'GPU'"),
    ],
)
def test_refuses_a_value_and_names_it(name: str, value: object, words: str) -> None:
    message = problem("rlhf_pipeline", **{name: value})
    assert message.startswith(name)
    assert words in message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"label_smoothing": 0.1}, "only loss_type robust knows"),
        ({"label_smoothing": 0.5, "loss_type": "robust"}, "at most 0.49"),
        ({"loss_type": "dpo"}, "'sigmoid', 'sigmoid_norm', 'hinge', 'ipo', 'robust'"),
        ({"beta": 0}, "beta is 0.0; it must be greater than 0"),
        ({"temperature": 0}, "Only infer_pipeline takes 0"),
        ({"loss_type": "kto"}, "learns from feedback_dataset"),
        ({"feedback_dataset": "f"}, "are both given"),
        ({"preference_dataset": "", "feedback_dataset": "f"}, "Set loss_type to kto"),
        ({"preference_dataset": ""}, "preference_dataset is missing. Give it, or a feedback_dataset"),
        ({"desirable_weight": 2}, "only loss_type kto learns"),
    ],
)
def test_preference_tuning_refuses_what_its_loss_cannot_use(values: dict[str, object], words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        check_parameters(
            "preference_tuning_pipeline", {"preference_dataset": "p", "large_model_reference": "some/model", **values}
        )
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reward_model_learns_from_preferences_or_feedback_or_both() -> None:
    model = {"large_model_reference": "some/model"}
    with pytest.raises(ParameterError, match="Give it, or a feedback_dataset, or both"):
        check_parameters("reward_model_pipeline", model)
    for data in (
        {"feedback_dataset": "f"},
        {"preference_dataset": "p"},
        {"feedback_dataset": "f", "preference_dataset": "p"},
    ):
        assert check_parameters("reward_model_pipeline", model | data)


@pytest.mark.parametrize("name", ["lora_dim", "reward_lora_dim", "kl_coeff", "seed"])
def test_accepts_zero_where_it_has_a_meaning(name: str) -> None:
    assert check_parameters("rlhf_pipeline", REQUIRED | {name: 0})[name] == 0


def test_instruction_may_have_several_lines() -> None:
    assert check_parameters("rlhf_pipeline", REQUIRED | {"instruction": "a\n\tb"})["instruction"] == "a\n\tb"


@pytest.mark.parametrize(
    "name",
    ["text-bison@001", "chat-bison", "t5-large", "T5_XXL", "publishers/google/models/text-bison@001", "flan-t5-xl"],
)
def test_retired_base_model_says_what_to_use_instead(name: str) -> None:
    assert "smollm2-135m-instruct" in problem(large_model_reference=name)


@pytest.mark.parametrize(
    "name", ["meta-llama/Llama-2-7b-hf", "Qwen/Qwen2.5-0.5B-Instruct", "./t5-mine", "gs://bucket/t5-x/model"]
)
def test_other_base_models_are_left_to_the_run(name: str) -> None:
    assert (
        check_parameters("rlhf_pipeline", REQUIRED | {"large_model_reference": name})["large_model_reference"] == name
    )


def test_unknown_parameter_is_named_with_the_closest_one() -> None:
    message = problem(reward_model_training_steps=5)
    assert message == (
        "reward_model_training_steps is no parameter of rlhf_pipeline. Did you mean reward_model_train_steps?"
    )


def test_parameter_of_another_pipeline_names_that_pipeline() -> None:
    message = problem("infer_pipeline", kl_coeff=0.1)
    assert (
        "kl_coeff is no parameter of infer_pipeline, only of rlhf_pipeline and recurring_rlhf_pipeline and " in message
    )


@pytest.mark.parametrize("value", [None, "", "  "])
def test_missing_required_parameter_is_named(value: object) -> None:
    assert problem(prompt_dataset=value).startswith("prompt_dataset is missing")


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ParameterError) as caught:
        check_parameters("rlhf_pipeline", {"prompt_dataset": "p", "batch_size": 0, "kl_coef": 1, "seed": "x"})
    message = str(caught.value)
    assert message.startswith("3 parameters cannot be used and 2 parameters are missing:\n")
    for name in ("kl_coef", "batch_size", "seed", "preference_dataset", "large_model_reference"):
        assert f"  - {name} " in message


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seed", "3", 3),
        ("seed", "3.5", "3.5"),
        ("kl_coeff", "1e-3", 0.001),
        ("kl_coeff", "abc", "abc"),
        ("deploy_model", "False", False),
        ("deploy_model", "yes", True),
        ("deploy_model", "maybe", "maybe"),
        ("instruction", "3", "3"),
    ],
)
def test_text_of_a_flag_is_read_as_the_parameters_type(name: str, text: str, value: object) -> None:
    assert parse_text(PARAMETERS[name], text) == value


def test_a_question_about_a_distillation_has_its_teacher_s_temperature() -> None:
    asked = {"large_model_reference": "some/student", "temperature": 0}
    assert check_parameters("plan", asked | {"teacher_model_reference": "some/teacher"})["temperature"] == 0
    with pytest.raises(ParameterError, match="temperature is 0"):
        check_parameters("plan", asked)


def test_table_can_be_written_as_json() -> None:
    assert json.loads(json.dumps(check_parameters("rlhf_pipeline", REQUIRED)))["deploy_model"] is True


@pytest.mark.parametrize(
    ("pipeline", "values", "words"),
    [
        ("rlhf_pipeline", {"supervised_dataset": "d", "supervise_on_preferred": True}, "learns from one of the two"),
        ("rlhf_pipeline", {"supervised_dataset": "d", "warm_start_adapter": "mine@1"}, "another model in its place"),
        ("recurring_rlhf_pipeline", {"supervise_on_preferred": True, "warm_start": True}, "another model in its place"),
        ("preference_tuning_pipeline", {"supervised_dataset": "d", "warm_start_adapter": "mine@1"}, "in its place"),
        ("method_comparison_pipeline", {"held_out_reward_model_share": 0}, "a reward model that only judges"),
        ("method_comparison_pipeline", {"loss_type": "kto"}, "which learns from feedback_dataset"),
        ("validate", {"on_policy": True, "teacher": "gemini"}, "does not tell how probable its model finds each token"),
        ("label", {"task_type": "chat"}, "task_type is 'chat'; it must be summarization or question_answering"),
    ],
)
def test_what_does_not_go_together_is_refused(pipeline: str, values: dict[str, object], words: str) -> None:
    given = {"prompt_dataset": "p", "preference_dataset": "q", "large_model_reference": "some/model"}
    with pytest.raises(ParameterError, match=words):
        check_parameters(pipeline, given | values)
