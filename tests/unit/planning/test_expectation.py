import json
from pathlib import Path

import pytest

from rlhf_tuning import registry
from rlhf_tuning.data.importer import import_preferences
from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.parameters import PARAMETERS
from rlhf_tuning.planning import calibration, expectation
from rlhf_tuning.planning.forecast import GB, Hardware, forecast
from rlhf_tuning.training.preference import PreferenceConfig
from rlhf_tuning.training.reward_model import RewardModelConfig

CPU = Hardware(
    name="a CPU",
    memory=16 * GB,
    flops=2e11,
    bandwidth=3e10,
    elementwise=1e10,
    number_bytes=4,
    cpu=True,
    processor="2 cores",
)
DEFAULTS = {name: parameter.default for name, parameter in PARAMETERS.items()}


@pytest.fixture
def values(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "this_machine", lambda *_, **__: CPU)
    return {
        "preference_dataset": str(tmp_path / "preferences.jsonl"),
        "prompt_dataset": str(tmp_path / "prompts.jsonl"),
        "large_model_reference": str(tiny_model),
        "prompt_sequence_length": 512,
        "target_sequence_length": 256,
        "reward_model_max_epochs": 0.0,
    }


def expected(values, tmp_path, *, prompt=5, answer=5, **others):
    """Return the time expected for texts of so many words."""
    words = {"prompt": "salt " * prompt, "chosen": "salt " * answer, "rejected": "bread " * answer}
    (tmp_path / "preferences.jsonl").write_text(json.dumps(words) + "\n")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": words["prompt"]}) + "\n")
    return expectation.expected_time(DEFAULTS | values | others)


def minutes(words):
    return int(words.split()[1])


def test_it_names_what_the_time_depends_on(values, tmp_path):
    assert expected(values, tmp_path).endswith(" minutes on this machine (2 cores, float32)")


def test_longer_texts_take_longer_up_to_the_limits(values, tmp_path):
    short = minutes(expected(values, tmp_path))
    assert minutes(expected(values, tmp_path, prompt=150)) > 1.2 * short
    longest = minutes(expected(values, tmp_path, answer=300))
    assert longest > 1.2 * short
    assert minutes(expected(values, tmp_path, answer=600)) == longest


def test_answers_that_are_still_to_be_written_are_as_long_as_is_allowed(values, tmp_path):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "salt"}) + "\n")
    plan, *_ = expectation.plan_of_data(DEFAULTS | values | {"preference_dataset": ""})
    assert plan.prompt_tokens < 50
    assert plan.answer_tokens == 256


def test_no_more_reward_model_steps_are_expected_than_the_preferences_are_worth(values, tmp_path):
    row = json.dumps({"prompt": "salt " * 99, "chosen": "gulls " * 99, "rejected": "bread " * 99}) + "\n"
    (tmp_path / "preferences.jsonl").write_text(row * 1600)
    values = DEFAULTS | values | {"reward_model_max_epochs": 2.0}
    # Three quarters of the nine tenths that are not held out, and of those nine tenths again, twice, by 64.
    found = expectation._plan(values)
    assert found.preferences == pytest.approx(1600, abs=70)
    assert found.reward_model_train_steps == pytest.approx(31, abs=2)
    assert expectation._plan(values | {"reward_model_max_epochs": 0.0}).reward_model_train_steps == 1000
    # Of preference tuning they say how many steps there are, too: nine tenths of them are learnt from.
    alone = {name: value for name, value in values.items() if name != "reinforcement_learning_train_steps"}
    assert expectation._plan(alone).preference_train_steps == pytest.approx(17, abs=1)


