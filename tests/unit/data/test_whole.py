"""Datasets of every kind, checked and imported, against the same in plain Python with everything in memory."""

import json
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from benchmarks.fuzz_rows import SHAPES, Maker, Record, canonical, write

from rlhf_tuning.data import importer, reader, repeats
from rlhf_tuning.data.check import DatasetCheck, check_datasets
from rlhf_tuning.data.importer import import_preferences, import_prompts
from rlhf_tuning.data.rows import Kind
from rlhf_tuning.errors import DataError


class Given(NamedTuple):
    """A dataset.

    Args:
        reference: Its folder, or an empty string where there is none.
        kind: Of its rows.
        rows: Its good rows as they are to become.
        bad_rows: How many others it has.
    """

    reference: str
    kind: Kind
    rows: list[Record]
    bad_rows: int

    @property
    def prompts(self) -> list[str]:
        return list(map(prompt_of, self.rows))


def prompt_of(row: Record) -> str:
    return json.dumps(row["prompt"])


def same_text(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())


def whole_of(row: Record) -> str:
    return json.dumps([(turn["role"], same_text(turn["content"])) for turn in row["prompt"]])


def opening_of(row: Record) -> str:
    return next(same_text(turn["content"]) for turn in row["prompt"] if turn["role"] == "user")


def wholes(given: Given) -> set[str]:
    return set(map(whole_of, given.rows))


def not_alike(rows: Sequence[Record], evaluated: Sequence[Record]) -> list[Record]:
    """Return the rows that are like none of the evaluated ones; an opening that is common among them tells nothing."""
    counts = Counter(map(opening_of, rows))
    whole = set(map(whole_of, evaluated))
    opening = {opening for opening in map(opening_of, evaluated) if counts[opening] <= max(10, len(rows) / 100)}
    return [row for row in rows if whole_of(row) not in whole and opening_of(row) not in opening]


def swapped(record: Record, pick: random.Random) -> Record:
    """Return a preference that says the opposite, or the same with its candidates in the other order."""
    if "choice" in record:
        record = {**record, "choice": 1 - record["choice"]}
        if pick.random() < 0.5:
            return record
        return {**record, "candidate_0": record["candidate_1"], "candidate_1": record["candidate_0"]}
    return {**record, "chosen": record["rejected"], "rejected": record["chosen"]} if "chosen" in record else record


def make_dataset(folder: Path, kind: Kind, count: int, make: Maker, instruction: str, others: list[Record]) -> Given:
    """Write a dataset with repeats and contradictions, in shards, some rows of it bad."""
    pick = make.random
    shapes = [shape for shape in SHAPES if shape[1] == kind]
    shape = pick.choice(shapes)
    records: list[Record] = list(others)
    while len(records) < count:
        if records and pick.random() < 0.3:
            again = pick.choice(records)
            records.append(swapped(again, pick) if pick.random() < 0.5 else again)
        else:
            records.append(make.record(shape if pick.random() < 0.9 else pick.choice(shapes)))
    written = make.ordinary()
    end = written.pop("end")
    lines = [write(record, **written) + end for record in records]
    bad_rows = pick.choice([0, 0, 1, 3])
    for _ in range(bad_rows):
        lines.insert(pick.randrange(len(lines) + 1), pick.choice([b'{"input_text": ""}', b"{", b"\xff"]) + end)
    folder.mkdir()
    shards = pick.choice([1, 2, 5])
    cuts = [0, *sorted(pick.randrange(len(lines) + 1) for _ in range(shards - 1)), len(lines)]
    for number in range(shards):
        (folder / f"{number}.jsonl").write_bytes(b"".join(lines[cuts[number] : cuts[number + 1]]))
    return Given(str(folder), kind, [canonical(record, instruction) for record in records], bad_rows)


def said_of(check: DatasetCheck, parameter: str, *codes: str) -> str:
    """Return the beginning of what was found of a dataset, up to the first letter."""
    messages = [
        finding.message
        for finding in check.summary.findings
        if finding.parameter == parameter and finding.code in codes
    ]
    assert len(messages) <= 1
    return messages[0].split(" ")[0] if messages else "0"


