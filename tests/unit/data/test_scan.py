import gzip
import json
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gcs_server import CloudStorage, Fault
from tests.unit.data.reading import as_lines, in_memory

from rlhf_tuning.data import scan as scan_module
from rlhf_tuning.data.alike import Alike
from rlhf_tuning.data.check import DatasetCheck, check_datasets
from rlhf_tuning.data.importer import ImportSummary, import_preferences, import_prompts
from rlhf_tuning.data.problems import Problems
from rlhf_tuning.data.scan import Scan, gather, scan_at_once, scan_in_turn
from rlhf_tuning.data.sources import resolve
from rlhf_tuning.errors import DataError

Rows = list[dict[str, Any]]


def preferences(count: int, prefix: str = "Describe place") -> Rows:
    """Return preferences of which some repeat and some contradict each other, and most choose what is longer."""
    random_source = random.Random(0)
    rows = []
    for number in range(count):
        answers = [f"Answer {random_source.randrange(3)}.", f"A longer answer {random_source.randrange(3)}."]
        choice = int(random_source.random() < 0.7)
        rows.append(
            {
                "input_text": f"{prefix} {number // 5}.",
                "candidate_0": answers[0],
                "candidate_1": answers[1],
                "choice": choice,
            }
        )
    return rows


def prompts(count: int) -> Rows:
    return [{"input_text": f"Describe room {number}."} for number in range(count)]


def write(folder: Path, **files: Rows) -> str:
    folder.mkdir()
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_bytes(as_lines(rows))
    return str(folder)


def shards(folder: Path, rows: Rows, seed: int) -> str:
    """Write rows in another order, as shards of other names and sizes, one of them packed."""
    random_source = random.Random(seed)
    shuffled = random_source.sample(rows, len(rows))
    ends = sorted(random_source.sample(range(1, len(rows)), 3))
    parts = [shuffled[start:end] for start, end in zip([0, *ends], [*ends, len(rows)], strict=True)]
    folder.mkdir()
    for part in parts[:-1]:
        (folder / f"{random_source.randrange(10**6)}.jsonl").write_bytes(as_lines(part))
    (folder / "last.jsonl.gz").write_bytes(gzip.compress(as_lines(parts[-1])))
    return str(folder)


def check(**settings: Any) -> DatasetCheck:
    return check_datasets(
        **{"prompt_dataset": "", "preference_dataset": "", "eval_dataset": "", "instruction": "", **settings}
    )


def what_is_said(result: DatasetCheck) -> dict[str, Any]:
    """Return everything that a check says, but for where rows stand and in how many files."""
    said = asdict(result)
    said["summary"]["findings"] = [
        (finding.code, finding.parameter, finding.message) for finding in result.summary.findings
    ]
    for dataset in said["summary"]["datasets"]:
        del dataset["reference"], dataset["files"]
        for example in dataset["examples"]:
            del example["location"]
    return said


@pytest.mark.parametrize("seed", range(3))
def test_all_that_a_check_says_is_independent_of_the_names_and_the_order_of_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("rlhf_tuning.data.check.SAMPLE_ROWS", 50)
    rows, others = [*preferences(300), *preferences(20)], [*prompts(60), *prompts(3)]
    evaluation = [{"input_text": row["input_text"]} for row in preferences(40, "Describe house") + preferences(5)]
    one = check(
        preference_dataset=write(tmp_path / "r", one=rows),
        prompt_dataset=write(tmp_path / "p", one=others),
        eval_dataset=write(tmp_path / "e", one=evaluation),
    )
    many = check(
        preference_dataset=shards(tmp_path / "rs", rows, seed),
        prompt_dataset=shards(tmp_path / "ps", others, seed),
        eval_dataset=shards(tmp_path / "es", evaluation, seed),
    )
    assert [dataset.files for dataset in many.summary.datasets] == [4, 4, 4]
    assert {dataset.sampled for dataset in many.summary.datasets} == {45, 50}
    assert what_is_said(many) == what_is_said(one)
    codes = {finding.code for finding in many.summary.findings}
    assert codes >= {"repeated_preferences", "contradicting_preferences", "length_bias", "repeated_prompts"}
    assert codes >= {"eval_prompt_in_preferences"}


def imported(tmp_path: Path, dataset: str, **settings: Any) -> tuple[ImportSummary, list[bytes], list[bytes]]:
    paths = {"preferences_path": tmp_path / "out" / "train", "eval_preferences_path": tmp_path / "out" / "eval"}
    summary = import_preferences(
        preference_dataset=dataset,
        **{"eval_dataset": "", "instruction": "", **{name: str(path) for name, path in paths.items()}, **settings},
    )
    training, evaluation = (path.read_bytes().splitlines(keepends=True) for path in paths.values())
    return replace(summary, files=0), training, evaluation


