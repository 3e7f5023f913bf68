"""How fast data is checked and imported, against `datasets.load_dataset("json")`, which only parses it to Arrow.

    python benchmarks/data_import.py                                  # one core, one file of 2 million rows
    python benchmarks/data_import.py --rows 10000000 --shards 4 --cores 2 --repetitions 1 --no-peer

Everything runs in processes of its own, one after the other, held to the same cores; each repetition runs ours and the
peer in turn. Rows are made up (about 530 bytes of JSON each), all different, by the seed.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = """
import resource, sys, time
from rlhf_tuning.data.check import check_datasets
from rlhf_tuning.data.importer import import_preferences

def main():
    what, dataset, folder = sys.argv[1:]
    started = time.CLOCK()
    if what == "check":
        result = check_datasets(prompt_dataset="", preference_dataset=dataset, eval_dataset="", instruction="")
        result.raise_if_unusable()
        rows = result.counts["preference_dataset"]
    else:
        result = import_preferences(
            preference_dataset=dataset, eval_dataset="", instruction="",
            preferences_path=folder + "/preferences.jsonl", eval_preferences_path=folder + "/eval.jsonl",
        )
        rows = result.rows + result.eval_rows
    seconds = time.CLOCK() - started
    kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(rows, seconds, kib / 1024)

if __name__ == "__main__":
    main()
"""

PEER = """
import resource, sys, time
import datasets

def main():
    _, dataset, folder = sys.argv[1:]
    datasets.disable_progress_bars()
    started = time.CLOCK()
    rows = len(datasets.load_dataset("json", data_files=dataset, cache_dir=folder, split="train"))
    seconds = time.CLOCK() - started
    print(rows, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

if __name__ == "__main__":
    main()
"""

_WORDS = """
the of and to a in that is was he for it with as his on be at by had not are but from or have an they which one you were
her all she there would their we him been has when who will more no if out so said what up its about into than them can
only other new some could time these two may then do first any my now such like our over man me even most made after also
did many before must through years where much your way well down should because each just those people how too little
state good very make world still own see men work long get here between both life café naïve “quoted” it’s don’t
"""

RUNS = {"check": OURS, "import": OURS, "load_dataset": PEER}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--ascii", action="store_true", help="write the rows with \\u escapes, as json.dumps does")
    parser.add_argument("--chat", action="store_true", help="chat rows instead of text rows")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument(
        "--processor-time", action="store_true", help="count only that, where others share the machine; with one core"
    )
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to put the files; a temporary folder if absent"
    )
    options = parser.parse_args()
    if options.processor_time and options.cores != 1:
        parser.error("--processor-time counts one process, so it needs --cores 1.")
    clock = "process_time" if options.processor_time else "perf_counter"

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        size = write_rows(folder / "data", options)
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        )
        print(
            f"{options.rows:,} rows, {size / options.rows:.0f} bytes each, {options.shards} files, {options.cores} cores"
        )
        runs = [run for run in RUNS if not (options.no_peer and run == "load_dataset")]
        rates: dict[str, list[float]] = {run: [] for run in runs}
        memory: dict[str, float] = dict.fromkeys(runs, 0.0)
        for repetition in range(options.repetitions):
            for run in runs:
                rows, seconds, mib = measure(run, folder, options.cores, clock)
                assert rows == options.rows, (run, rows)
                rates[run].append(rows / seconds)
                memory[run] = max(memory[run], mib)
                print(
                    f"{repetition + 1}/{options.repetitions} {run}: {rows / seconds:,.0f} rows/s, {seconds:.1f} s",
                    flush=True,
                )
        print_table(rates, memory)


def measure(run: str, folder: Path, cores: int, clock: str) -> tuple[int, float, float]:
    """Run one program over the data, held to some cores; return rows, seconds and MiB."""
    scratch = folder / "scratch"
    scratch.mkdir()
    program = folder / f"{run}.py"
    program.write_text(RUNS[run].replace("CLOCK", clock))
    command = [sys.executable, str(program), run, str(folder / "data" / "*.jsonl"), str(scratch)]
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=lambda: os.sched_setaffinity(0, allowed)
    )
    shutil.rmtree(scratch)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    rows, seconds, mib = done.stdout.split()[-3:]
    return int(rows), float(seconds), float(mib)


def print_table(rates: dict[str, list[float]], memory: dict[str, float]) -> None:
    print("\n| | rows a second, median | lowest | highest | peak memory, MiB |\n|---|---|---|---|---|")
    for run, values in rates.items():
        columns = " | ".join(f"{value:,.0f}" for value in (statistics.median(values), min(values), max(values)))
        print(f"| {run} | {columns} | {memory[run]:,.0f} |")
    if "load_dataset" in rates:
        for run in ("check", "import"):
            ratios = [ours / peer for ours, peer in zip(rates[run], rates["load_dataset"], strict=True)]
            low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
            print(f"{run} / load_dataset: {middle:.2f} (lowest {low:.2f}, highest {high:.2f})")


def write_rows(folder: Path, options: argparse.Namespace) -> int:
    """Write the dataset and return its size in bytes."""
    folder.mkdir()
    rng = random.Random(0)
    texts = [text(rng, rng.randint(60, 260)) for _ in range(3_000)]
    started, size, number = time.monotonic(), 0, 0
    for shard in range(options.shards):
        with (folder / f"{shard:03}.jsonl").open("w", encoding="utf-8") as stream:
            for _ in range(options.rows // options.shards + (shard < options.rows % options.shards)):
                prompt, one, other = rng.choice(texts), rng.choice(texts), rng.choice(texts)
                row: dict[str, object] = {"input_text": f"{prompt} {number}"}
                if options.chat:
                    turns = [("user", one), ("assistant", other[:40]), ("user", f"{prompt[:60]} {number}")]
                    row = {"messages": [{"author": author, "content": content} for author, content in turns]}
                row |= {"candidate_0": f"{one} a", "candidate_1": f"{other} b", "choice": number % 2}
                size += stream.write(json.dumps(row, ensure_ascii=options.ascii) + "\n")
                number += 1
                if number % 1_000_000 == 0:
                    print(f"wrote {number:,} rows, {time.monotonic() - started:.0f} s", flush=True)
    return size


def text(rng: random.Random, length: int) -> str:
    """Return words with the punctuation, quotes, line ends and accents that real text has."""
    words = _WORDS.split()
    parts: list[str] = []
    while sum(map(len, parts)) + len(parts) < length:
        parts.append(rng.choice(words) + rng.choices(["", ",", ".", "?", '."', ".\n\n"], [100, 6, 4, 2, 1, 3])[0])
    return " ".join(parts)[:length]


if __name__ == "__main__":
    main()
