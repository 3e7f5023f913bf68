import random

from rlhf_tuning.data.fingerprint import Fingerprint


def fingerprint(*lines: bytes) -> str:
    result = Fingerprint()
    for line in lines:
        result.add(line)
    return result.value()


def test_does_not_depend_on_order() -> None:
    lines = [f"row {number}".encode() for number in range(100)]
    expected = fingerprint(*lines)
    for seed in range(10):
        random.Random(seed).shuffle(lines)
        assert fingerprint(*lines) == expected


def test_changes_with_any_row_and_with_repetition() -> None:
    versions = [(), (b"a",), (b"b",), (b"a", b"a"), (b"a", b"b"), (b"ab",), (b"a", b"a", b"a")]
    assert len({fingerprint(*lines) for lines in versions}) == len(versions)


def test_is_a_named_hash_that_stays_the_same_between_releases() -> None:
    assert fingerprint(b"a\n", b"b\n") == "sha256:ba08c91c62a47fe0ed26b09a30cc9412fcd49fcc430d316ce19aa47162b33a1f"