@pytest.mark.parametrize("seed", range(3))
def test_what_is_held_out_is_independent_of_the_names_and_the_order_of_shards(tmp_path: Path, seed: int) -> None:
    rows = preferences(300)
    one, training, evaluation = imported(tmp_path, write(tmp_path / "one", one=rows))
    many, shuffled_training, shuffled_evaluation = imported(tmp_path, shards(tmp_path / "many", rows, seed))
    assert many == one
    assert (len(training), len(evaluation)) == (270, 30)
    assert sorted(shuffled_training) == sorted(training)
    assert sorted(shuffled_evaluation) == sorted(evaluation)
    assert shuffled_training != training


def test_reading_on_all_cores_gives_what_reading_in_one_process_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    rows = preferences(200)
    rows[150] = {"input_text": ""}
    folder = Path(write(tmp_path / "r", a=rows[:90], b=rows[90:180], c=[], d=rows[180:]))
    (folder / "e.jsonl.gz").write_bytes(gzip.compress(as_lines(preferences(50, "Cut")))[:-30])
    sources = resolve(str(folder), parameter="preference_dataset")

    def scan(name: str) -> dict[str, Any]:
        (tmp_path / name).mkdir()
        settings = Scan(
            parameter="preference_dataset",
            accepts=("preference",),
            instruction="Be kind.",
            folder=tmp_path / name,
            write_rows=True,
            held_out=20,
            find_repeats=True,
            sample_rows=30,
            keep_prompts=True,
            index_rows=True,
            eval_prompts=Alike(*np.arange(4, dtype=np.uint64).reshape(2, 2)),
        )
        [files] = scan_at_once([(sources, settings)])
        problems = Problems()
        dataset = gather(files, settings, problems)
        assert dataset.repeats is not None
        return {
            "rows": [file.rows_file and file.rows_file.exists() and file.rows_file.read_bytes() for file in files],
            "index": [file.index_file and file.index_file.exists() and file.index_file.read_bytes() for file in files],
            "numbers": [(file.bad_rows, file.empty, file.ordered, file.longer_chosen, file.formats) for file in files],
            "problems": [tuple(problem) for kept in problems.kept.values() for problem in kept],
            "warnings": problems.warnings,
            "fingerprint": dataset.fingerprint.value(),
            "held_out": dataset.held_out.groups().tolist(),
            "sample": dataset.sample.rows(),
            "repeats": dataset.repeats.find(),
            "prompts": [hashes.tolist() for file in files for hashes, _ in file.prompts],
        }

    alone = scan("alone")
    pools: list[int] = []
    pool = scan_module.ProcessPoolExecutor

    def start(cores: int, **settings: Any) -> Any:
        pools.append(cores)
        return pool(cores, **settings)

    monkeypatch.setattr(scan_module, "ProcessPoolExecutor", start)
    monkeypatch.setattr(scan_module, "_PARALLEL_BYTES", 0)
    together = scan("together")
    assert pools == [2]
    assert together == alone
    assert [problem[0] for problem in alone["problems"]] == ["missing_field"] * 3 + ["unreadable_file"]
    assert len(alone["sample"]) == 30
    assert "1 of 5 files are empty" in alone["warnings"][0]


def test_a_small_dataset_starts_no_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(scan_module, "ProcessPoolExecutor")
    assert check(prompt_dataset=write(tmp_path / "p", a=prompts(9), b=prompts(2))).counts == {"prompt_dataset": 11}


def test_files_of_several_datasets_come_back_to_their_datasets(tmp_path: Path) -> None:
    datasets = []
    for parameter, counts in (("prompt_dataset", (3, 4)), ("eval_dataset", ()), ("preference_dataset", (5,))):
        (tmp_path / parameter).mkdir()
        settings = Scan(parameter=parameter, accepts=("prompt",), instruction="", folder=tmp_path / parameter)
        datasets.append(([in_memory(as_lines(prompts(count)), f"{count}.jsonl") for count in counts], settings))
    found = scan_at_once(datasets)
    assert [[file.source.name for file in files] for files in found] == [["3.jsonl", "4.jsonl"], [], ["5.jsonl"]]
    assert [[file.fingerprint.rows for file in files] for files in found] == [[3, 4], [], [5]]


def test_a_sink_is_given_every_good_row_in_order(tmp_path: Path) -> None:
    taken: list[bytes] = []
    settings = Scan(parameter="eval_dataset", accepts=("prompt", "preference"), instruction="", folder=tmp_path)
    files = [in_memory(as_lines(prompts(3))), in_memory(b"{}\n" + as_lines(prompts(2)))]
    scan_in_turn(files, settings, sink=lambda batch: taken.extend(batch.encoded.splitlines()))
    assert [json.loads(line)["prompt"][0]["content"] for line in taken] == [
        f"Describe room {number}." for number in (0, 1, 2, 0, 1)
    ]


# Data that changed since it was checked.


