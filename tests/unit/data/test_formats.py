import json
import random

import pytest
from tests.unit.data.reading import read

from rlhf_tuning.data.formats import FORMATS, parse_line
from rlhf_tuning.data.problems import CODES, Fault
from rlhf_tuning.data.reader import EITHER, PROMPTS

GOOD = [
    {"input_text": "Où est la mer ?", "candidate_0": "Là.", "candidate_1": "Ici 😀", "choice": 0},
    {"input_text": "Describe it."},
    {
        "messages": [
            {"author": "user", "content": "a\n"},
            {"author": "assistant", "content": "b"},
            {"author": "user", "content": "c"},
        ],
        "context": "Be kind.",
        "candidate_0": "x",
        "candidate_1": "y",
        "choice": 1,
    },
    {
        "messages": [{"author": "user", "content": "a", "candidate_0": "x", "candidate_1": "y", "choice": 1}],
        "context": "Be kind.",
    },
    {
        "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "a"}],
        "chosen": [{"role": "assistant", "content": "x"}],
        "rejected": [{"role": "assistant", "content": "y"}],
    },
    {"prompt": "Où est la mer ?", "chosen": "Là.", "rejected": "Ici 😀", "margin": 0.5},
    {
        "contents": [{"role": "user", "parts": [{"text": "a"}]}],
        "completions": [
            {"score": score, "completion": {"role": "model", "parts": [{"text": text}]}}
            for score, text in ((1, "x"), (0, "y"))
        ],
    },
]


def test_parses_each_format_by_its_fields() -> None:
    names = []
    for record in GOOD:
        faults: list[Fault] = []
        parsed = parse_line(json.dumps(record).encode(), accepts=EITHER, instruction="", faults=faults)
        assert parsed is not None
        assert faults == []
        names.append(parsed[0].name)
    assert names == [
        "vertex_text",
        "vertex_text",
        "vertex_chat",
        "vertex_chat_inline",
        "trl_conversational",
        "trl_standard",
        "gemini_preferences",
    ]


def test_names_the_known_formats_when_a_row_is_of_none() -> None:
    faults: list[Fault] = []
    assert parse_line(b'{"text": "a", "id": 7}', accepts=PROMPTS, instruction="", faults=faults) is None
    accepted = "a row with input_text, the nearest format; did you mean input_text by text?; id has no place in it"
    assert faults == [Fault("unknown_format", "", "the fields text, id", accepted)]


def test_says_when_a_row_has_no_field_at_all() -> None:
    faults: list[Fault] = []
    parse_line(b"{}", accepts=PROMPTS, instruction="", faults=faults)
    assert faults[0].found == "the fields none"


def test_a_row_with_a_fault_is_no_row() -> None:
    faults: list[Fault] = []
    assert parse_line(b'{"input_text": " "}', accepts=PROMPTS, instruction="", faults=faults) is None
    assert [fault.code for fault in faults] == ["blank_text"]


def test_formats_have_different_names() -> None:
    names = [row_format.name for row_format in FORMATS]
    assert len({*names}) == len(names)


@pytest.mark.parametrize("seed", range(20))
def test_a_mutated_line_is_a_row_that_can_be_written_or_has_a_known_fault(seed: int) -> None:
    random_source = random.Random(seed)
    pieces = [b"\\u0000", b"\\ud800", b"\xff", b"\0", b'"', b"{", b"}", b"[", b"NaN", b"1.0", b"true", b"null", b", "]
    refused = 0
    for _ in range(200):
        raw = bytearray(json.dumps(random_source.choice(GOOD), ensure_ascii=random_source.random() < 0.5).encode())
        for _ in range(random_source.randrange(3)):
            start = random_source.randrange(len(raw))
            raw[start : start + random_source.randrange(8)] = random_source.choice(pieces)
        faults: list[Fault] = []
        parsed = parse_line(bytes(raw), accepts=EITHER, instruction="Be kind.", faults=faults)
        assert (parsed is None) == bool(faults)
        if parsed is None:
            refused += 1
            assert {fault.code for fault in faults} <= set(CODES)
        else:
            row = parsed[1]
            [written] = read(bytes(raw), instruction="Be kind.").rows
            answers: dict[str, object] = {"chosen": row.chosen, "rejected": row.rejected}
            answers |= {"margin": row.margin} if row.margin is not None else {}
            answers = answers if row.kind == "preference" else {}
            assert written == {"prompt": row.prompt, **answers}
    assert 50 < refused < 190
