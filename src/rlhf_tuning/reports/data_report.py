"""One HTML page that says what is in the data: whether it can be used first, then what is wrong, odd, and there."""

import re
from collections.abc import Iterable, Sequence

from rlhf_tuning.data.problems import CODES, Problem
from rlhf_tuning.data.summary import DatasetSummary, DataSummary, Finding, Lengths, SampledRow
from rlhf_tuning.reports.charts import IntervalRow, count_bars, histogram, share_bar, share_text
from rlhf_tuning.reports.page import (
    VALUE_BYTES,
    Section,
    conversation,
    grid,
    render_page,
    said,
    text,
    values_table,
    write_page,
)
from rlhf_tuning.statistics import wilson_interval
from rlhf_tuning.step import counted

# The page stays below 3 MB: this much for problems, for examples of warnings, and for the rows of each dataset.
_PROBLEM_BYTES = 900_000
_WARNING_BYTES = 600_000
_ROW_BYTES = 300_000
# What a problem or a warning quotes is meant to be short already.
_QUOTE_BYTES = 800

# From so many warnings on a table lists them first.
_MANY_WARNINGS = 4

_NAMES = {
    "preference_dataset": "Preferences",
    "prompt_dataset": "Prompts",
    "supervised_dataset": "Demonstrations",
    "dataset_uri": "Demonstrations",
    "feedback_dataset": "Feedback",
    "preference_prompt_dataset": "Prompts for a judge",
    "human_preference_dataset": "Preferences of people",
    "eval_dataset": "Evaluation",
    "evaluation_data_uri": "Evaluation",
    "large_model_reference": "Base model",
}
_PARTS = {"prompt": "Prompts", "chosen": "Chosen answers", "rejected": "Rejected answers", "answer": "Answers"}


def write_data_report(summary: DataSummary, path: str, facts: Sequence[tuple[str, str]] = ()) -> None:
    """Write the report of `summary` as one HTML file at `path`; one that is there stays until the new one is whole."""
    write_page(render_data_report(summary, facts), path)


def render_data_report(summary: DataSummary, facts: Sequence[tuple[str, str]] = ()) -> str:
    """Return the HTML of a report.

    Args:
        summary: What was found.
        facts: Labels and values for the line under the title; text from outside.
    """
    problems = "What was set aside" if summary.usable else "Problems"
    sections = [
        Section("problems", problems, _problems(summary)),
        Section("warnings", "Warnings", _warnings(summary.findings)),
        *(
            Section(_anchor(index), _name(dataset.parameter), _dataset(dataset))
            for index, dataset in enumerate(summary.datasets)
        ),
    ]
    return render_page(
        kicker="RLHF data report",
        title="What is in the data",
        facts=facts,
        verdict=_verdict(summary),
        sections=sections,
        footer="Intervals of shares are Wilson's, 95%. Every figure is of good rows.",
    )


def _verdict(summary: DataSummary) -> str:
    warned = len(summary.findings)
    problems = sum(summary.problem_counts.values())
    aside = sum(dataset.set_aside for dataset in summary.datasets)
    sentences = []
    if not summary.usable:
        state = "worse"
        headline = (
            f"The data cannot be used: {counted(problems, 'problem')}." if problems else "The data cannot be used."
        )
        sentences.append("Nothing was imported. Mend what is listed under Problems, then check again.")
        if warned:
            sentences.append(f"The good rows gave {counted(warned, 'warning')} besides.")
    elif warned:
        state = "warned"
        headline = f"The data can be used, with {counted(warned, 'warning')}."
        words = "Read it" if warned == 1 else "Read them"
        sentences.append(f"{words} before you spend hours of training: what was found, and what to do about it.")
    else:
        state = "better"
        headline = "The data can be used."
        sentences.append("Every row was read. Nothing is wrong, and nothing looks suspicious.")
    if aside and summary.usable:
        rows = f"{counted(aside, 'bad row')} {'was' if aside == 1 else 'were'}"
        sentences.append(f"{rows} set aside, as max_bad_rows allows; no later step reads them.")
    paragraphs = "".join(f"<p>{sentence}</p>" for sentence in sentences)
    return (
        f'<section class="card verdict {state}" aria-label="Verdict"><p class="headline">{headline}</p>'
        f"{paragraphs}{_overview(summary)}</section>"
    )


