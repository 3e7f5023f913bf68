import json
from pathlib import Path

import pytest
from judge_server import judge_server

from rlhf_pipelines.cli.rlhf import main
from rlhf_tuning import environment

ANSWERED = {"prompt": [{"role": "user", "content": "Ask."}], "prediction": "Sit.", "tokens": 3, "ended": True}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Ask {number}.", "chosen": "Sit, please.", "rejected": "Sit."} for number in range(40)]
    Path("preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    listed = [{"kind": "string_match", "name": "kind_word", "expression": "please", "operation": "partial_match"}]
    Path("rewards.json").write_text(json.dumps(listed))
    return tmp_path


def test_rewards_are_tried_on_held_out_preferences(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["try-rewards", "--rewards", "rewards.json", "--preference-dataset", "preferences.jsonl"]
    assert main([*command, "--price-per-hour", "2", "--batch-size", "4"]) == 0
    out = capsys.readouterr().out
    assert "8 answers" in out
    assert "kind_word     1       0.5   0.5" in out
    assert "100% [" in out
    assert "Worth most, 1: Sit, please." in out
    assert "A whole run scores up to 16,704 answers: " in out
    assert "at 2 an hour" in out


def test_rewards_are_tried_on_what_a_model_answered(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {**ANSWERED, "prediction": "\x1b[31mSit.\x1b]0;title"}
    Path("answers.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    assert main(["try-rewards", "--rewards", "rewards.json", "--predictions", "answers.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "The reward kind_word gives all 2 answers 0: it tells none from another." in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "x", "answer": "y"}, "answers.jsonl:2 is no answer of a model (Expected `array`"),
        ({"prompt": ANSWERED["prompt"]}, "missing required field `prediction`"),
        ({**ANSWERED, "prompt": [*ANSWERED["prompt"], {"role": "system", "content": ""}]}, "only the first turn"),
        ([], "Expected `object`, got `array`"),
        (None, "answers.jsonl cannot be read: No such file"),
    ],
)
def test_a_file_that_holds_no_answers_is_told_with_what_it_must_hold(
    files: Path, capsys: pytest.CaptureFixture[str], row: object, words: str
) -> None:
    if row is not None:
        Path("answers.jsonl").write_text(json.dumps(ANSWERED) + "\n" + json.dumps(row) + "\n")
    assert main(["try-rewards", "--rewards", "rewards.json", "--predictions", "answers.jsonl"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Give the predictions that `rlhf run --pipeline infer_pipeline` leaves" in said


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ([{"kind": "reward_model"}], "the reward_model alone"),
        ([{"kind": "length", "low": 1, "high": 2}], "give large_model_reference"),
        ([{"kind": "python", "code": "def evaluate(example, response): return 1 / 0"}], "ZeroDivisionError"),
        ([{"kind": "string_match", "expression": "{{references.answer}}"}], "A reward needs references"),
    ],
)
def test_what_cannot_be_tried_is_a_mistake_of_the_user(
    files: Path, capsys: pytest.CaptureFixture[str], listed: list[object], words: str
) -> None:
    Path("rewards.json").write_text(json.dumps(listed))
    assert main(["try-rewards", "--rewards", "rewards.json", "--preference-dataset", "preferences.jsonl"]) == 2
    assert words in capsys.readouterr().err


def test_what_would_end_the_run_before_it_is_done_is_told(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "CACHE_DIR", files / "cache")
    with judge_server(lambda question: "Score: 7") as server:
        server.tokens = 1000
        judge = {"kind": "judge", "model": "m", "endpoint": f"{server.url}/v1", "price": 1, "max_cost": 10}
        Path("rewards.json").write_text(json.dumps([judge]))
        command = ["try-rewards", "--rewards", "rewards.json", "--preference-dataset", "preferences.jsonl"]
        assert main([*command, "--batch-size", "4"]) == 0
    out = capsys.readouterr().out
    assert "What is asked of servers for them costs up to 16.70, by their price." in out
    assert "A whole run asks judge up to 16,704 times, and its max_calls 10,000 would end it before." in out
    assert "That may cost 16.70, and the max_cost 10 of judge would end the run before." in out


def test_a_folder_without_a_model_is_not_looked_for_on_the_hub(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["try-rewards", "--rewards", '[{"kind": "length", "low": 1, "high": 2}]', "--large-model-reference"]
    assert main([*command, "./no-model", "--preference-dataset", "preferences.jsonl"]) == 2
    assert "large_model_reference is './no-model', but there is no such folder" in capsys.readouterr().err
