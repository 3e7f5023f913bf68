import random

from tests.unit.data.reading import read_rows

from rlhf_tuning.data.fingerprint import Fingerprint


def fingerprint(*rows: dict[str, object]) -> str:
    result = Fingerprint()
    for batch in read_rows(rows):
        result.add(batch)
    return result.value()


def prompts(*texts: str) -> list[dict[str, object]]:
    return [{"input_text": text} for text in texts]


def preference(prompt: str, chosen: str, rejected: str) -> dict[str, object]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_does_not_depend_on_order() -> None:
    rows = prompts(*(f"row {number}" for number in range(100)))
    expected = fingerprint(*rows)
    for seed in range(10):
        random.Random(seed).shuffle(rows)
        assert fingerprint(*rows) == expected


def test_does_not_depend_on_how_the_rows_are_parted() -> None:
    rows = prompts(*(f"row {number}" for number in range(100)))
    parts = [Fingerprint() for _ in range(3)]
    for number, part in enumerate(parts):
        for batch in read_rows(rows[number::3]):
            part.add(batch)
    whole = Fingerprint()
    for part in parts:
        whole.merge(part)
    assert whole.value() == fingerprint(*rows)


def test_changes_with_any_row_and_with_repetition() -> None:
    versions = [(), ("a",), ("b",), ("a", "a"), ("a", "b"), ("ab",), ("a", "a", "a")]
    assert len({fingerprint(*prompts(*texts)) for texts in versions}) == len(versions)


def test_changes_with_the_part_of_the_row_that_a_text_stands_in() -> None:
    versions = [
        [preference("a", "b", "c")],
        [preference("a", "c", "b")],
        [preference("b", "a", "c")],
        prompts("a"),
        [{"prompt": [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}]}],
        [preference("a", "b", "c"), preference("d", "e", "f")],
        [preference("a", "b", "f"), preference("d", "e", "c")],
        [preference("a", "e", "c"), preference("d", "b", "f")],
    ]
    assert len({fingerprint(*rows) for rows in versions}) == len(versions)


def test_is_a_named_hash_that_stays_the_same_between_releases() -> None:
    assert fingerprint(*prompts("a", "b")) == "sha256:ea6f70b3be3fa0ac1091725082e88550c2c5a854bfcb85a2adcaf451a17abbb6"
    assert (
        fingerprint(preference("a", "b", "c"))
        == "sha256:944bd3bfabc2e3ddb6eb997351392c46694bde07500c16be7d1748826ec68452"
    )
