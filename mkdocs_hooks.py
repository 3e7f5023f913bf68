"""Makes the pages of the site that have their source elsewhere, so that each fact stands in one place.

In a page of `docs/` a line `<!-- NAME -->` is where something generated goes: `GENERATED` says which names there are.
READMEs and the changelog become pages, and files of the repository that a page links to become files of the site.
"""

import argparse
import ast
import importlib
import inspect
import math
import os
import pkgutil
import posixpath
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import docstring_parser
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.structures import InputSpec
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import rlhf_components
import rlhf_tuning
from rlhf_pipelines.cli.rlhf import build_parser
from rlhf_pipelines.parameters import PIPELINES
from rlhf_tuning import environment
from rlhf_tuning.parameters import PARAMETERS, Parameter

ROOT = Path(__file__).parent
#: Pages of the site that are files elsewhere in the repository.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "src/rlhf_tuning/sample/README.md": "sample.md",
}
_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)]*)?(\))")
#: A variable of `environment` that is read when the module is imported: the comment above it, and its code.
_VARIABLE = re.compile(r"((?:^#: .*\n)+)\w+ = (.*\n(?:    .*\n|\)\n)*)", re.MULTILINE)
_MARK = re.compile(r"^<!-- ([a-z ]+) -->$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the library's rooms where their index stands."""
    (reference,) = (section["Reference"] for section in config.nav or [] if "Reference" in section)
    (python,) = (page["Python"] for page in reference if "Python" in page)
    python += [{room: f"reference/python/{room}.md"} for room in python_rooms()]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and what pages link to outside `docs/`."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in PAGES.items()}
    for room in python_rooms():
        pages[f"reference/python/{room}.md"] = python_page(room)
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    linked = {
        link
        for file in files.documentation_pages()
        for link in outside_links(source_of(file.src_uri), filled_in(file.content_string))
    }
    for path in sorted(linked - set(PAGES)):
        files.append(File.generated(config, f"repository/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is generated, and make links between files of the repository links of the site."""
    return site_links(page.file.src_uri, filled_in(markdown))


def filled_in(markdown: str) -> str:
    """Return the text of a page with what is generated in it."""
    return _MARK.sub(lambda mark: _generated(mark[1]), markdown)


@cache
def _generated(name: str) -> str:
    return GENERATED[name]()


def source_of(page: str) -> str:
    """Return the path in the repository of a page of the site."""
    return next((source for source, made in PAGES.items() if made == page), f"docs/{page}")


def outside_links(source: str, text: str) -> set[str]:
    """Return the files of the repository, outside `docs/`, that the text of the file `source` links to."""
    targets = (_target(source, link[2]) for link in _LINK.finditer(text))
    return {target for target in targets if target and not target.startswith("docs/")}


def site_links(page: str, text: str) -> str:
    """Return the text of a page with its links to files of the repository made links of the site."""
    source = source_of(page)

    def rewritten(link: re.Match[str]) -> str:
        target = _target(source, link[2])
        if not target:
            return link[0]
        there = PAGES.get(target) or (
            target.removeprefix("docs/") if target.startswith("docs/") else f"repository/{target}"
        )
        relative = posixpath.relpath(there, posixpath.dirname(page) or ".")
        return f"{link[1]}{relative}{link[3] or ''}{link[4]}"

    return _LINK.sub(rewritten, text)


def _target(source: str, link: str) -> str:
    """Return the path in the repository that `link` of the file `source` leads to; empty for one to elsewhere."""
    if "://" in link or link.startswith("mailto:"):
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def parameter_table(parameters: Iterable[Parameter]) -> str:
    """Return a table of parameters, in Markdown."""
    rows = [
        (f"`{parameter.name}`", _accepted(parameter), _default(parameter), parameter.description)
        for parameter in parameters
    ]
    return _table(("parameter", "values", "default", "meaning"), rows)


def _default(parameter: Parameter) -> str:
    if parameter.default is None:
        return "required"
    value = str(parameter.default)
    return f"`{value.lower() if parameter.type is bool else value}`" if value else "none"


def _accepted(parameter: Parameter) -> str:
    if parameter.choices:
        return ", ".join(f"`{choice}`" for choice in parameter.choices if choice)
    words = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}[parameter.type]
    if (limit := parameter.limit) is None:
        return words
    return f"{words}, {limit if limit.open_low or math.isinf(limit.high) else f'{limit.low:g} to {limit.high:.10g}'}"


def pipeline_table() -> str:
    """Return a table of which pipeline takes which parameter, in Markdown."""
    takes = [{parameter.name for parameter in parameters} for parameters in PIPELINES.values()]
    rows = [(f"`{name}`", *("yes" if name in names else "" for names in takes)) for name in PARAMETERS]
    return _table(("parameter", *(f"`{pipeline}`" for pipeline in PIPELINES)), rows)


def _vertex_parameters() -> list[Parameter]:
    names = list(PARAMETERS)
    return [PARAMETERS[name] for name in names[: names.index("tensorboard_resource_id") + 1]]


def command_help() -> str:
    """Return the help of every command, in Markdown."""
    os.environ["COLUMNS"] = "100"
    parser = build_parser()
    parts = [_help(parser)]
    for name, command in _subcommands(parser):
        parts += [f"## rlhf {name}", _help(command)]
        for action, subcommand in _subcommands(command):
            parts += [f"### rlhf {name} {action}", _help(subcommand)]
    return "\n\n".join(parts)


def _subcommands(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [pair for action in actions for pair in action.choices.items()]


def _help(parser: argparse.ArgumentParser) -> str:
    return f"```text\n{parser.format_help().rstrip()}\n```"


def component_reference() -> str:
    """Return each component with its inputs, its outputs and an example, in Markdown."""
    examples = (ROOT / "examples/every_component.py").read_text(encoding="utf-8")
    parts: list[str] = []
    for name in rlhf_components.__all__:
        parts += _component(name, getattr(rlhf_components, name))
        parts.append(_python(call_of(name, examples)))
        parts.append(f"[Compiled YAML](../../components/compiled/{name}.yaml)")
    return "\n\n".join(parts)


def call_of(name: str, code: str) -> str:
    """Return the statement of a program that calls a function first."""
    for statement in ast.walk(ast.parse(code)):
        if isinstance(statement, ast.Assign | ast.Expr):
            called = [node.func for node in ast.walk(statement) if isinstance(node, ast.Call)]
            if any(isinstance(function, ast.Name) and function.id == name for function in called):
                return textwrap.dedent(ast.get_source_segment(code, statement, padded=True) or "")
    raise ValueError(f"no example calls {name}")


def own_pipeline() -> str:
    """Return the example of a pipeline of one's own, in Markdown."""
    return _python((ROOT / "examples/own_pipeline.py").read_text(encoding="utf-8"))


def _python(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"


def _component(name: str, component: BaseComponent) -> list[str]:
    spec = component.component_spec
    docstring = docstring_parser.parse(inspect.getdoc(component.python_func) or "")
    said = {entry.arg_name: entry.description or "" for entry in docstring.params}
    inputs = [
        (f"`{key}`", _type(given.type), _component_default(given), _one_line(said.get(key, "")))
        for key, given in (spec.inputs or {}).items()
    ]
    outputs = [
        (f"`{key}`", _type(made.type), _one_line(made.description or said.get(key, "")))
        for key, made in (spec.outputs or {}).items()
    ]
    parts = [f"## {name}", docstring.short_description or "", docstring.long_description or ""]
    if inputs:
        parts.append(_table(("input", "type", "default", "meaning"), inputs))
    if outputs:
        parts.append(_table(("output", "type", "meaning"), outputs))
    return parts


def _type(written: str) -> str:
    return written.removeprefix("system.").partition("@")[0]


def _component_default(given: InputSpec) -> str:
    if not given.optional:
        return "required"
    return "none" if given.default in ("", None) else f"`{str(given.default).lower()}`"


def environment_table() -> str:
    """Return a table of the environment variables that are read, in Markdown."""
    rows = []
    for comment, code in _VARIABLE.findall(inspect.getsource(environment)):
        names = ", ".join(f"`{name}`" for name in re.findall(r'\("([A-Z][A-Z_]+)"', code))
        rows.append((names, _one_line(comment.replace("#: ", ""))))
    return _table(("variable", "meaning"), rows)


def python_rooms() -> list[str]:
    """Return the names of the rooms of the library."""
    return [module.name for module in pkgutil.iter_modules(rlhf_tuning.__path__) if module.ispkg]


def python_page(room: str) -> str:
    """Return a page of what the modules of a room offer, for mkdocstrings to fill in."""
    package = importlib.import_module(f"{rlhf_tuning.__name__}.{room}")
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]
    about = (package.__doc__ or "").partition("\n")[0]
    return "\n\n".join([f"# `{package.__name__}`", about, *(f"::: {package.__name__}.{name}" for name in names)])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)
    return f'<div class="generated" markdown>\n\n{table}\n\n</div>'


def _one_line(text: str) -> str:
    return " ".join(text.split())


#: What stands in the place of a line `<!-- NAME -->`.
GENERATED: dict[str, Callable[[], str]] = {
    "vertex parameters": lambda: parameter_table(_vertex_parameters()),
    "other parameters": lambda: parameter_table(p for p in PARAMETERS.values() if p not in _vertex_parameters()),
    "parameters of each pipeline": pipeline_table,
    "command help": command_help,
    "components": component_reference,
    "own pipeline": own_pipeline,
    "environment variables": environment_table,
}
