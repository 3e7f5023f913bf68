"""What the README says is so: its links, its flags, its parameters, its commands."""

import re
from pathlib import Path

import pytest

from rlhf_pipelines.cli.rlhf import build_parser
from rlhf_pipelines.targets import DEFAULT_MACHINES, GPUS
from rlhf_tuning.parameters import PARAMETERS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/google-cloud.md",
        "docs/kubeflow.md",
        "docs/processors.md",
        "docs/scale.md",
        "docs/serving.md",
        "benchmarks/README.md",
        "src/rlhf_tuning/sample/README.md",
    ],
)
def test_every_link_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
    assert not re.search(r"\b[A-Z]{2,}_(OUTPUT|TABLE)\b", text)


def test_every_parameter_is_in_its_tables_with_its_default():
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    for parameter in PARAMETERS.values():
        (row,) = [line for line in rows if f"`{parameter.name}`" in line.split("|")[1]]
        default = row.split("|")[2].strip().strip("`")
        if parameter.default not in ("", None) and isinstance(parameter.default, int | float):
            assert default == str(parameter.default).lower(), parameter.name
        assert (default == "required") == parameter.required, parameter.name


def test_every_gpu_is_in_its_table_with_its_machines():
    for kind, gpu in GPUS.items():
        (row,) = [line for line in README.splitlines() if line.startswith(f"| `{kind}`, ")]
        for word in (gpu.vertex, gpu.gke, *gpu.machine_types.values()):
            assert not word or f"`{word}`" in row, word
        for target, default in DEFAULT_MACHINES.items():
            assert (f"default on {target.title()}" in row) == (kind == default)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/google-cloud.md", "docs/kubeflow.md", "docs/scale.md", "docs/serving.md"]
)
def test_the_commands_are_ones_that_the_command_line_takes(page):
    parser = build_parser()
    text = (ROOT / page).read_text(encoding="utf-8")
    commands = re.findall(r"^rlhf (?:[^\n]*\\\n)*[^\n]*$", text, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|[^\s\\]+', command)]
        parser.parse_args(words[1:])


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_scale_tables_are_what_the_forecast_says():
    from benchmarks import scale

    from rlhf_tuning.planning.forecast import MEMORY_ERROR, TIME_ERROR

    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert "\n".join(scale.large_table()) in page
    for name, error in (("memory", MEMORY_ERROR), ("time", TIME_ERROR)):
        assert re.search(rf"^\| {name} \(n = \d+\) \| {error[0]:.0%} \| {error[1]:.0%} \|", page, re.MULTILINE)