def rows_of(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("seed", range(20))
def test_checks_and_imports_find_and_write_what_plain_python_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    make = Maker(seed)
    pick = make.random
    for module, name, values in (
        (repeats, "PART_ROWS", [3, 50, 2**22]),
        (repeats, "_CHUNK_ROWS", [2, 2**18]),
        (importer, "_INDEX_ROWS", [1, 3, 2**18]),
        (importer, "_COPY_BYTES", [1, 7, 2**18]),
        (importer, "MAX_EVAL_PREFERENCES", [1, 3, 500]),
        (reader, "BLOCK_BYTES", [1, 500, 2**19]),
    ):
        monkeypatch.setattr(module, name, pick.choice(values))
    instruction = pick.choice(["", 'Be "brief".\n'])
    prompts = make_dataset(tmp_path / "p", "prompt", pick.choice([1, 2, 30, 200]), make, instruction, [])
    preferences = make_dataset(tmp_path / "r", "preference", pick.choice([1, 2, 30, 200]), make, instruction, [])
    evaluation = Given("", "prompt", [], 0)
    if seed % 4:
        # 1. Rows that are trained on, among the evaluation rows of the same kind, are an error.
        kind: Kind = "prompt" if seed % 4 == 1 else "preference"
        again = [] if seed % 3 else [make.record((pick.choice(["vertex_text", "trl_standard"]), kind))]
        evaluation = make_dataset(tmp_path / "e", kind, pick.choice([1, 3, 20]), make, instruction, again)
        if again:
            shared = prompts if kind == "prompt" else preferences
            with (tmp_path / ("p" if kind == "prompt" else "r") / "9.jsonl").open("ab") as stream:
                stream.write(json.dumps(again[0]).encode() + b"\n")
            shared.rows.append(canonical(again[0], instruction))
    given = {"prompt_dataset": prompts, "preference_dataset": preferences, "eval_dataset": evaluation}
    settings: dict[str, Any] = {"instruction": instruction, "max_bad_rows": 3}

    check = check_datasets(**{name: dataset.reference for name, dataset in given.items()}, **settings)

    overlap = wholes(prompts) & wholes(evaluation)
    both = wholes(preferences) & wholes(evaluation)
    judges = evaluation.rows and evaluation.kind == "preference"
    codes = Counter({"eval_prompt_in_training": len(overlap)})
    codes["eval_preference_in_training"] += len(both) if judges else 0
    if not codes.total():
        codes["too_few_rows"] += not evaluation.rows and len(set(prompts.prompts)) == 1
        codes["too_few_rows"] += not judges and len(set(preferences.prompts)) == 1
    assert check.summary.problem_counts == {code: count for code, count in codes.items() if count}
    for summary in check.summary.datasets:
        dataset = given[summary.parameter]
        counts = Counter(map(json.dumps, dataset.rows))
        ways: defaultdict[tuple[str, frozenset[str]], set[str]] = defaultdict(set)
        for row in dataset.rows:
            if dataset.kind == "preference":
                ways[prompt_of(row), frozenset((row["chosen"], row["rejected"]))].add(row["chosen"])
        repeated = said_of(check, summary.parameter, "repeated_prompts", "repeated_preferences")
        assert (summary.rows, summary.set_aside) == (len(dataset.rows), dataset.bad_rows)
        assert summary.distinct_prompts == len(set(dataset.prompts))
        assert int(repeated) == counts.total() - len(counts)
        contradicting = sum(len(way) == 2 for way in ways.values())
        assert int(said_of(check, summary.parameter, "contradicting_preferences")) == contradicting
    assert int(said_of(check, "eval_dataset", "eval_prompt_in_preferences")) == (0 if judges else len(both))

    # 2. The prompts.
    settings |= {"eval_dataset": evaluation.reference, "seed": seed}
    paths = [tmp_path / "out" / name for name in "abcd"]
    most = pick.choice([0, 1, 4, 200])
    settings["eval_fingerprint"] = check.eval_fingerprint
    run_prompts = {
        "prompt_dataset": prompts.reference,
        "prompts_path": str(paths[0]),
        "eval_prompts_path": str(paths[1]),
        "eval_prompts": most,
        "prompt_fingerprint": check.prompt_fingerprint,
    }
    evaluated = evaluation.rows
    if overlap or (not evaluation.rows and most and len(set(prompts.prompts)) == 1):
        with pytest.raises(DataError):
            import_prompts(**run_prompts, **settings)
        assert not list(tmp_path.glob("out/*"))
        run_prompts["prompt_dataset"] = ""
    elif not not_alike(prompts.rows, evaluation.rows):
        with pytest.raises(DataError, match="No row of prompt_dataset is left"):
            import_prompts(**run_prompts, **settings)
    else:
        imported = import_prompts(**run_prompts, **settings)
        rows, held = rows_of(paths[0]), rows_of(paths[1])
        assert (imported.rows, imported.eval_rows) == (len(rows), len(held))
        asked = {prompt_of(row) for row in held}
        if evaluation.rows:
            expected = evaluation.prompts if evaluation.kind == "prompt" else list(dict.fromkeys(evaluation.prompts))
            assert rows == not_alike(prompts.rows, evaluation.rows)
            assert [json.dumps(row["prompt"]) for row in held] == expected
        else:
            evaluated = held
            count = max(1, min(most, len(set(prompts.prompts)) // 10)) if most else 0
            assert len(held) == len(asked) == count
            assert rows == [row for row in not_alike(prompts.rows, held) if prompt_of(row) not in asked]
            assert [prompt_of(row) for row in held] == [
                prompt for prompt in dict.fromkeys(prompts.prompts) if prompt in asked
            ]

    # 3. The preferences.
    run_preferences = {
        "preference_dataset": preferences.reference,
        "preferences_path": str(paths[2]),
        "eval_preferences_path": str(paths[3]),
        "preference_fingerprint": check.preference_fingerprint,
        **{name: run_prompts[name] for name in ("prompt_dataset", "prompt_fingerprint", "eval_prompts")},
    }
    if (judges and both) or (not judges and len(set(preferences.prompts)) == 1):
        with pytest.raises(DataError):
            import_preferences(**run_preferences, **settings)
        return
    imported = import_preferences(**run_preferences, **settings)
    rows, held = rows_of(paths[2]), rows_of(paths[3])
    assert (imported.rows, imported.eval_rows) == (len(rows), len(held))
    assert imported.fingerprint == check.preference_fingerprint
    if judges:
        assert (rows, held) == (not_alike(preferences.rows, evaluation.rows), evaluation.rows)
    else:
        asked = {prompt_of(row) for row in held}
        assert rows == [row for row in not_alike(preferences.rows, [*held, *evaluated]) if prompt_of(row) not in asked]
        assert held == [row for row in preferences.rows if prompt_of(row) in asked]
        target = max(1, min(importer.MAX_EVAL_PREFERENCES, len(preferences.rows) // 10))
        assert 0 < len(held) <= target or len(asked) == 1
