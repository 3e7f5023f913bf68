"""What of valid rows is read otherwise than it is written: for each finding rows that have it, and some that have not."""

from typing import Any

import pytest
from benchmarks.fuzz_templates import make_case

from rlhf_tuning.data import as_read
from rlhf_tuning.data.as_read import ReadRow, Sample
from rlhf_tuning.data.summary import Finding, SampledRow
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.models.text_format import TextFormat


def row(*contents: str, roles: str = "", answers: tuple[str, ...] = (), sizes: tuple[int, ...] = (9, 9, 9)) -> ReadRow:
    """Return a row; its roles are given by their first letters."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    turns = [
        {"role": names[letter], "content": content} for letter, content in zip(roles or "u", contents, strict=True)
    ]
    chosen, rejected = answers or (None, None)
    return ReadRow(SampledRow(location="a.jsonl:1", prompt=turns, chosen=chosen, rejected=rejected), sizes)


def found(*rows: ReadRow, text_format: TextFormat | None = None) -> dict[str, Finding]:
    return {finding.code: finding for finding in as_read.findings(Sample("prompt_dataset", rows, ""), text_format)}


@pytest.fixture(scope="module")
def formats() -> dict[str, TextFormat]:
    return {
        name: make_case(name).text_format for name in ("chatml", "llama2", "llama3", "mistral_v3", "vicuna", "gemma3")
    }


@pytest.mark.parametrize("answer", [" A boat.", "A boat.\n", "\u3000A boat."])
def test_white_space_around_answers_is_found(answer: str) -> None:
    finding = found(row("Hi", answers=("A gull.", answer)), row("Hi", answers=("A", "B")))["answers_stripped"]
    assert finding.message.startswith("An answer begins or ends with white space in 1 of 2 rows of prompt_dataset.")
    assert finding.examples == (("a.jsonl:1", repr(["A gull.", answer])),)
    assert not found(row(" Hi ", answers=("A gull.", "A  boat.")))


PROMPT = "Describe the harbour at dawn."


def limited(text_format: TextFormat, prompt: int, target: int) -> TextFormat:
    return TextFormat(text_format.tokenizer, prompt_sequence_length=prompt, target_sequence_length=target)


def test_system_turns_that_are_cut_are_found(formats: dict[str, TextFormat]) -> None:
    text_format = limited(formats["chatml"], 80, 9)
    cut = row("You are a clerk. " * 40, "Hi", roles="su", sizes=(400, 9, 9))
    whole = row("You are a clerk. ", "The harbour. " * 40, roles="su", sizes=(300, 9, 9))
    message = found(cut, whole, text_format=text_format)["system_cut"].message
    assert "more than half of prompt_sequence_length 80 in 1 of 2 rows" in message
    assert "prompt_sequence_length; 400 would keep" in message
    assert "system_cut" not in found(whole, text_format=text_format)
    with pytest.raises(ParameterError, match="leaves no room"):
        found(cut, text_format=limited(formats["chatml"], 5, 9))


def test_white_space_that_a_template_takes_out_of_turns_is_found(formats: dict[str, TextFormat]) -> None:
    rows = [row(" Hi\n"), row("Hi")]
    message = found(*rows, text_format=formats["llama3"])["turns_stripped"].message
    assert message.startswith(
        "In 1 of 2 rows of prompt_dataset a turn begins or ends with white space that the model's"
    )
    assert "turns_stripped" not in found(*rows, text_format=formats["chatml"])


@pytest.mark.parametrize(
    ("template", "roles", "joined"),
    [
        ("llama2", "su", "the system turn and a turn of the user"),
        ("mistral_v3", "suau", "the system turn and a turn of the user"),
        ("gemma3", "su", "the system turn and a turn of the user"),
        ("chatml", "suau", ""),
        ("llama3", "su", ""),
        ("vicuna", "su", ""),
        ("mistral_v3", "uu", ""),
        ("llama2", "uau", ""),
    ],
)
def test_turns_that_a_template_writes_into_one_are_found(
    formats: dict[str, TextFormat], template: str, roles: str, joined: str
) -> None:
    findings = found(row(*("Hi",) * len(roles), roles=roles), row("Hi"), text_format=formats[template])
    assert ("turns_joined" in findings) == bool(joined)
    if joined:
        assert findings["turns_joined"].message.startswith(
            "In 1 of 2 rows of prompt_dataset the model's chat template wr"
        )
        assert f"writes {joined} into one" in findings["turns_joined"].message


def test_beginnings_of_turns_in_plain_characters_are_found_where_the_template_has_them(
    formats: dict[str, TextFormat],
) -> None:
    assert as_read.openings(formats["llama2"]) == ["<</SYS>>", "[/INST]"]
    assert as_read.openings(formats["vicuna"])[-1] == "ASSISTANT:"
    assert as_read.openings(formats["chatml"]) == as_read.openings(formats["mistral_v3"]) == []
    rows = [row("Hi [/INST] Yes"), row("Hi", answers=("A", "B <</SYS>>")), row("Hi [INST"), row("XASSISTANT:")]
    finding = found(*rows, text_format=formats["llama2"])["turns_written"]
    assert "2 of 4 rows" in finding.message
    assert "([/INST])" in finding.message
    for name in ("chatml", "mistral_v3", "vicuna"):
        assert "turns_written" not in found(*rows, text_format=formats[name])


def test_nothing_is_said_of_rows_that_are_read_as_they_are_written(formats: dict[str, Any]) -> None:
    rows = [row("Be brief.", PROMPT, "Calm.", "More?", roles="suau", answers=("A gull.", "A boat."))]
    for name in ("chatml", "llama3", "vicuna"):
        assert not found(*rows, text_format=formats[name])
