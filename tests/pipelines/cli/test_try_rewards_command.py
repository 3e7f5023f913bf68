import json
from pathlib import Path

import pytest
from judge_server import judge_server

from rlhf_pipelines.cli.rlhf import main
from rlhf_tuning import environment


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
    row = {"prompt": [{"role": "user", "content": "Ask."}], "prediction": "Sit.", "tokens": 3, "ended": True}
    Path("answers.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    assert main(["try-rewards", "--rewards", "rewards.json", "--predictions", "answers.jsonl"]) == 0
    assert "The reward kind_word gives all 2 answers 0: it tells none from another." in capsys.readouterr().out


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