def import_all(tmp_path: Path, **settings: Any) -> ImportSummary:
    return import_prompts(
        **{
            "eval_dataset": "",
            "instruction": "",
            "prompts_path": str(tmp_path / "out" / "train"),
            "eval_prompts_path": str(tmp_path / "out" / "eval"),
            **settings,
        }
    )


def test_an_import_refuses_data_other_than_what_was_checked_and_writes_nothing(tmp_path: Path) -> None:
    dataset = write(tmp_path / "p", a=prompts(20), b=prompts(30)[20:])
    evaluation = write(tmp_path / "e", a=[{"input_text": "Describe it."}])
    checked = check(prompt_dataset=dataset, eval_dataset=evaluation, instruction="Be kind.")
    fingerprints = {
        "prompt_fingerprint": checked.prompt_fingerprint,
        "eval_fingerprint": checked.eval_fingerprint,
    }
    settings = {"prompt_dataset": dataset, "eval_dataset": evaluation, "instruction": "Be kind.", **fingerprints}
    assert import_all(tmp_path / "1", **settings).fingerprint == checked.prompt_fingerprint
    # Other shards of the same rows are the same data.
    moved = write(tmp_path / "moved", z=prompts(30)[7:], y=prompts(7))
    assert import_all(tmp_path / "2", **{**settings, "prompt_dataset": moved}).rows == 30
    with pytest.raises(DataError, match=r"prompt_dataset has changed since .* \(30 rows now\)"):
        import_all(tmp_path / "3", **{**settings, "instruction": "Be brief.", "eval_fingerprint": ""})
    for change, parameter in (
        (lambda: (tmp_path / "p" / "c.jsonl").write_bytes(as_lines(prompts(1))), "prompt_dataset"),
        (lambda: (tmp_path / "e" / "a.jsonl").write_bytes(as_lines([{"input_text": "Tell it."}])), "eval_dataset"),
    ):
        change()
        with pytest.raises(DataError, match=f"{parameter} has changed since"):
            import_all(tmp_path / "3", **settings)
    assert not list((tmp_path / "3").rglob("*.*"))
    assert not (tmp_path / "3" / "out" / "train").exists()


@pytest.mark.parametrize("changed", ["preference_dataset", "eval_dataset"])
def test_an_import_of_preferences_refuses_data_other_than_what_was_checked(tmp_path: Path, changed: str) -> None:
    datasets = {
        "preference_dataset": write(tmp_path / "r", a=preferences(50)),
        "eval_dataset": write(tmp_path / "e", a=preferences(5, "Describe house")),
    }
    checked = check(**datasets)
    fingerprints = {
        "preference_fingerprint": checked.preference_fingerprint,
        "eval_fingerprint": checked.eval_fingerprint,
    }
    dataset, eval_dataset = datasets.values()
    imported(tmp_path, dataset, eval_dataset=eval_dataset, **fingerprints)
    file = Path(datasets[changed]) / "a.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"choice": 1', b'"choice": 0', 1))
    with pytest.raises(DataError, match=f"{changed} has changed since"):
        imported(tmp_path, dataset, eval_dataset=eval_dataset, **fingerprints)


def test_data_with_problems_is_told_its_problems_not_that_it_changed(tmp_path: Path) -> None:
    dataset = write(tmp_path / "p", a=[*prompts(5), {}])
    with pytest.raises(DataError, match="unknown_format") as caught:
        import_all(tmp_path, prompt_dataset=dataset, prompt_fingerprint="sha256:0")
    assert "changed" not in str(caught.value)


# Data on Cloud Storage.


# The client forgets to close the connection on which it was refused.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_data_on_cloud_storage_is_checked_and_imported_through_faults(tmp_path: Path, cloud: CloudStorage) -> None:
    rows = preferences(2_000)
    for number in range(4):
        content = as_lines(rows[number * 500 : number * 500 + 500])
        cloud.put(f"r/{number}.jsonl", gzip.compress(content) if number == 2 else content)
    dataset = "gs://bucket/r/*.jsonl"
    faults: list[Callable[[], Fault]] = [
        lambda: Fault(status=503),
        lambda: Fault(after=10_000, then="reset"),
        lambda: Fault(status=429),
        lambda: Fault(after=5_000, then="close"),
    ]
    local, training, evaluation = imported(tmp_path, write(tmp_path / "local", one=rows))
    cloud.list_faults.extend(Fault(status=503) for _ in range(2))
    cloud.download_faults.extend(fault() for fault in faults)
    checked = check(preference_dataset=dataset)
    assert not cloud.list_faults
    assert not cloud.download_faults
    assert checked.problems == ""
    assert checked.preference_fingerprint == local.fingerprint
    cloud.download_faults.extend(fault() for fault in faults)
    assert imported(tmp_path, dataset, preference_fingerprint=local.fingerprint) == (local, training, evaluation)
    assert not cloud.download_faults