def _overview(summary: DataSummary) -> str:
    if not summary.datasets:
        return ""
    lines = []
    for index, dataset in enumerate(summary.datasets):
        warned = sum(finding.parameter == dataset.parameter for finding in summary.findings)
        figures = (dataset.rows, dataset.set_aside, dataset.distinct_prompts, warned)
        lines.append(
            f'<tr><th scope="row"><a href="#{_anchor(index)}">{_name(dataset.parameter)}</a></th>'
            + "".join(f'<td class="n{"" if figure else " soft"}">{figure:,}</td>' for figure in figures)
            + "</tr>"
        )
    heads = "".join(
        f'<th scope="col" class="n">{name}</th>' for name in ("Good rows", "Set aside", "Distinct prompts", "Warnings")
    )
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">Dataset</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _problems(summary: DataSummary) -> str:
    counts = summary.problem_counts
    codes = [code for code in CODES if counts.get(code)]
    codes += [code for code in counts if code not in CODES]
    if not codes:
        return ""
    contents = ""
    if len(codes) > 1:
        lines = "".join(
            f'<tr><th scope="row"><a href="#{_problem_anchor(index)}"><code>{text(code, 200)}</code></a></th>'
            f'<td>{_meaning(code)}</td><td class="n" data-name="Problems">{counts[code]:,}</td></tr>'
            for index, code in enumerate(codes)
        )
        contents = (
            '<div class="card gap"><table class="stack"><thead><tr><th scope="col">Code</th><th scope="col">Meaning</th>'
            f'<th scope="col" class="n">Problems</th></tr></thead><tbody>{lines}</tbody></table></div>'
        )
    # Each code may take its share, so that the first does not push out the others.
    most = _PROBLEM_BYTES // len(codes)
    tables = []
    for index, code in enumerate(codes):
        kept = [problem for problem in summary.problems if problem.code == code]
        lines, shown = _fitting((_problem(problem, summary.repeats.get(problem, 0)) for problem in kept), most)
        told = shown + sum(summary.repeats.get(problem, 0) for problem in kept[:shown])
        table = (
            '<table class="stack problems"><thead><tr><th scope="col">Where</th><th scope="col">Field</th>'
            f'<th scope="col">Found</th><th scope="col">Accepted</th></tr></thead><tbody>{lines}</tbody></table>'
            if shown
            else ""
        )
        tables.append(
            f'<article class="card gap" id="{_problem_anchor(index)}"><h3><code>{text(code, 200)}</code> '
            f'<span class="badge loss">{counts[code]:,}</span></h3><p>{_meaning(code)}</p>{table}'
            f"{_more(counts[code] - told, 'problem')}</article>"
        )
    return contents + "".join(map(_advice, summary.advice)) + "".join(tables)


def _advice(advice: str) -> str:
    words, _, command = advice.partition("\n")
    code = f"<p><code>{text(command)}</code></p>" if command else ""
    return f'<div class="card gap"><p>{text(words)}</p>{code}</div>'


def _problem(problem: Problem, more: int) -> str:
    # The names of the columns stand in the cells too, for narrow pages where a row becomes a block.
    cells = (
        ("Field", f"<code>{text(problem.field, _QUOTE_BYTES)}</code>" if problem.field else ""),
        ("Found", text(problem.found, _QUOTE_BYTES)),
        ("Accepted", text(problem.accepted, _QUOTE_BYTES)),
    )
    shown = "".join(f'<td data-name="{name}">{value}</td>' for name, value in cells)
    alike = f'<br><span class="soft">and {more:,} more that say{"s" * (more == 1)} the same</span>' if more else ""
    return f'<tr><th scope="row"><code>{text(problem.location, _QUOTE_BYTES)}</code>{alike}</th>{shown}</tr>'