def test_of_few_preferences_as_many_steps_are_expected_as_are_taken(values, tmp_path):
    rows = [{"prompt": f"salt {number}", "chosen": "gulls", "rejected": "bread"} for number in range(12)]
    (tmp_path / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = DEFAULTS | values | {"batch_size": 2, "held_out_reward_model_share": 0.0, "epoch_count": 3.0}
    learnt = import_preferences(
        preference_dataset=values["preference_dataset"],
        eval_dataset="",
        instruction="",
        preferences_path=str(tmp_path / "learnt"),
        eval_preferences_path=str(tmp_path / "held_out"),
    ).rows
    assert learnt == 11
    config = PreferenceConfig(large_model_reference="x", batch_size=2, epoch_count=3.0)
    assert expectation._plan(given, tunes_on_preferences=True).preference_train_steps == config.steps(learnt)
    reward = RewardModelConfig(large_model_reference="x", batch_size=2, reward_model_max_epochs=2.0)
    assert expectation._plan(given | {"reward_model_max_epochs": 2.0}).reward_model_train_steps == reward.steps(learnt)


def test_supervised_tuning_alone_is_expected_to_take_less(values, tmp_path):
    row = {"prompt": "salt " * 99, "completion": "gulls " * 99}
    (tmp_path / "demonstrations.jsonl").write_text(json.dumps(row) + "\n")
    alone = {"dataset_uri": str(tmp_path / "demonstrations.jsonl"), "preference_dataset": "", "prompt_dataset": ""}
    found = expectation.expected_time(DEFAULTS | values | alone)
    assert minutes(found) < minutes(expected(values, tmp_path, prompt=99, answer=99))


def test_of_rows_that_a_teacher_is_to_answer_some_have_an_answer(values, tmp_path):
    rows = [{"input_text": "salt " * 99}, {"input_text": "salt " * 99, "output_text": "gulls"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    distilled = {"preference_dataset": "", "prompt_dataset": "", "teacher_model_reference": "big"}
    distilled |= {"student_model_reference": values.pop("large_model_reference")}
    plan, _, _ = expectation.plan_of_data(DEFAULTS | values | distilled | {"dataset_uri": str(tmp_path / "rows.jsonl")})
    assert plan.prompt_tokens > 90
    assert plan.answer_tokens < 10


def test_a_student_that_answers_by_itself_has_its_teacher_beside_it(values, tmp_path, tiny_plain_model):
    (tmp_path / "rows.jsonl").write_text('{"input_text": "salt"}\n' * 9)
    distilled = {"preference_dataset": "", "prompt_dataset": "", "teacher_model_reference": str(tiny_plain_model)}
    distilled |= {"student_model_reference": values.pop("large_model_reference"), "on_policy_train_steps": 7}
    given = DEFAULTS | values | distilled | {"dataset_uri": str(tmp_path / "rows.jsonl")}
    with_teacher = expectation.plan_of_data(given | {"on_policy": True})
    found = forecast(with_teacher[0], with_teacher[1], CPU, reward_base=with_teacher[2])
    assert [(phase.name, phase.steps) for phase in found.phases[1:]] == [("on-policy distillation", 7)]
    assert found.phases[1].peak[1] > found.phases[0].memory["training"]
    assert {"sampling", "teacher", "update"} == set(found.phases[1].seconds)
    assert found.hours["held-out answers"] > 0
    alone, model, _ = expectation.plan_of_data(given)
    assert [phase.name for phase in forecast(alone, model, CPU).phases] == ["supervised tuning"]


def test_a_teacher_is_looked_up_in_the_registry_of_the_run(values, tmp_path, tiny_model, tiny_plain_model):
    registry.register_model(
        model_dir=str(tiny_plain_model), adapter_dir="", name="teacher", manifest={}, registry_dir=tmp_path / "registry"
    )
    asked = {"teacher_model_reference": "teacher@1", "on_policy": True, "registry_dir": str(tmp_path / "registry")}
    _, teacher = expectation.read_bases(DEFAULTS | values | asked)
    assert Path(teacher.name).is_relative_to(tmp_path / "registry")


def test_what_cannot_be_forecast_is_an_error(values, tmp_path):
    with pytest.raises(ParameterError, match="prompt_sequence_length"):
        expected(values, tmp_path, prompt_sequence_length=2000)
    with pytest.raises(DataError):
        expected(values, tmp_path, prompt_dataset=str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("hours", "words"), [(0.001, "a minute"), (0.2, "12 minutes"), (1.7, "1.7 hours"), (30.2, "30 hours")]
)
def test_time_is_said_no_more_exactly_than_it_is_known(hours, words):
    assert expectation._rounded(hours) == words
