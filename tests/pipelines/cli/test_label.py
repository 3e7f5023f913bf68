import sys
from pathlib import Path

import pytest

from rlhf_pipelines.cli import rlhf

JUDGE = ("--judge", "language_model", "--judge-model", "j")
GIVEN = ("--preference-prompt-dataset", "p.jsonl", "--large-model-reference", "smollm2-135m-instruct")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), "there.judgements.jsonl is there already, and nothing is written over"),
        (("--output", "new.jsonl", "--judge", "language_model", "--judge-model", "j"), "judge_endpoint is empty"),
        (("--output", "new.jsonl", "--task-type", "chat"), "task_type is 'chat'"),
        (("--output", "new.jsonl", "--large-model-b-reference", "t5-small"), "large_model_b_reference is 't5-small'"),
        (("--output", "new.jsonl", "--human-preference-dataset", "none.jsonl"), "human_preference_dataset"),
        (("--output", "new.jsonl", "--preference-prompt-dataset", "none.jsonl"), "preference_prompt_dataset"),
        (
            ("--output", "new.jsonl", *JUDGE, "--judge-endpoint", "http://127.0.0.1:1/v1"),
            "judge_endpoint http://127.0.0.1:1/v1 cannot be reached",
        ),
    ],
)
def test_what_cannot_be_labelled_is_told_before_a_model_is_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "rlhf_tuning.labelling.preferences", None)  # which loads torch
    Path("there.judgements.jsonl").touch()
    Path("p.jsonl").touch()
    assert rlhf.main(["label", "--output", "there.jsonl", *GIVEN, *more]) == (1 if "endpoint http" in told else 2)
    assert told in capsys.readouterr().err
