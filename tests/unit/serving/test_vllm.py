import json

import pytest
from tuned_run import write_model

from rlhf_tuning.errors import ModelError, ParameterError
from rlhf_tuning.parameters import SERVING_MACHINES
from rlhf_tuning.serving import vllm
from rlhf_tuning.serving.vllm import MACHINES, ServingPlan, answer_in, plan_serving, problem_with_answer, request_for

GB = 10**9
PARAMETERS = {"instruction": "Be brief.", "instruction_role": "system"}
QUESTION = [{"role": "user", "content": "Create a description for Plantation Palms, a large park."}]


def test_the_machines_are_those_that_the_parameter_allows():
    assert set(SERVING_MACHINES) == {"", *MACHINES}


@pytest.mark.parametrize(
    ("weights", "dtype", "machine"),
    [
        (0.3 * GB, "bfloat16", "l4"),
        (16 * GB, "bfloat16", "l4"),  # 8 billion parameters
        (32 * GB, "float32", "l4"),  # the same, saved in 32 bits
        (28 * GB, "bfloat16", "l4-x2"),
        (54 * GB, "bfloat16", "a100-80gb"),
        (140 * GB, "bfloat16", "a100-80gb-x4"),
    ],
)
def test_the_default_machine_is_the_cheapest_that_the_model_fits_on(tmp_path, weights, dtype, machine):
    assert plan_serving(write_model(tmp_path, weights=int(weights), dtype=dtype), PARAMETERS).machine == machine


def test_a_machine_that_is_too_small_is_refused_with_those_that_are_not(tmp_path):
    folder = write_model(tmp_path, weights=54 * GB)
    with pytest.raises(
        ModelError, match=r"serving_machine is 'l4-x2'.* 48 GB.*78 GB. Choose a100-80gb or a100-80gb-x2"
    ):
        plan_serving(folder, PARAMETERS, "l4-x2")


def test_a_machine_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="serving_machine is 'tpu'; it must be one of '', 'l4'"):
        plan_serving(write_model(tmp_path), PARAMETERS, "tpu")


def test_a_model_too_large_for_any_machine_is_refused(tmp_path):
    with pytest.raises(ModelError, match="set deploy_model to false"):
        plan_serving(write_model(tmp_path, weights=900 * GB), PARAMETERS)


@pytest.mark.parametrize("heads", [9, 12])
def test_a_model_is_split_over_as_many_gpus_as_its_heads_allow(tmp_path, heads):
    plan = plan_serving(write_model(tmp_path, num_attention_heads=heads), PARAMETERS, "l4-x8")
    assert plan.gpus == {9: 1, 12: 4}[heads]
    assert f"--tensor-parallel-size={plan.gpus}" in plan.vllm_arguments()


def test_the_length_is_the_model_s_own_or_the_longest_that_a_run_can_ask_for(tmp_path):
    assert plan_serving(write_model(tmp_path), PARAMETERS).max_length == 2048
    longer = write_model(tmp_path, max_position_embeddings=131072)
    assert "--max-model-len=9216" in plan_serving(longer, PARAMETERS).vllm_arguments()


def test_the_settings_of_a_model_with_several_parts_are_those_of_its_text_part(tmp_path):
    part = {"dtype": "float32", "max_position_embeddings": 512, "num_attention_heads": 4}
    plan = plan_serving(write_model(tmp_path, text_config=part), PARAMETERS, "l4-x8")
    assert (plan.max_length, plan.gpus) == (512, 4)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_a_model_is_refused(tmp_path, missing):
    (write_model(tmp_path) / missing).unlink()
    with pytest.raises(ModelError, match=missing.replace("model.", r"\*\.")):
        plan_serving(tmp_path, PARAMETERS)


def test_the_template_may_be_in_the_tokenizer_s_settings(tmp_path):
    write_model(tmp_path, template=False)
    assert not plan_serving(tmp_path, PARAMETERS).chat_template
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert plan_serving(tmp_path, PARAMETERS).chat_template


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = plan_serving(write_model(tmp_path), {"instruction": "Sé breve, 短く.", "instruction_role": "system"})
    assert ServingPlan.from_json(plan.to_json()) == plan


def test_a_prompt_is_put_as_in_training(tmp_path):
    plan = plan_serving(write_model(tmp_path), PARAMETERS)
    conversation = plan.conversation("Palms?")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Palms?"}]
    asked = request_for(conversation, chat_template=True, max_tokens=9, temperature=0.5, seed=1)
    assert asked == {
        "@requestFormat": "chatCompletions",
        "messages": turns,
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 1,
    }
    asked = request_for(conversation, chat_template=False, max_tokens=9, temperature=0.5, seed=1)
    assert (asked["prompt"], asked["raw_response"]) == ("Be brief.\n\nPalms?\n\n", True)


@pytest.mark.parametrize(
    ("predictions", "text"),
    [
        ({"choices": [{"message": {"content": "A park."}}]}, "A park."),
        ([{"choices": [{"message": {"content": "A park."}}]}], "A park."),
        ([" A park.\n"], "A park."),
        ([{"choices": [{"message": {"content": None}}]}], ""),
        ({"object": "error", "message": "no"}, None),
        ([], None),
        (None, None),
    ],
)
def test_answers_are_found_in_what_the_server_returns(predictions, text):
    assert answer_in(predictions) == text


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("A quiet park under tall palms.", ""),
        ("Ein Park.", ""),
        ("静かな公園です。", ""),
        ("42", ""),
        ("", "is empty"),
        (" \n", "is empty"),
        (QUESTION[0]["content"], "repeats the prompt"),
        (f"Prompt:\n{QUESTION[0]['content']}\nOutput:\nA park", "repeats the prompt"),
        (f"{QUESTION[0]['content']} {QUESTION[0]['content']}", "repeats the prompt"),
        ("!!!!!!!!!!!!!!!!", "makes no sense"),
        ("the the the the the the the the the the", "makes no sense"),
        ("Internal Server Error", "is an error's text"),
        ('{"error": {"code": 400}}', "is an error's text"),
        ("<html><body>502</body></html>", "is an error's text"),
        ("Traceback (most recent call last):\n  File", "is an error's text"),
    ],
)
def test_what_is_no_sensible_answer_is_told(answer, problem):
    found = problem_with_answer(answer, QUESTION)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_a_short_prompt_may_begin_an_answer():
    assert problem_with_answer("Palms? They grow here.", [{"role": "user", "content": "Palms?"}]) == ""


def test_more_tokens_than_the_contract_allows_are_not_reserved():
    assert vllm.MOST_TOKENS == 9216
