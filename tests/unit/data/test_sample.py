import random

import pytest
from tests.unit.data.reading import read_rows

from rlhf_tuning.data.sample import Sample

ROWS: list[dict[str, object]] = [{"input_text": f"prompt {number}"} for number in range(500)]


def sample(size: int, *files: list[dict[str, object]]) -> Sample:
    """Sample the rows of several files, each by itself, in batches of 50."""
    result = Sample(size)
    for number, rows in enumerate(files):
        part = Sample(size)
        for start in range(0, len(rows), 50):
            for batch in read_rows(rows[start : start + 50]):
                batch.line_numbers[:] += start
                part.add(batch, f"{number}.jsonl", number)
        result.merge(part)
    return result


def lines(sampled: Sample) -> list[bytes]:
    return [row.line for row in sampled.rows()]


@pytest.mark.parametrize("seed", range(5))
def test_the_sample_depends_neither_on_order_nor_on_files(seed: int) -> None:
    expected = lines(sample(20, ROWS))
    assert len(set(expected)) == 20
    rows = random.Random(seed).sample(ROWS, len(ROWS))
    assert lines(sample(20, rows)) == expected
    assert lines(sample(20, rows[:3], rows[3:210], [], rows[210:])) == expected


def test_rows_know_where_they_stand() -> None:
    files = (ROWS[:120], ROWS[120:])
    for row in sample(20, *files).rows():
        number, line = row.place[1:]
        assert row.file == f"{number}.jsonl"
        assert f'"{files[number][line - 1]["input_text"]}"'.encode() in row.line


def test_a_dataset_no_larger_than_the_sample_is_in_it_as_a_whole() -> None:
    for size in (500, 501):
        assert len(set(lines(sample(size, ROWS)))) == 500


def test_equal_rows_are_different_rows_of_the_sample() -> None:
    rows: list[dict[str, object]] = [{"input_text": "a"}] * 7
    assert len(sample(5, rows).rows()) == 5
    assert len({row.place for row in sample(7, rows[:4], rows[4:]).rows()}) == 7


def test_of_equal_rows_the_first_are_taken() -> None:
    rows: list[dict[str, object]] = [{"input_text": "a"}] * 60
    assert [row.place[1:] for row in sample(3, rows, rows).rows()] == [(0, 1), (0, 2), (0, 3)]


def test_each_row_is_as_likely_to_be_sampled() -> None:
    numbers = [int(row.line.split(b"prompt ")[1].split(b'"')[0]) for row in sample(100, ROWS).rows()]
    first_half = sum(number < 250 for number in numbers)
    assert 30 < first_half < 70


def test_a_sample_of_nothing_keeps_nothing() -> None:
    assert sample(0, ROWS).rows() == []
