"""Methods against each other: one HTML page, and the same numbers as Markdown for a terminal or a document."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_tuning.evaluation.comparison import ScoredAnswer, number, percent
from rlhf_tuning.evaluation.method_comparison import (
    BASE,
    LEVEL,
    Contestant,
    Duel,
    MethodComparison,
    Table,
    advice,
    shown_p,
)
from rlhf_tuning.reports.charts import IntervalRow, interval_plot
from rlhf_tuning.reports.page import (
    VALUE_BYTES,
    Section,
    conversation,
    render_page,
    said,
    text,
    values_table,
    write_page,
)
from rlhf_tuning.statistics import MeanEstimate
from rlhf_tuning.step import duration

#: So many prompts are shown with all answers.
_MOST_PROMPTS = 40
_WORDS = {"better": "beats", "unclear": "not shown to differ from", "worse": "loses to"}
#: Scores of answers that have a line of their own where they were given, with words for it.
_SCORES = (("true_score", "True score"), ("held_out_reward", "Held-out reward"), ("reward", "Reward"))


@dataclass(frozen=True, kw_only=True)
class MethodsReport:
    """What the page shows.

    Args:
        found: The comparison.
        base_model: What was tuned.
        created: When, in words.
        price_per_hour: What the machine costs, in any currency; None where nobody said.
        budget: What each method's training was to take, in words; empty where each took its own steps.
        data: What went in, by name, and how many rows.
        parameters: Of all methods.
        models: Commands that ask the tuned models, by their labels.
        command: The command that does the same again.
    """

    found: MethodComparison
    base_model: str
    created: str = ""
    price_per_hour: float | None = None
    budget: str = ""
    data: Mapping[str, int]
    parameters: Mapping[str, object]
    models: Mapping[str, str]
    command: str = ""


def write_methods_report(report: MethodsReport, *, page: str, results: str, summary: str) -> str:
    """Write the page, the results as JSON and the summary as Markdown; return the last.

    A page that is there stays until the new one is whole.
    """
    write_page(render_methods(report), page)
    content = {**report.found.as_json(), "budget": report.budget, "parameters": dict(report.parameters)}
    Path(results).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = methods_text(report)
    Path(summary).write_text(text, encoding="utf-8")
    return text


def render_methods(report: MethodsReport) -> str:
    """Return the HTML of the page."""
    found = report.found
    trainings = f"{len(found.seeds)} seed{'s' if len(found.seeds) > 1 else ''}"
    return render_page(
        kicker="Methods compared",
        title=_title([method.label for method in found.methods if method.name != BASE]),
        facts=[
            ("Base model", report.base_model),
            ("Held-out prompts", f"{len(found.prompts):,}"),
            ("Trained with", trainings),
            ("Budget of each training", report.budget),
            ("Made", report.created),
        ],
        verdict=_verdict(found),
        sections=[
            Section("each", "Each against each", _matrices(found)),
            Section("cost", "What each took", _costs(report)),
            Section("distance", "How far each went", _distances(found)),
            Section("pairs", "The pairs, one by one", _duels(found)),
            Section("judges", "Who judged", _judges(found)),
            Section("answers", "Answers side by side", _answers(found)),
            Section("inputs", "What went in, what came out", _inputs(report)),
        ],
        footer="Intervals are 95%. That of a win rate takes a prompt for one trial, over all seeds (Tango's, and Liang and "
        "Zeger's where a prompt has several answers); that over seeds takes a training for one (Student's). A tie counts "
        "half.",
    )


def _title(labels: Sequence[str]) -> str:
    title = " or ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels) + "?"
    return title[:1].upper() + title[1:]


def _verdict(found: MethodComparison) -> str:
    headline, sentences = advice(found)
    table = found.decisive
    picture = ""
    if table:
        rows = [_interval_row(found, table.duel(method.name, BASE)) for method in found.methods if method.name != BASE]
        plot = interval_plot(
            f"Win rate against the base model, by {table.label}", rows, reference_label="no difference"
        )
        picture = f'<div class="intervals">{plot}</div>'
    paragraphs = "".join(f"<p>{text(sentence)}</p>" for sentence in sentences)
    state = "better" if headline.startswith("Take") else "unclear"
    return (
        f'<section class="card verdict {state}" aria-label="Advice"><p class="headline">{text(headline)}</p>'
        f"{paragraphs}{picture}</section>"
    )


def _interval_row(found: MethodComparison, duel: Duel) -> IntervalRow:
    rate = duel.rate
    note = f"{rate.wins:,} won, {rate.ties:,} tied, {rate.losses:,} lost"
    return IntervalRow(f"{found.label(duel.first)}: {percent(rate.rate)}", rate.rate, rate.low, rate.high, note)


def _matrices(found: MethodComparison) -> str:
    if not found.tables:
        return ""
    parts = [
        '<p class="soft">How often the method of the line beats that of the column. A cell is set in bold where the '
        f"difference is shown: the prompts rule out chance at {LEVEL:.0%} after Holm’s correction for the number of pairs, "
        "and the seeds agree beyond their own spread.</p>"
    ]
    for table in found.tables:
        parts.append(f"<h3>By {text(table.label, 200)}{_standing(found, table)}</h3>{_matrix(found, table)}")
    return "".join(parts)


def _standing(found: MethodComparison, table: Table) -> str:
    if table is found.decisive:
        return ": the advice rests on it"
    if table.measure == "reward":
        return ": what RLHF and best of n were made to raise, so no ground for advice"
    return "" if table.decides else ": not shown to agree with people, so no ground for advice"


def _matrix(found: MethodComparison, table: Table) -> str:
    lines = []
    for method in found.methods:
        cells = [
            '<td class="n soft">–</td>' if method is other else _heat(table.duel(method.name, other.name))
            for other in found.methods
        ]
        lines.append((method.label, "".join(cells)))
    return _card(["Wins against", *(method.label for method in found.methods)], lines, kind="heat")


def _card(names: Sequence[str], lines: Sequence[tuple[str, str]], kind: str = "") -> str:
    """Return a table from its headings, and from the label and the cells of each line, which are HTML."""
    heads = "".join(f'<th scope="col" class="n">{text(name, 200)}</th>' for name in names[1:])
    rows = "".join(f'<tr><th scope="row">{text(label, 400)}</th>{cells}</tr>' for label, cells in lines)
    return (
        f'<div class="card scroll gap"><table class="{kind}"><thead><tr><th scope="col">{text(names[0], 200)}</th>{heads}'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cells(rows: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    return [(row[0], "".join(map(_cell, row[1:]))) for row in rows]


def _heat(duel: Duel) -> str:
    rate = duel.rate
    kind = "even" if abs(rate.rate - 0.5) < 0.02 else "ahead" if rate.rate > 0.5 else "behind"
    strength = min(4, 1 + int(8 * abs(rate.rate - 0.5)))
    share = percent(rate.rate)
    shown = f"<b>{share}</b>" if duel.outcome != "unclear" else share
    return f'<td class="n {kind} s{strength}">{shown}<small>[{percent(rate.low)}, {percent(rate.high)}]</small></td>'


def _costs(report: MethodsReport) -> str:
    names, rows = _cost_rows(report)
    note = (
        "Training is the time of whole steps, loading and saving included, and of reward models where there are any, "
        "on average over the seeds. Samples: how many answers are sampled for each that is given, at every use."
    )
    return f'<p class="soft">{note}</p>{_card(names, _cells(rows))}'


def _distances(found: MethodComparison) -> str:
    names, rows = _distance_rows(found)
    note = (
        "KL is to the base model, in nats per answer; that of choosing the best of n samples is at most log n − (n − 1)/n. "
        "Scores are means over the answers."
    )
    return f'<p class="soft">{note}</p>{_card(names, _cells(rows))}'


def _cell(cell: str) -> str:
    value, _, rest = _minus(cell).partition(" [")
    return f'<td class="n">{text(value)}{f"<small>[{text(rest)}</small>" if rest else ""}</td>'


def _minus(shown: str) -> str:
    """Write a number with the typographic minus sign, which is as wide as the plus."""
    return shown.replace("-", "−")


def _cost_rows(report: MethodsReport) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells, as text, of what each method took."""
    found, price = report.found, report.price_per_hour
    forecast = any(method.forecast is not None for method in found.methods)
    rows = []
    for method in found.methods:
        cells = [method.label, duration(method.mean_seconds) if method.seconds else "–"]
        if forecast:
            cells.append("–" if method.forecast is None else duration(method.forecast))
        if price is not None:
            cells.append(_money(method.mean_seconds / 3600 * price) if method.seconds else "–")
        rows.append([*cells, f"{method.steps:,}" if method.steps else "–", f"{method.samples:,}"])
    names = ["Method", "Training", *(["Forecast"] if forecast else []), *(["Cost"] if price is not None else [])]
    return [*names, "Steps", "Samples"], rows


