"""Validate Inputs, run as its step runs it."""

import json

import pytest
from kfp import dsl
from secret_manager_server import SECRET, serve_secret_manager

from rlhf_components.validate_inputs import validate_inputs

KEY = "sk-secret-51bd"
JUDGE = {"judge": "language_model", "judge_model": "judge-1", "judge_endpoint": "http://127.0.0.1:1/v1"}


@pytest.fixture
def secrets(monkeypatch, tmp_path_factory):
    with serve_secret_manager(f"{KEY}\n".encode()) as server:
        server.use(monkeypatch, tmp_path_factory.mktemp("credentials"))
        yield server


@pytest.fixture
def validate(tmp_path):
    """Run the step on a few good rows, and return its outputs by name."""
    rows = [
        {"input_text": f"Describe place {n}.", "candidate_0": "Sun.", "candidate_1": "Gulls call.", "choice": n % 2}
        for n in range(20)
    ]
    (tmp_path / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(**values):
        outputs = {name: dsl.Artifact(uri=str(tmp_path / name)) for name in ("data_report", "problems", "bad_rows")}
        found = validate_inputs.python_func(
            **outputs, **{"preference_dataset": str(tmp_path / "preferences.jsonl"), "instruction": ""} | values
        )
        names = [name for name in validate_inputs.component_spec.outputs if name not in outputs]
        return dict(zip(names, found, strict=True))

    return run


def test_a_secret_that_cannot_be_read_ends_the_run_before_the_data_is_read(secrets, validate, tmp_path, capsys):
    secrets.permitted = False
    with pytest.raises(SystemExit) as ended:
        validate(**JUDGE, judge_key_secret=SECRET)
    assert ended.value.code == 2
    told = capsys.readouterr().out
    assert f"ERROR in step Validate Inputs: judge_key_secret is '{SECRET}', but the account" in told
    assert "roles/secretmanager.secretAccessor" in told
    assert not (tmp_path / "data_report").exists()


def test_so_does_one_of_a_judge_that_is_to_reward(secrets, validate, tmp_path, capsys):
    secrets.permitted = False
    rewards = json.dumps([{"kind": "judge", "judge": "gemini", "model": "m", "key_secret": SECRET}])
    with pytest.raises(SystemExit) as ended:
        validate(rewards=rewards)
    assert ended.value.code == 2
    assert f"'{SECRET}', but the account" in capsys.readouterr().out
    assert not (tmp_path / "data_report").exists()


def test_feedback_is_refused_without_the_loss_that_learns_from_it(validate, tmp_path, capsys):
    rows = [{"prompt": f"Ask {n}.", "completion": "Sun.", "label": n % 2 > 0} for n in range(20)]
    (tmp_path / "feedback.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    feedback = {"preference_dataset": "", "feedback_dataset": str(tmp_path / "feedback.jsonl")}
    with pytest.raises(SystemExit):
        validate(**feedback, tunes_on_preferences=True)
    assert "Set loss_type to kto" in capsys.readouterr().out
    found = validate(**feedback, tunes_on_preferences=True, loss_type="kto")
    assert found["feedback_fingerprint"]
    assert "must agree with what people chose of two answers, and feedback has single ones" in found["data_warnings"]
    found = validate(**feedback, tunes_on_preferences=True, loss_type="kto", scorer="house_style")
    assert "what people chose of two answers" not in found["data_warnings"]


def test_a_registry_that_cannot_be_written_to_ends_a_run_that_uses_it(validate, tmp_path, capsys):
    (tmp_path / "file").touch()
    registry = str(tmp_path / "file" / "models")
    with pytest.raises(SystemExit) as ended:
        validate(target="local", registry_dir=registry)
    assert ended.value.code == 2
    assert f"The model would be registered in {registry}, where nothing" in capsys.readouterr().out
    assert validate(target="vertex", registry_dir=registry)["preference_fingerprint"]


def test_a_secret_is_read_and_what_it_holds_is_told_nowhere(secrets, validate, tmp_path, capfd, caplog):
    caplog.set_level("DEBUG")
    secrets.faults.append("UNAVAILABLE")
    outputs = validate(**JUDGE, judge_key_secret=SECRET)
    assert len(secrets.asked) == 2
    assert outputs["preference_fingerprint"]
    out, err = capfd.readouterr()
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 4
    assert "Asking again" in caplog.text
    for text in (out, err, caplog.text, *map(str, outputs.values()), *written):
        assert KEY not in text


def test_several_lines_in_a_secret_end_the_run_and_are_not_shown(secrets, validate, capsys):
    secrets.versions[0].data = f"{KEY}\nsecond line".encode()
    with pytest.raises(SystemExit) as ended:
        validate(**JUDGE, judge_key_secret=SECRET)
    assert ended.value.code == 2
    told = capsys.readouterr().out
    assert f"the secret {SECRET} holds can be no key" in told
    assert KEY not in told


def test_without_a_name_no_secret_is_read(secrets, validate):
    validate(**JUDGE)
    assert secrets.asked == []


def test_the_rubric_goes_on_in_words(validate, tmp_path):
    """So that a later step runs again when the content behind the name has changed."""
    (tmp_path / "rubric.md").write_text("Short is good.\n")
    assert validate(**JUDGE, judge_rubric=str(tmp_path / "rubric.md"))["judge_rubric"] == "Short is good."
    assert validate(**JUDGE, judge_rubric="Be kind.")["judge_rubric"] == "Be kind."
    assert validate()["judge_rubric"] == ""


def test_a_suite_is_read_before_anything_is_spent_and_its_content_goes_into_what_later_steps_are_told(
    validate, tmp_path, capsys
):
    assert validate()["regression_fingerprint"] == ""
    ours = validate(regression_suite="general")["regression_fingerprint"]
    rows = [{"prompt": f"{n}?", "assert": [{"type": "contains", "value": str(n)}]} for n in range(40)]
    (tmp_path / "suite.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = validate(regression_suite=str(tmp_path / "suite.jsonl"))["regression_fingerprint"]
    assert "" != ours != mine != ""
    (tmp_path / "suite.jsonl").write_text('{"prompt": "p"}')
    with pytest.raises(SystemExit) as ended:
        validate(regression_suite=str(tmp_path / "suite.jsonl"))
    assert ended.value.code == 2
    assert "1 prompt without assert, which a judge compares, but judge is empty" in capsys.readouterr().out


def test_the_preferences_that_say_what_a_judge_is_worth_are_checked_and_fingerprinted(validate, tmp_path, capsys):
    """So that the labels are held against them anew when their content has changed."""
    row = {"candidate_0": "Sun and rain all day.", "candidate_1": "Sun.", "choice": 0}
    rows = [{"input_text": f"How is it in place {n}?", **row} for n in range(60)]
    people = tmp_path / "people.jsonl"
    found = []
    for kept in (60, 50):
        people.write_text("".join(json.dumps(row) + "\n" for row in rows[:kept]))
        outputs = validate(human_preference_dataset=str(people))
        found.append(outputs["human_preference_fingerprint"])
        assert "longer answer is preferred" not in outputs["data_warnings"], "nothing learns from them"
    assert "" != found[0] != found[1] != ""
    assert validate()["human_preference_fingerprint"] == ""
    people.write_text('{"input_text": "Alone?"}\n')
    with pytest.raises(SystemExit):
        validate(human_preference_dataset=str(people))
    assert "human_preference_dataset" in capsys.readouterr().out


def test_what_learning_from_a_judge_s_preferences_cannot_use_is_refused_before_they_are_made(
    validate, tmp_path, capsys
):
    (tmp_path / "prompts").write_text("".join(json.dumps({"input_text": f"Ask {n}."}) + "\n" for n in range(20)))
    prompts = dict.fromkeys(("prompt_dataset", "preference_prompt_dataset"), str(tmp_path / "prompts"))
    with pytest.raises(SystemExit):
        validate(**prompts, **JUDGE, preference_dataset="", temperature=0.0)
    assert "temperature is 0; it must be greater than 0" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        validate(**prompts, **JUDGE, preference_dataset="", sampling_strategy="beam")
    assert "sampling_strategy is 'beam'; it must be one of" in capsys.readouterr().out


def test_only_prompts_of_which_some_are_held_out_have_phase_1_done_again(validate, tmp_path):
    for name in ("prompts", "eval"):
        (tmp_path / name).write_text("".join(json.dumps({"input_text": f"Ask {name} {n}."}) + "\n" for n in range(20)))
    held_out = validate(prompt_dataset=str(tmp_path / "prompts"))
    assert held_out["held_out_fingerprint"] == held_out["prompt_fingerprint"] != ""
    evaluated = validate(prompt_dataset=str(tmp_path / "prompts"), eval_dataset=str(tmp_path / "eval"))
    assert evaluated["held_out_fingerprint"] == ""
    assert evaluated["prompt_fingerprint"] == held_out["prompt_fingerprint"]