def _warnings(findings: Sequence[Finding]) -> str:
    most = _WARNING_BYTES // max(1, len(findings))
    cards = []
    for index, finding in enumerate(findings):
        lines, shown = _fitting(
            (
                f'<tr><th scope="row"><code>{text(example.location, _QUOTE_BYTES)}</code></th>'
                f"<td>{said(example.text, VALUE_BYTES)}</td></tr>"
                for example in finding.examples
            ),
            most,
        )
        table = f'<table class="stack quotes"><tbody>{lines}</tbody></table>' if shown else ""
        cards.append(
            f'<article class="card gap warning" id="{_warning_anchor(index)}"><p class="soft">{_name(finding.parameter)} · '
            f'<code>{text(finding.code, 200)}</code></p><p class="message">{text(finding.message)}</p>{table}'
            f"{_more(len(finding.examples) - shown, 'example')}</article>"
        )
    return _contents(findings) + "".join(cards)


def _contents(findings: Sequence[Finding]) -> str:
    """Return a table of many warnings, in which each is one line."""
    if len(findings) < _MANY_WARNINGS:
        return ""
    lines = "".join(
        f'<tr><th scope="row"><a href="#{_warning_anchor(index)}"><code>{text(finding.code, 200)}</code></a></th>'
        f'<td data-name="About">{_name(finding.parameter)}</td><td>{text(_beginning(finding.message), 800)}</td></tr>'
        for index, finding in enumerate(findings)
    )
    return (
        '<div class="card gap"><table class="stack contents"><thead><tr><th scope="col">Code</th><th scope="col">About</th>'
        f'<th scope="col">What was found</th></tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _beginning(message: str) -> str:
    """Return what a warning says first: up to its first colon or full stop."""
    return re.split(r"[.:;](?=\s)", message, maxsplit=1)[0]


def _dataset(dataset: DatasetSummary) -> str:
    n = dataset.rows
    tiles = [("Good rows", f"{n:,}", "")]
    if n:
        share = f"{share_text(dataset.distinct_prompts, n)} of {counted(n, 'row')}"
        tiles.append(("Distinct prompts", f"{dataset.distinct_prompts:,}", share))
    tiles.append(("Set aside", f"{dataset.set_aside:,}", "bad rows"))
    tiles.append(("Files", f"{dataset.files:,}", ""))
    if dataset.epochs is not None:
        tiles.append(("Epochs", f"{dataset.epochs:,.1f}", "how often training sees each row"))
    figures = "".join(
        f'<div><span class="soft">{label}</span><b>{value}</b><span class="soft">{note}</span></div>'
        for label, value, note in tiles
    )
    facts = [(dataset.parameter, text(dataset.reference, VALUE_BYTES))]
    if dataset.formats:
        formats = ", ".join(f"{text(name, 200)} ({counted(count, 'row')})" for name, count in dataset.formats.items())
        facts.append(("format" if len(dataset.formats) == 1 else "formats", formats))
    if dataset.fingerprint:
        full = text(dataset.fingerprint, 200, marks=False)
        facts.append(("fingerprint", f'<span class="clip" title="{full}">{full}</span>'))
    parts = [f'<div class="card gap"><div class="tiles">{figures}</div>{values_table(facts)}</div>']
    if not n:
        return parts[0] + '<p class="soft">There is no good row, so there is nothing more to show.</p>'
    charts = [_length_chart(lengths) for lengths in dataset.lengths] + _balance(dataset)
    if any(dataset.scripts.values()):
        charts.append(count_bars("Rows by the script most of their text is in", dataset.scripts))
    if charts:
        parts.append(f'<h3>In figures</h3><p class="soft">{" ".join(_measured(dataset))}</p>{grid(charts)}')
    parts.append(_rows(dataset.examples))
    return "".join(parts)


def _measured(dataset: DatasetSummary) -> list[str]:
    """Say what the figures were measured on, and what to look for in them."""
    rows = counted(dataset.rows, "row")
    balance = dataset.first_chosen is not None or dataset.longer_chosen is not None
    sentences = []
    if dataset.sampled < dataset.rows:
        sentences.append(f"Measured on a sample: {dataset.sampled:,} of {rows}.")
        if balance:
            sentences.append("Which answer is preferred is counted in all rows.")
    else:
        sentences.append(f"Measured on {'all ' if dataset.rows > 1 else ''}{rows}.")
    if dataset.lengths:
        sentences.append("Lengths are those before anything is cut.")
    if any(lengths.unit == "characters" for lengths in dataset.lengths):
        sentences.append(
            "They are in characters, as the model's tokenizer was not at hand: nothing is known of the limits in tokens."
        )
    if balance:
        sentences.append("Where one position or the longer answer mostly wins, a reward model may learn just that.")
    return sentences


def _balance(dataset: DatasetSummary) -> list[str]:
    """Show whether the position or the length of an answer gives away which one is preferred."""
    charts = []
    if dataset.first_chosen is not None:
        row = _share("first", dataset.first_chosen, dataset.rows, f"n = {dataset.rows:,}")
        charts.append(share_bar("Which candidate is preferred", row, "second"))
    if dataset.labels:
        row = _share("liked", dataset.liked, dataset.labels, f"n = {dataset.labels:,}")
        charts.append(share_bar("Which labels are positive", row, "not liked"))
    unequal = dataset.rows - dataset.equally_long
    if dataset.longer_chosen is not None and unequal:
        note = f"n = {unequal:,}"
        if dataset.equally_long:
            note += f"; {dataset.equally_long:,} of equal length left out"
        row = _share("longer", dataset.longer_chosen, unequal, note)
        charts.append(share_bar("Which answer is preferred, by length", row, "shorter"))
    return charts


def _share(label: str, count: int, n: int, note: str) -> IntervalRow:
    return IntervalRow(label, count / n, *wilson_interval(count, n), note)


def _length_chart(lengths: Lengths) -> str:
    return histogram(_PARTS[lengths.part], lengths.values, x_label=lengths.unit, limit=lengths.limit)


def _rows(examples: Sequence[SampledRow]) -> str:
    blocks, shown = _fitting((_row(row) for row in examples), _ROW_BYTES)
    if not shown:
        return ""
    heading = "An example" if shown == 1 else f"{shown} examples"
    return f"<h3>{heading}</h3>{blocks}{_more(len(examples) - shown, 'example')}"


def _row(row: SampledRow) -> str:
    answers = [
        ("chosen", "Chosen", row.chosen),
        ("rejected", "Rejected", row.rejected),
        ("chosen", "Answer", row.answer),
    ]
    sides = "".join(
        f'<div class="side {kind}"><h4>{name}</h4>{said(answer)}</div>'
        for kind, name, answer in answers
        if answer is not None
    )
    return (
        f'<article class="card pair"><header><div class="ask"><div class="where">'
        f"<code>{text(row.location, _QUOTE_BYTES)}</code></div>{conversation(row.prompt)}</div></header>"
        f"{f'<div class=sides>{sides}</div>' if sides else ''}</article>"
    )


def _fitting(blocks: Iterable[str], most_bytes: int) -> tuple[str, int]:
    """Return the first blocks that fit, and how many they are; the first one always does."""
    kept: list[str] = []
    for block in blocks:
        most_bytes -= len(block.encode())
        if kept and most_bytes < 0:
            break
        kept.append(block)
    return "".join(kept), len(kept)


def _more(count: int, what: str) -> str:
    return f'<p class="soft more">and {count:,} more {what}{"" if count == 1 else "s"}</p>' if count > 0 else ""


def _name(parameter: str) -> str:
    return _NAMES.get(parameter) or text(parameter, 200)


def _meaning(code: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", text(CODES.get(code, "not known to this version")))


def _anchor(index: int) -> str:
    return f"dataset-{index + 1}"


def _warning_anchor(index: int) -> str:
    return f"warning-{index + 1}"


def _problem_anchor(index: int) -> str:
    return f"problem-{index + 1}"