def _distance_rows(found: MethodComparison) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells, as text, of what the answers are like; a cell is a value and perhaps its interval."""
    scores = [pair for pair in _SCORES if any(found.mean(method, pair[0]) for method in found.methods)]
    rows = []
    for method in found.methods:
        ended = found.mean(method, "ended")
        rows.append(
            [
                method.label,
                _kl(found, method),
                _estimate(found.mean(method, "tokens")),
                percent(ended.mean) if ended else "–",
                *(_estimate(found.mean(method, measure)) for measure, _ in scores),
            ]
        )
    return ["Method", "KL", "Tokens", "Ended", *(name for _, name in scores)], rows


def _money(cost: float) -> str:
    return f"{cost:,.2f}" if cost >= 1 else f"{cost:.4f}"


def _kl(found: MethodComparison, method: Contestant) -> str:
    if method.name == BASE:
        return "0"
    return f"at most {method.most_kl:.2f}" if method.most_kl is not None else _estimate(found.mean(method, "kl"))


def _estimate(estimate: MeanEstimate | None) -> str:
    if estimate is None:
        return "–"
    if not math.isfinite(estimate.low):
        return number(estimate.mean)
    return f"{number(estimate.mean)} [{number(estimate.low)}, {number(estimate.high)}]"


def _duels(found: MethodComparison) -> str:
    table = found.decisive or next(iter(found.tables), None)
    if table is None:
        return ""
    names, rows = _duel_rows(found, table)
    note = (
        f"By {table.label}. Win rate: with a prompt as one trial. Over the seeds: with a training as one trial, so it says "
        "whether training again would end likewise. p: exact sign test over prompts, both sides, by Holm’s method for all "
        f"{len(rows)} pairs. At equal length: had all answers been as long as their opponents."
    )
    return f'<p class="soft">{text(note)}</p>{_card(names, _cells(rows))}'


def _duel_rows(found: MethodComparison, table: Table) -> tuple[list[str], list[list[str]]]:
    names = ["Pair", "Win rate", "At equal length"]
    names += ["Each seed", "Over the seeds"] if len(found.seeds) > 1 else []
    unjudged = any(duel.unjudged for duel in table.duels.values())
    rows = []
    for duel in table.duels.values():
        rate, equal, over = duel.rate, duel.at_equal_length, duel.over_seeds
        cells = [
            f"{found.label(duel.first)} {_WORDS[duel.outcome]} {found.label(duel.second)}",
            _share(rate.rate, rate.low, rate.high),
            _share(*equal[:3]) if equal else "not known",
        ]
        if len(found.seeds) > 1:
            cells.append(" ".join(percent(share) for share in duel.by_seed.values()))
            cells.append(_share(over.mean, max(0.0, over.low), min(1.0, over.high)) if over else "–")
        rows.append([*cells, shown_p(duel.adjusted), *([f"{duel.unjudged:,}"] if unjudged else [])])
    return [*names, "p (Holm)", *(["Without a verdict"] if unjudged else [])], rows


def _share(share: float, low: float, high: float) -> str:
    return f"{percent(share)} [{percent(low)}, {percent(high)}]"


def _judges(found: MethodComparison) -> str:
    rows = []
    for table in found.tables:
        agreed = table.agreement
        share = f"{_share(*agreed[:3])} of {agreed.n:,} choices" if agreed else "not checked: no human choices"
        ground = "yes" if table is found.decisive else "it could" if table.decides else "no"
        rows.append([table.label, share, ground])
    if not rows:
        return ""
    notes = "".join(f"<p>{text(note)}.</p>" for note in found.notes)
    return f"{notes}{_card(['Judge', 'Agrees with people', 'Ground of the advice'], _cells(rows))}"


def _answers(found: MethodComparison) -> str:
    seed = found.seeds[0]
    blocks = []
    for index, prompt in enumerate(found.prompts[:_MOST_PROMPTS]):
        sides = "".join(
            f'<div class="side {"base" if method.name == BASE else "tuned"}"><h3>{text(method.label, 200)}</h3>'
            f"{_answer(method.answers[seed][index])}</div>"
            for method in found.methods
        )
        blocks.append(
            f'<article class="card pair"><header><span class="soft">{index + 1}</span>'
            f'<div class="ask">{conversation(prompt)}</div></header><div class="sides">{sides}</div></article>'
        )
    note = f"Of seed {seed}"
    if len(found.prompts) > _MOST_PROMPTS:
        note += (
            f", to the first {_MOST_PROMPTS} of {len(found.prompts):,} prompts; all are in the folder of the comparison"
        )
    return f'<p class="soft">{note}.</p><div class="pairs contest">{"".join(blocks)}</div>'


def _answer(answer: ScoredAnswer) -> str:
    shown = said(answer.text, 4_000) if answer.text.strip() else '<div class="said soft"><em>empty answer</em></div>'
    scores = [f"{name} {_minus(number(value))}" for name, value in _scores_of(answer) if value is not None]
    scores.append(f"{answer.tokens:,} token{'' if answer.tokens == 1 else 's'}")
    if not answer.ended:
        scores.append("cut at the length limit")
    return f'{shown}<div class="scores">{text(" · ".join(scores))}</div>'


def _scores_of(answer: ScoredAnswer) -> list[tuple[str, float | None]]:
    return [
        ("true score", answer.true_score),
        ("held-out reward", answer.held_out_reward),
        ("reward", answer.reward),
        ("KL", answer.kl),
    ]


def _inputs(report: MethodsReport) -> str:
    blocks = []
    if report.models:
        commands = "".join(
            f"<h3>{text(label, 200)}</h3><pre class=command><code>{text(command)}</code></pre>"
            for label, command in report.models.items()
        )
        blocks.append(commands)
    if report.command:
        blocks.append(f"<h3>Compare the same again</h3><pre class=command><code>{text(report.command)}</code></pre>")
    rows = [(name, f"{count:,}") for name, count in report.data.items()]
    blocks.append(f"<h3>Rows</h3>{values_table(rows)}")
    settings = [(name, text(str(value), VALUE_BYTES)) for name, value in report.parameters.items() if value != ""]
    blocks.append(f"<h3>Parameters</h3>{values_table(settings)}")
    return "".join(f'<div class="card gap">{block}</div>' for block in blocks)


def methods_text(report: MethodsReport) -> str:
    """Return the advice and the tables as Markdown."""
    found = report.found
    headline, sentences = advice(found)
    parts = [headline, *sentences]
    for names, rows in (_cost_rows(report), _distance_rows(found)):
        parts.append(_markdown([names, *rows]))
    table = found.decisive or next(iter(found.tables), None)
    if table:
        names, rows = _duel_rows(found, table)
        parts += [f"Each against each, by {table.label}:", _markdown([names, *rows])]
    return "\n\n".join(parts) + "\n"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in cells]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])
