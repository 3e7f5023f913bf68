"""`rlhf compare`: two models, or what two runs made, answer by answer."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from rlhf_pipelines.cli.command_line import Commands, add_command, add_registry_dir, count, local_path


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "compare",
        "compare two models, or what two runs made",
        _compare,
        "Compare the answers of two models: the second is held against the first, as a run holds its model against the\n"
        "champion. Each is a registered model, or the folder of a run on this machine. Two runs are compared by the\n"
        "answers that they left, if they have prompts in common; otherwise both models answer those of --prompts.\n\n"
        "examples:\n"
        "  rlhf compare palms@1 palms@2 --prompts eval.jsonl --scorer house_style\n"
        "  rlhf compare runs/rlhf-pipeline-2027-01-24-... runs/rlhf-pipeline-2027-01-31-...",
    )
    parser.add_argument("first", metavar="A", help="NAME, NAME@ALIAS or NAME@VERSION; or a run's folder")
    parser.add_argument("second", metavar="B", help="likewise")
    parser.add_argument("--prompts", metavar="FILE", default="", help="prompts that both answer: a path, or gs://")
    parser.add_argument(
        "--max-prompts", metavar="N", type=count, default=200, help="at most so many of them; default: 200"
    )
    parser.add_argument("--prompt-sequence-length", metavar="N", type=int, default=512, help="default: 512")
    parser.add_argument("--target-sequence-length", metavar="N", type=int, default=128, help="default: 128")
    parser.add_argument("--temperature", metavar="X", type=float, default=1.0, help="default: 1.0")
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    for name, words in (
        ("scorer", "program that scores answers, such as house_style"),
        ("judge", "language model that judges: language_model, gemini or local_model"),
        ("judge-model", "name of that model"),
        ("judge-endpoint", "base URL of its server"),
        ("judge-key-secret", "secret of Google Cloud that holds its key: projects/P/secrets/S/versions/V"),
        ("judge-rubric", "what a better answer is, or a text file with it"),
    ):
        parser.add_argument(f"--{name}", metavar="TEXT", default="", help=words)
    parser.add_argument("--judge-max-calls", metavar="N", type=int, default=1000, help="default: 1000")
    parser.add_argument(
        "--judge-max-cost",
        metavar="X",
        type=float,
        default=0.0,
        help="most that the server may cost; default: no limit",
    )
    parser.add_argument("--judge-price", metavar="X", type=float, default=0.0, help="what a million tokens cost there")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=local_path,
        default=Path("compare.html"),
        help="the report; default: compare.html in this folder",
    )
    add_registry_dir(parser)


def _compare(options: argparse.Namespace) -> int:
    from rlhf_pipelines.cli.compare_command import Comparison, compare
    from rlhf_pipelines.cli.run_command import shown

    asked = Comparison(**{field.name: getattr(options, field.name) for field in fields(Comparison)})
    text = compare(asked, options.output, tell=lambda line: print(line, file=sys.stderr))
    print(text, end="")
    print(f"\nReport: {shown(options.output.absolute())}")
    return 0
