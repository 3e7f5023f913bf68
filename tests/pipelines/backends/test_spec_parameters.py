import math
from pathlib import Path

import pytest
import yaml

from rlhf_pipelines.backends.spec_parameters import problems_with_values
from rlhf_pipelines.parameters import PIPELINES

SPEC = {
    "root": {
        "inputDefinitions": {
            "parameters": {
                "prompt_dataset": {"parameterType": "STRING", "description": "JSONL of prompts."},
                "train_steps": {"parameterType": "NUMBER_INTEGER", "isOptional": True, "defaultValue": 10.0},
                "kl_coeff": {"parameterType": "NUMBER_DOUBLE", "isOptional": True, "defaultValue": 0.1},
                "deploy": {"parameterType": "BOOLEAN", "isOptional": True, "defaultValue": True},
                "names": {"parameterType": "LIST", "isOptional": True},
                "options": {"parameterType": "STRUCT", "isOptional": True},
            }
        }
    }
}
GOOD = {"prompt_dataset": "gs://b/p.jsonl"}


def problem(**values: object) -> str:
    (found,) = problems_with_values(SPEC, {**GOOD, **values})
    return found


def test_accepts_values_of_every_type() -> None:
    values = {**GOOD, "train_steps": 5, "kl_coeff": 1, "deploy": False, "names": ["a"], "options": {"a": [1]}}
    assert problems_with_values(SPEC, values) == []


def test_accepts_a_whole_number_written_as_a_float_and_the_largest_exact_one() -> None:
    assert problems_with_values(SPEC, {**GOOD, "train_steps": 1000.0}) == []
    assert problems_with_values(SPEC, {**GOOD, "train_steps": 2**53}) == []


def test_reads_a_pipeline_that_stands_beside_its_platform_settings() -> None:
    assert problems_with_values({"pipeline_spec": SPEC, "platform_spec": {}}, GOOD) == []
    assert len(problems_with_values({"pipeline_spec": SPEC, "platform_spec": {}}, {})) == 1


def test_names_what_is_missing_with_its_description() -> None:
    for none in ({}, {"prompt_dataset": ""}):
        assert problems_with_values(SPEC, none) == ["prompt_dataset is missing: JSONL of prompts."]


def test_names_an_unknown_parameter_and_the_one_that_was_meant() -> None:
    assert problem(train_step=3) == "train_step is no parameter of the pipeline. Did you mean train_steps?"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train_steps": "10"}, "train_steps must be a whole number, not the text '10'."),
        ({"train_steps": 1.5}, "train_steps must be a whole number, not 1.5."),
        ({"train_steps": True}, "train_steps must be a whole number, not true."),
        ({"kl_coeff": "x"}, "kl_coeff must be a number, not the text 'x'."),
        ({"deploy": 1}, "deploy must be true or false, not 1."),
        ({"deploy": "true"}, "deploy must be true or false, not the text 'true'."),
        ({"names": "a"}, "names must be a list, not the text 'a'."),
        ({"options": ["a"]}, 'options must be an object, not ["a"].'),
        ({"kl_coeff": None}, "kl_coeff must be a number, not null."),
    ],
)
def test_refuses_another_type(values: dict[str, object], words: str) -> None:
    assert problem(**values) == words


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["kl_coeff", "train_steps"])
def test_refuses_what_is_not_finite(name: str, value: float) -> None:
    assert problem(**{name: value}) == f"{name} is {value}; it must be a finite number."


def test_refuses_a_whole_number_that_a_double_cannot_hold() -> None:
    assert "beyond 9007199254740992" in problem(train_steps=2**53 + 1)


def test_looks_inside_lists_and_objects() -> None:
    assert "finite" in problem(names=[1.0, math.nan])
    assert "finite" in problem(options={"a": {"b": math.inf}})


def test_refuses_text_that_cannot_be_sent() -> None:
    assert problem(prompt_dataset="\ud800") == "prompt_dataset is not valid Unicode."
    assert "null character" in problem(prompt_dataset="a\0b")


def test_reports_every_problem_at_once() -> None:
    assert len(problems_with_values(SPEC, {"kl_coeff": "x", "nope": 1})) == 3


def test_understands_our_own_compiled_pipelines() -> None:
    for file in Path("pipelines/compiled").rglob("*.yaml"):
        spec = next(yaml.load_all(file.read_text(), yaml.CSafeLoader))
        missing = problems_with_values(spec, {})
        required = [parameter.name for parameter in PIPELINES[file.stem] if parameter.required]
        assert sorted(words.partition(" is missing: ")[0] for words in missing) == sorted(required)
