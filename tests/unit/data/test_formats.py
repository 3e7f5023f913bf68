import json
import random

import pytest

from rlhf_tuning.data.formats import FORMATS, parse_line
from rlhf_tuning.data.problems import CODES, Fault
from rlhf_tuning.data.reader import EITHER, PROMPTS
from rlhf_tuning.data.rows import encode_prompt, encode_row

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
]


def test_parses_each_format_by_its_fields() -> None:
    for record in GOOD:
        faults: list[Fault] = []
        assert parse_line(json.dumps(record).encode(), accepts=EITHER, instruction="", faults=faults) is not None
        assert faults == []


def test_names_the_known_formats_when_a_row_is_of_none() -> None:
    faults: list[Fault] = []
    assert parse_line(b'{"text": "a", "id": 7}', accepts=PROMPTS, instruction="", faults=faults) is None
    assert faults == [Fault("unknown_format", "", "the fields text, id", "a row with input_text or messages")]


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
    assert names == ["vertex_text", "vertex_chat"]


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
        row = parse_line(bytes(raw), accepts=EITHER, instruction="Be kind.", faults=faults)
        assert (row is None) == bool(faults)
        if row is None:
            refused += 1
            assert {fault.code for fault in faults} <= set(CODES)
        else:
            written = json.loads(encode_row(row, encode_prompt(row.prompt)))
            answers = {"chosen": row.chosen, "rejected": row.rejected} if row.kind == "preference" else {}
            assert written == {"prompt": row.prompt, **answers}
    assert 50 < refused < 190
