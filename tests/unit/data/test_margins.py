"""By how much an answer is better, from the rows to what a reward model learns from."""

import json
from typing import Any

import pytest
from tests.unit.data.reading import as_lines, read, read_rows

from rlhf_tuning.data.batch import Batch
from rlhf_tuning.data.fingerprint import Fingerprint
from rlhf_tuning.data.reader import EITHER, PREFERENCES

CANDIDATES = {"candidate_0": "Calm.", "candidate_1": "Sea.", "choice": 0}
ROWS: list[dict[str, Any]] = [
    {"input_text": "a", **CANDIDATES},
    {"messages": [{"author": "user", "content": "a"}], **CANDIDATES},
    {"prompt": "a", "chosen": "Calm.", "rejected": "Sea."},
    {
        "prompt": [{"role": "user", "content": "a"}],
        "chosen": [{"role": "assistant", "content": "Calm."}],
        "rejected": [{"role": "assistant", "content": "Sea."}],
    },
]


def fingerprint(batches: list[Batch]) -> str:
    whole = Fingerprint()
    for batch in batches:
        whole.add(batch)
    return whole.value()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row))
def test_a_margin_reaches_the_canonical_row_and_makes_another_one_of_it(row: dict[str, Any]) -> None:
    content = [{**row, "margin": margin} for margin in (1, 0.5, 0, -0.0)]
    batches = read_rows([*content, row], accepts=EITHER)
    lines = [batch.line(index) for batch in batches for index in range(len(batch))]
    assert lines[4] == b'{"prompt": [{"role": "user", "content": "a"}], "chosen": "Calm.", "rejected": "Sea."}\n'
    assert lines[:4] == [lines[4][:-2] + b', "margin": %b}\n' % margin for margin in (b"1.0", b"0.5", b"0.0", b"0.0")]
    assert len({tuple(hashes) for batch in batches for hashes in batch.row_hashes.tolist()}) == 4


def test_what_a_row_without_a_margin_is_does_not_depend_on_its_neighbours() -> None:
    plain, marked = ROWS[2], {**ROWS[2], "margin": 0.5}
    mixed = read_rows([plain, plain, marked, plain])
    assert fingerprint(mixed) == fingerprint([*read_rows([plain] * 3), *read_rows([marked])])


@pytest.mark.parametrize(
    ("margin", "code"),
    [(-0.1, "wrong_margin"), (11, "wrong_margin"), (1e400, "not_a_number"), ("1", "wrong_type"), (True, "wrong_type")],
)
def test_refuses_what_is_no_margin(margin: Any, code: str) -> None:
    for row in ROWS:
        reading = read(json.dumps({**row, "margin": margin}).encode(), accepts=PREFERENCES)
        assert [found for found, _, _ in reading.found] == [code]


def test_a_prompt_has_no_margin() -> None:
    assert read(as_lines([{"prompt": "a", "margin": 1}])).found == [("extra_field", 1, "margin")]
