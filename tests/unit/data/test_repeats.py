import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.reading import read_rows

from rlhf_tuning.data import repeats
from rlhf_tuning.data.repeats import Place, RepeatFinder, Repeats


def preferences(seed: int, count: int) -> list[dict[str, Any]]:
    """Return preferences of few prompts and few answers, so that many say the same or the opposite."""
    random_source = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt = f"prompt {random_source.randrange(count // 8)}"
        chosen, rejected = random_source.sample(["a", "b", "c"], 2)
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def find(folder: Path, *files: list[dict[str, Any]]) -> Repeats:
    """Find the repeats in the files of a dataset, each taken note of by itself."""
    finders = []
    for number, rows in enumerate(files):
        finders.append(RepeatFinder(folder))
        for start in range(0, len(rows), 50):
            for batch in read_rows(rows[start : start + 50]):
                batch.line_numbers[:] += start
                finders[-1].add(batch, number)
    for finder in finders[1:]:
        finders[0].merge(finder)
    return finders[0].find()


@pytest.mark.parametrize("part_rows", [1, 7, 100, repeats.PART_ROWS])
@pytest.mark.parametrize("seed", range(3))
def test_finds_what_a_plain_count_finds_however_many_parts_are_sorted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, part_rows: int
) -> None:
    # With 400 rows, from 401 parts to one.
    monkeypatch.setattr(repeats, "PART_ROWS", part_rows)
    monkeypatch.setattr(repeats, "_CHUNK_ROWS", 30)
    rows = preferences(seed, 400)
    places: defaultdict[tuple[str, str, str], list[Place]] = defaultdict(list)
    files = (rows[:150], rows[150:])
    for number, file in enumerate(files):
        for line, row in enumerate(file, 1):
            places[row["prompt"], row["chosen"], row["rejected"]].append(Place(number, line))
    both_ways = {
        frozenset((ours[0], theirs[0]))
        for (prompt, one, other), ours in places.items()
        if (theirs := places.get((prompt, other, one)))
    }
    result = find(tmp_path, *files)
    assert result.distinct_prompts == len({row["prompt"] for row in rows})
    assert result.repeated == sum(len(group) - 1 for group in places.values()) > 0
    assert result.contradictions == len(both_ways) > 0
    assert len(result.repeated_examples) == len(result.contradiction_examples) == 5
    groups = [group[:5] for group in places.values() if len(group) > 1]
    assert all(group in groups for group in result.repeated_examples)
    assert {frozenset(pair) for pair in result.contradiction_examples} <= both_ways
    assert all(pair == sorted(pair) for pair in result.contradiction_examples)


def test_finds_repeated_prompts(tmp_path: Path) -> None:
    texts = random.Random(0).choices([f"prompt {number}" for number in range(50)], k=200)
    counts = Counter(texts)
    result = find(tmp_path, [{"input_text": text} for text in texts])
    assert result.distinct_prompts == len(counts)
    assert result.repeated == len(texts) - len(counts)
    assert (result.contradictions, result.contradiction_examples) == (0, [])


def test_a_dataset_without_rows_has_no_repeats(tmp_path: Path) -> None:
    assert find(tmp_path, []) == Repeats(0, 0, 0, [], [])


def test_each_row_takes_24_bytes_on_disk_and_none_in_memory(tmp_path: Path) -> None:
    finder = RepeatFinder(tmp_path)
    for batch in read_rows(preferences(0, 400)):
        finder.add(batch, 0)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 400 * 24
    assert list(vars(finder)) == ["_files"]


def test_places_tell_files_and_far_lines_apart(tmp_path: Path) -> None:
    finder = RepeatFinder(tmp_path)
    for file_number, line in ((0, 1), (99_999, 10_000_000_000)):
        for batch in read_rows([{"input_text": "a"}]):
            batch.line_numbers[:] = line
            finder.add(batch, file_number)
    assert finder.find().repeated_examples == [[Place(0, 1), Place(99_999, 10_000_000_000)]]
