"""`rlhf convert`: rows of another make to rows that a run reads."""

import argparse
import sys

from rlhf_pipelines.cli.command_line import Commands, add_command, local_path


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "convert",
        "make rows that a run reads of those of another make",
        _convert,
        "Write the rows of well-known public datasets, of files that are nearly right, and of CSV, JSON or Parquet as rows\n"
        "that a run reads. It says what it takes for what. Rows of no use, such as ties, are left out and counted; a row\n"
        "that is not like the others stops it. Nothing is written over.\n\n"
        "examples:\n"
        "  rlhf convert data/*.parquet --output preferences.jsonl\n"
        "  rlhf convert thumbs.jsonl --to preference --output preferences.jsonl",
    )
    parser.add_argument("files", metavar="FROM", nargs="+", help="a file, folder or glob, also on gs://")
    parser.add_argument("--output", metavar="FILE", type=local_path, required=True, help="the new file, of JSON lines")
    parser.add_argument(
        "--to",
        choices=("preference", "prompt", "demonstration", "feedback"),
        help="what the rows are to become; without it, what their fields say",
    )
    parser.add_argument(
        "--max-bad-rows",
        metavar="N",
        type=int,
        default=0,
        help="leave out up to N rows not like the others; default: 0",
    )


def _convert(options: argparse.Namespace) -> int:
    from rlhf_tuning.data.convert import convert

    done = convert(options.files, str(options.output), to=options.to, max_bad_rows=options.max_bad_rows)
    print(f"{done.taken[0].upper()}{done.taken[1:]}.")
    if done.western:
        print(f"{done.western:,} lines were no UTF-8: their letters were taken for those of older Windows programs.")
    for reason, count in done.left_out.most_common():
        print(f"Left out, {count:,}: {reason}.")
    for place in done.bad:
        print(f"Left out, not like the others: {place}", file=sys.stderr)
    print(f"{done.written:,} {done.kind} rows of {done.read:,} read: {options.output}")
    return 0
