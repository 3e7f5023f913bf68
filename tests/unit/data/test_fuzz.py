import pytest
from benchmarks import fuzz_rows
from benchmarks.fuzz_rows import Fuzzer, fuzz

from rlhf_tuning.data.block import is_fast, read_block

pytestmark = pytest.mark.skipif(not is_fast(), reason="installed without a C compiler: no fast path")


def test_damaged_rows_are_accepted_for_what_they_hold_or_refused_with_a_known_code_and_line() -> None:
    fuzzer = fuzz(6_000)
    assert fuzzer.lines >= 6_000
    assert fuzzer.accepted > 3_000
    assert fuzzer.refused > 600
    assert fuzzer.damaged_fast > 150
    assert fuzzer.codes.keys() > {"invalid_utf8", "invalid_json", "duplicate_key", "wrong_type", "missing_field"}
    assert fuzzer.table()[0].startswith(f"{fuzzer.lines:,} lines: {fuzzer.accepted:,} accepted")


def test_the_same_seed_gives_the_same_counts() -> None:
    assert fuzz(200, 1).table() == fuzz(200, 1).table() != fuzz(200, 2).table()


def test_a_row_that_the_fast_way_should_not_read_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    block = b'{"input_text": "a"}\n'
    monkeypatch.setattr(fuzz_rows, "read_block", lambda _, *args, **options: read_block(block, *args, **options))
    with pytest.raises(AssertionError, match="the fast way did not see"):
        Fuzzer(0)._check(b'{"input_text": 1}\n', ("vertex_text", "prompt"), "")
