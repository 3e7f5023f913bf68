"""One HTML page that says what a run achieved: the verdict first, then the numbers, the curves and the answers."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

from rlhf_tuning.evaluation.comparison import (
    BASE_MODEL,
    AnswerPair,
    JudgeRecord,
    ScoredAnswer,
    Summary,
    Wins,
    number,
    pair_outcome,
    percent,
    score_change,
    short_name,
    show,
    show_interval,
    summarize,
    verdict,
)
from rlhf_tuning.evaluation.gate import Decision, points
from rlhf_tuning.evaluation.phase_gains import SUPERVISED, TEACHER, Gain, Size, cells, gains_heading
from rlhf_tuning.evaluation.regression_suite import Regression
from rlhf_tuning.reports.charts import (
    IntervalRow,
    calibration,
    histogram_pair,
    interval_plot,
    line_chart,
    scatter,
    two_lines,
)
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
from rlhf_tuning.rewards import REWARD_OF, SPREAD_OF
from rlhf_tuning.step import duration

#: At least this many pairs of answers are shown, if there are so many, and as many more as fit.
LEAST_PAIRS = 50

# The page stays below 3 MB: this much for answers.
_ANSWER_BYTES = 2_000_000

_REINFORCEMENT_CHARTS = (
    ("reward", "Reward", False),
    ("kl", "KL from the {reference} model, nats per answer", False),
    ("entropy", "Entropy, nats per token", False),
    ("answer_tokens", "Answer length, tokens", False),
    ("ended", "Answers that ended by themselves", True),
    ("frac_reward_zero_std", "Prompts whose answers all had one reward", True),
    ("sampled_anew", "Prompts answered in their place, for each of a step's", False),
    ("clip_ratio", "Ratios to the policy that sampled that were clipped", True),
    ("kl_coeff", "kl_coeff, as it adapts to target_kl", False),
    ("grad_norm", "Norm of the gradient before clipping to 1", False),
    ("learning_rate", "Learning rate", False),
)
_REWARD_MODEL_CHARTS = (
    ("loss", "Loss", False),
    ("accuracy", "Accuracy on the training batch", True),
    ("grad_norm", "Norm of the gradient before clipping to 1", False),
)
_SUPERVISED_CHARTS = (
    ("loss", "Training loss, nats per token", False),
    ("entropy", "Entropy, nats per token", False),
    ("grad_norm", "Norm of the gradient before clipping to 1", False),
    ("learning_rate", "Learning rate", False),
)
_PREFERENCE_CHARTS = (
    ("entropy", "Entropy, nats per token", False),
    ("grad_norm", "Norm of the gradient before clipping to 1", False),
    ("learning_rate", "Learning rate", False),
)


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """A share of `n` trials with its 95% interval."""

    share: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class RewardModelPart:
    """What is known of the reward model.

    Args:
        history: One record a training step: `step`, `loss`, `accuracy`.
        accuracy: How often it agrees with held-out preferences.
        shorter_preferred: The same where the shorter answer was preferred.
        longer_wins: How often "the longer answer wins" agrees with them.
        feedback: How often it puts an answer that was liked before one that was not, of held-out feedback.
        by_margin: The accuracy by how far apart the two scores are, as `evaluate_reward_model` has it.
        by_length_difference: The accuracy by how much longer the preferred answer is, likewise.
        held_out: The loss on preferences set aside at every look, and what was decided, as `held_out_loss.json` has it.
    """

    history: Sequence[Mapping[str, float]] = ()
    accuracy: Proportion | None = None
    shorter_preferred: Proportion | None = None
    longer_wins: Proportion | None = None
    feedback: Proportion | None = None
    by_margin: Sequence[Mapping[str, float]] = ()
    by_length_difference: Sequence[Mapping[str, float]] = ()
    held_out: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class SupervisedPart:
    """What is known of supervised tuning, or of what a student learnt on its own answers.

    Args:
        history: One record a training step: `step`, `loss`, `entropy`, `learning_rate`.
        held_out: The held-out loss at every look, and what was decided, as `held_out_loss.json` has it.
    """

    history: Sequence[Mapping[str, float]]
    held_out: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PreferencePart:
    """What is known of preference tuning.

    Args:
        history: One record a training step: `step`, `loss`, `accuracy`, `margin`, `entropy`, `learning_rate`.
        held_out: What was measured on held-out preferences, or feedback, and what was decided, as `held_out_loss.json` has
            it.
        warning: What a person should know of the answers that people chose, or liked.
    """

    history: Sequence[Mapping[str, float]]
    held_out: Mapping[str, Any]
    warning: str = ""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """How long a step of the run took; `cached` says that an earlier run had done it."""

    name: str
    seconds: float
    cached: bool = False


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A dataset that went into the run."""

    name: str
    rows: int
    fingerprint: str = ""
    path: str = ""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Everything that a report can show; whatever is absent is left out.

    Args:
        title: What the run is called.
        created: When, in words.
        base_model: What was tuned.
        lineage: What exactly the model was made from and in, by name: revisions of base models, images.
        tuned_model: Its name in the registry.
        pairs: The answers to the held-out prompts.
        scorer_name: What gave the answers' true scores, such as `house style`.
        judges: What is known of the judges.
        supervised: Supervised tuning.
        distillation: What a student learnt on its own answers.
        preference: Preference tuning.
        reward_model: Phase 1.
        reinforcement: Phase 2, one record a step: `step`, `reward`, `kl`, `entropy`, `answer_tokens`, `ended`,
            `learning_rate`, those there are.
        data: Datasets with their fingerprints.
        parameters: The run's parameters.
        versions: Package names and versions.
        seed: The run's seed.
        files: What the run left, by name, and where.
        command: The command that calls the tuned model.
        decision: The gate's.
        opponent: How people read the model that the tuned one is compared with.
        reference: To which model KL was measured: base, or supervised.
        gains: What each phase brought, where a supervised one came first, and how a student fares beside its teacher.
        sizes: How large that student and its teacher are, and how fast they answered.
        regression: What a regression suite says.
        watch: What the watch over the policy saw, as `watch.json` has it.
        steps: How long each step took.
        steps_note: What is to be said of them where they are not the whole run's.
        price_per_hour: What the machine of the steps costs an hour, in any currency; None where nobody said.
        reproduce: The command that runs the same again.
        data_warnings: What is wrong with the data though it is valid.
        budget: What the run's budget ended before its last step, a sentence each.
    """

    title: str
    created: str = ""
    base_model: str = ""
    lineage: Mapping[str, str] | None = None
    tuned_model: str = ""
    pairs: Sequence[AnswerPair] = ()
    scorer_name: str = "true score"
    judges: Sequence[JudgeRecord] = ()
    supervised: SupervisedPart | None = None
    distillation: SupervisedPart | None = None
    preference: PreferencePart | None = None
    reward_model: RewardModelPart | None = None
    reinforcement: Sequence[Mapping[str, float]] = ()
    data: Sequence[DataSource] = ()
    parameters: Mapping[str, object] | None = None
    versions: Mapping[str, str] | None = None
    seed: int | None = None
    files: Mapping[str, str] | None = None
    command: str = ""
    decision: Decision | None = None
    opponent: str = BASE_MODEL
    reference: str = "base"
    gains: Sequence[Gain] = ()
    sizes: Sequence[Size] = ()
    regression: Regression | None = None
    watch: Mapping[str, Any] | None = None
    steps: Sequence[StepTime] = ()
    steps_note: str = ""
    price_per_hour: float | None = None
    reproduce: str = ""
    data_warnings: Sequence[str] = ()
    budget: Sequence[str] = ()


def write_report(report: RunReport, path: str) -> None:
    """Write `report` as one HTML file at `path`; a report that is there stays until the new one is whole."""
    write_page(render_report(report), path)


def render_report(report: RunReport) -> str:
    """Return the HTML of `report`."""
    summary = summarize(
        report.pairs,
        scorer_name=report.scorer_name,
        judges=report.judges,
        opponent=report.opponent,
        reference=report.reference,
    )
    opponent = _capital(short_name(report.opponent))
    sections = [
        Section(
            "numbers",
            f"{text(opponent, 200)} against tuned" if summary.compared else "The answers in numbers",
            _numbers(summary, opponent),
        ),
        Section("phases", gains_heading(report.gains), _gains(report.gains) + _sizes(report.sizes)),
        Section("regression", "Regression suite", _regression(report.regression)),
        Section("judges", "Who judged, and how far to trust it", _judges(summary)),
        Section("spread", "", _histograms(report, summary)),
        Section("supervised", "Supervised tuning", _supervised(report.supervised)),
        Section("distillation", "On-policy distillation", _supervised(report.distillation)),
        Section("preference", "Preference tuning", _preference(report.preference)),
        Section("learning", "Reinforcement learning", _reinforcement(report)),
        Section("reward-model", "Reward model", _reward_model(report.reward_model)),
        Section("warnings", "Warnings about the data", _warnings(report.data_warnings)),
        Section("time", "Time by step" if report.steps_note else "Time and cost by step", _times(report)),
        Section("answers", "Answers side by side" if summary.compared else "Answers", _answers(report, summary)),
        Section("inputs", "What went in, what came out", _inputs(report)),
    ]
    return render_page(
        kicker="Run report",
        title=report.title,
        facts=[
            ("Base model", report.base_model),
            ("Compared with", report.opponent if summary.compared else ""),
            ("Tuned model", report.tuned_model),
            ("Held-out prompts", f"{summary.n:,}" if summary.n else ""),
            ("Made", report.created),
        ],
        verdict=_verdict(summary, report.decision, report.budget),
        sections=sections,
        footer="Intervals are 95%: Tango's for win rates and differences of shares, Wilson's for shares, "
        "Student's t for means and their differences; wider where preferences share a prompt. A tie counts half.",
    )


def _capital(name: str) -> str:
    return "Base" if name == "base" else name


def _verdict(summary: Summary, decision: Decision | None, budget: Sequence[str]) -> str:
    headline, sentences = verdict(summary)
    if decision:
        sentences = [headline, *sentences]
        headline = decision.headline
    sentences = [*sentences, *budget]
    paragraphs = "".join(f"<p>{text(sentence)}</p>" for sentence in sentences)
    picture = ""
    if summary.measured:
        rows = [_win_row(wins) for wins in summary.measured]
        plot = interval_plot(
            "Win rate of the tuned model, with its 95% interval", rows, reference_label="no difference"
        )
        picture = f'<div class="intervals">{plot}</div>'
    state = summary.outcome or "unclear"
    if decision:
        state = "better" if decision.promote else "worse" if state == "worse" else "unclear"
    return (
        f'<section class="card verdict {state}" aria-label="Verdict"><p class="headline">{text(headline)}</p>'
        f"{paragraphs}{picture}{_conditions(decision)}</section>"
    )


def _conditions(decision: Decision | None) -> str:
    if decision is None:
        return ""
    words = {True: ("holds", "holds"), False: ("fails", "fails"), None: ("", "not asked")}
    rows = []
    for condition in decision.conditions:
        kind, word = words[condition.holds]
        change = f"<small>{text(condition.change)}</small>" if condition.holds is False and condition.change else ""
        rows.append(
            f'<tr><td class="state {kind}">{word}</td><th scope="row">{text(condition.name)}{change}</th>'
            f"<td>{text(_minus(condition.value))}</td><td>{text(condition.limit)}</td></tr>"
        )
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("Holds?", "Condition of a promotion", "Measured", "Limit")
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll conditions">{table}</div>'


def _win_row(wins: Wins) -> IntervalRow:
    rate = wins.rate
    note = f"{rate.wins} won, {rate.ties} tied, {rate.losses} lost"
    return IntervalRow(f"by {wins.measure}: {percent(rate.rate)}", rate.rate, rate.low, rate.high, note)


def _judges(summary: Summary) -> str:
    if not summary.measured:
        return ""
    lines = []
    for wins in summary.measured:
        rate, agreed = wins.rate, wins.agreement
        cells = [_estimate(rate.rate, rate.low, rate.high, f"{rate.n:,} pairs")]
        equal = wins.at_equal_length
        cells.append(
            _estimate(equal.mean, equal.low, equal.high, f"{equal.n:,} pairs") if equal else '<td class="n soft">–</td>'
        )
        cells.append(
            _estimate(*agreed[:3], f"{agreed.n:,} choices")
            if agreed
            else '<td class="n soft">not checked<small>no human choices</small></td>'
        )
        if wins.order:
            first, changed = wins.order
            cells.append(_estimate(first.rate, first.low, first.high, f"{first.n:,} pairs"))
            cells.append(_estimate(*changed[:3], f"{changed.n:,} pairs"))
        else:
            cells += ['<td class="n soft">–</td>'] * 2
        lines.append(f'<tr><th scope="row">{text(wins.measure, 200)}</th>{"".join(cells)}</tr>')
    names = ["Win rate", "At equal length", "Agrees with people", "Favours what is shown first", "Turns with the order"]
    heads = "".join(f'<th scope="col" class="n">{name}</th>' for name in names)
    note = (
        "The most trusted stands first. At equal length: the win rate had all answers been as long as their opponents. "
        "Agreement is measured on the human choices that were held out; 50% is chance. "
        "A language model judges every pair in both orders, and what the order alone decides is a tie."
    )
    return (
        f'<p class="soft">{note}</p><div class="card scroll"><table>'
        f'<thead><tr><th scope="col">Judge</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _estimate(share: float, low: float, high: float, counted: str) -> str:
    return f'<td class="n">{percent(share)}<small>[{percent(low)}, {percent(high)}] {counted}</small></td>'


def _gains(gains: Sequence[Gain]) -> str:
    if not gains:
        return ""
    labels = list(dict.fromkeys(label for gain in gains for label in gain.wins))
    lines = []
    for gain in gains:
        cells = [
            _estimate(rate.rate, rate.low, rate.high, f"{rate.n:,} pairs") if rate else '<td class="n soft">–</td>'
            for rate in map(gain.wins.get, labels)
        ]
        cells.append(
            f'<td class="n">{_minus(number(gain.kl.mean))}<small>[{_minus(number(gain.kl.low))}, '
            f"{_minus(number(gain.kl.high))}] {gain.kl.n:,} answers</small></td>"
            if gain.kl
            else '<td class="n soft">–</td>'
        )
        row = text(f"{gain.model.removeprefix('the ')} against {gain.against.removeprefix('the ')}".capitalize())
        lines.append(f'<tr><th scope="row">{row}</th>{"".join(cells)}</tr>')
    names = [*(f"Win rate by {label}" for label in labels), "KL to the other, nats per answer"]
    heads = "".join(f'<th scope="col" class="n">{text(name, 200)}</th>' for name in names)
    note = "All models answered the held-out prompts."
    if any(gain.model == SUPERVISED for gain in gains):
        note += (
            " All later training started from the supervised model: in training and in the gate KL is measured to it."
        )
    if any(gain.against == TEACHER for gain in gains):
        note += " The teacher's answers are its labels, taken at its own temperature, and those that rows brought."
    return (
        f'<p class="soft">{note}</p><div class="card scroll"><table>'
        f'<thead><tr><th scope="col">Models</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _sizes(sizes: Sequence[Size]) -> str:
    if not sizes:
        return ""
    lines = [
        f'<tr><th scope="row">{text(size.name.removeprefix("the ").capitalize(), 200)}</th>'
        + "".join(f'<td class="n">{cell}</td>' for cell in cells(size))
        + "</tr>"
        for size in sizes
    ]
    heads = "".join(f'<th scope="col" class="n">{name}</th>' for name in ("Weights", "Stored", "Tokens a second"))
    return (
        '<p class="soft">Tokens a second as each answered in this run, on its machine, once it was loaded.</p>'
        f'<div class="card scroll"><table><thead><tr><th scope="col">Model</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _regression(found: Regression | None) -> str:
    if found is None:
        return ""
    told = []
    if found.difference:
        base, tuned = found.passed
        told.append(
            f"Of {len(found.checked):,} general prompts whose answers can be checked the base model passes {base:,} and the "
            f"tuned model {tuned:,}: {points(found.difference)}."
        )
    if rate := found.win_rate:
        told.append(
            f"Where nothing can be checked (n = {rate.n:,}) the tuned model's answer wins {percent(rate.rate)} "
            f"[{percent(rate.low)}, {percent(rate.high)}] by {found.judge}."
        )
    lost = found.lost[:LEAST_PAIRS]
    if lost:
        told.append(f"What the tuned model lost{f', the first {len(lost)}' if len(lost) < len(found.lost) else ''}:")
    note = f'<p class="soft">{text(_minus(" ".join(told)))}</p>'
    if not lost:
        return note
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Prompt", "Must hold", "Base model", "Tuned model"))
    lines = "".join(
        f"<tr><td>{conversation(each.case.prompt)}</td><td>{text('; '.join(map(str, each.case.assertions)))}</td>"
        f"<td>{said(each.base)}</td><td>{said(each.tuned)}</td></tr>"
        for each in lost
    )
    return f'{note}<div class="card scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


def _numbers(summary: Summary, opponent: str) -> str:
    if not summary.rows:
        return ""
    lines = []
    for row in summary.rows:
        estimates = [(row.tuned, False)]
        if summary.compared:
            estimates = [(row.base, False), (row.tuned, False), (row.difference, True)]
        cells = []
        for estimate, sign in estimates:
            value = _minus(show(row, estimate, sign=sign))
            interval = _minus(show_interval(row, estimate, sign=sign))
            cells.append(f'<td class="n">{value}<small>{interval}</small></td>')
        counted = max(estimate.n for estimate, _ in estimates if estimate)
        lines.append(
            f'<tr><th scope="row">{text(row.label)}</th>{"".join(cells)}<td class="n soft">{counted:,}</td></tr>'
        )
    names = [opponent, "Tuned", "Difference"] if summary.compared else ["Answers"]
    heads = "".join(f'<th scope="col" class="n">{text(name, 200)}</th>' for name in names)
    heads = f'<th scope="col">Measure</th>{heads}<th scope="col" class="n">n</th>'
    return (
        f'<div class="card scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _histograms(report: RunReport, summary: Summary) -> str:
    base = [pair.base for pair in report.pairs if pair.base]
    tuned = [pair.tuned for pair in report.pairs]
    if not tuned:
        return ""

    def groups(values: dict[str, list[float]]) -> list[tuple[str, str, list[float]]]:
        named = [("base", short_name(report.opponent)), ("tuned", "tuned" if summary.compared else "answers")]
        return [(label, kind, values[kind]) for kind, label in named if values[kind]]

    lengths = {"base": [float(answer.tokens) for answer in base], "tuned": [float(answer.tokens) for answer in tuned]}
    charts = [histogram_pair("Answer length", groups(lengths), x_label="tokens", whole=True)]
    rewards = {
        "base": [answer.reward for answer in base if answer.reward is not None],
        "tuned": [answer.reward for answer in tuned if answer.reward is not None],
    }
    if rewards["tuned"]:
        charts.append(histogram_pair("Reward", groups(rewards), x_label="reward"))
    true_scores = {
        "base": [answer.true_score for answer in base if answer.true_score is not None],
        "tuned": [answer.true_score for answer in tuned if answer.true_score is not None],
    }
    if true_scores["tuned"]:
        name = report.scorer_name
        charts.append(histogram_pair(name[:1].upper() + name[1:], groups(true_scores), x_label=name))
    return grid(charts)


def _curves(history: Sequence[Mapping[str, float]], charts: Sequence[tuple[str, str, bool]]) -> list[str]:
    drawn = []
    for name, title, share in charts:
        points = [(record["step"], record[name]) for record in history if "step" in record and name in record]
        if points:
            drawn.append(line_chart(title, points, smooth=name != "learning_rate", share=share))
    return drawn


def _preference(part: PreferencePart | None) -> str:
    if part is None:
        return ""
    words, charts = _held_out(part.held_out, part.history)
    looks, at = part.held_out["looks"], (float(part.held_out["best_step"]), 0.0)

    def line(name: str) -> list[tuple[float, float]]:
        return [(float(look["step"]), float(look[name]["mean"])) for look in looks]

    named = {"tuned": ("chosen", "desirable"), "base": ("rejected", "undesirable")}  # of pairs, and of feedback
    both = [
        (name, kind, line(f"{name}_change"))
        for kind, names in named.items()
        for name in names
        if f"{name}_change" in looks[0]
    ]
    charts.append(two_lines("Held-out answers: nats gained since the start", both, mark=at))
    for name, title in (("kl", "KL of its own answers, nats per answer"), ("answer_tokens", "Its own answers, tokens")):
        if name in looks[0]:
            charts.append(two_lines(title, [("own", "tuned", line(name))], mark=at))
    warning = f"<p><strong>{text(part.warning)}</strong></p>" if part.warning else ""
    return warning + words + grid([*charts, *_curves(part.history, _PREFERENCE_CHARTS)])


def _supervised(part: SupervisedPart | None) -> str:
    if part is None:
        return ""
    words, charts = _held_out(part.held_out, part.history)
    return words + grid([*charts, *_curves(part.history, _SUPERVISED_CHARTS)])


def _held_out(curve: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> tuple[str, list[str]]:
    """Return what examples set aside said while a model learnt from others, and the curves of both."""
    looks = curve["looks"]
    returned = next(look for look in looks if look["step"] == curve["best_step"])
    beside_training = [
        ("loss", f"Loss, {curve['unit']}", 3),
        ("accuracy", "Accuracy", 3),
        ("perplexity", "Perplexity", 2),
        ("margin", "Margin times beta", 2),
    ]
    alone = [
        ("chosen", "Chosen answer, nats", 1),
        ("rejected", "Rejected answer, nats", 1),
        ("desirable_change", "Liked answers, nats gained", 1),
        ("undesirable_change", "Other answers, nats gained", 1),
        ("kl", "KL of own answers, nats", 1),
        ("answer_tokens", "Own answers, tokens", 1),
    ]
    shown = [measure for measure in beside_training + alone if measure[0] in returned]
    charts = []
    for name, heading, _ in (measure for measure in beside_training if measure in shown):
        training = [
            (float(look["step"]), fmean(values))
            for before, look in pairwise([{"step": 0}, *looks])
            if (values := [r[name] for r in history if name in r and before["step"] < r["step"] <= look["step"]])
        ]
        held_out = [(float(look["step"]), float(look[name]["mean"])) for look in looks]
        lines = [("training", "base", training), ("held out", "tuned", held_out)]
        if training:
            charts.append(two_lines(f"{heading}; dashed: returned", lines, mark=(float(returned["step"]), 0.0)))
    start = "First" if looks[0]["step"] else "Before"
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td class="n">{look["step"]:,}</td>'
        f"{''.join(_spread(look[measure], digits) for measure, _, digits in shown)}"
        f'<td class="n soft">{look["n"]:,}</td></tr>'
        for name, look in ((start, looks[0]), ("Returned", returned), ("Last", looks[-1]))
        if name == "Returned" or look is not returned
    )
    names = ("Step", *(heading for _, heading, _ in shown), "Examples")
    heads = '<th scope="col">Held out</th>' + "".join(f'<th scope="col" class="n">{text(name)}</th>' for name in names)
    table = f'<div class="card scroll gap"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"<p>{text(curve['reason'])}</p>{table}", charts


def _spread(estimate: Mapping[str, float], digits: int) -> str:
    mean, low, high = (f"{estimate[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f'<td class="n">{mean}<small>[{low}, {high}]</small></td>'


def _reinforcement(report: RunReport) -> str:
    titled = [(name, title.format(reference=report.reference), share) for name, title, share in _REINFORCEMENT_CHARTS]
    titled += [(name, title, False) for name, title in _of_parts(report.reinforcement)]
    drawn = _curves(report.reinforcement, titled)
    steps = [record for record in report.reinforcement if "kl" in record]
    if steps:
        points = [(record["kl"], record["reward"], f"step {record['step']:g}") for record in steps]
        drawn.insert(2, scatter("Reward against KL: pale early, dark late", points, x_label="KL, nats per answer"))
    note, watched = _watched(report.watch)
    curves = note + grid([*watched, *drawn])
    if curves and not any("kl" in record for record in report.reinforcement):
        curves = '<p class="soft">No KL curve: the reference model was not used in training.</p>' + curves
    return curves


def _of_parts(history: Sequence[Mapping[str, float]]) -> list[tuple[str, str]]:
    """Return the metrics of single rewards, where there are several, with what they are."""
    kinds = ((REWARD_OF, "Reward {}, mean before its weight"), (SPREAD_OF, "Reward {}, spread before its weight"))
    return [
        (metric, title.format(metric.removeprefix(prefix)))
        for metric in (history[0] if history else ())
        for prefix, title in kinds
        if metric.startswith(prefix)
    ]


def _watched(watch: Mapping[str, Any] | None) -> tuple[str, list[str]]:
    """Return what the watch saw: optimised and held-out reward, and KL, on the same prompts at every look."""
    if not watch or not watch["looks"]:
        return "", []
    looks = watch["looks"]

    def line(name: str) -> list[tuple[float, float]]:
        """Return the means less the first one, so that two rewards of different zeros share an axis."""
        found = [(float(look["step"]), float(look[name]["mean"])) for look in looks if look.get(name)]
        start = found[0][1] if found and name != "kl" else 0.0
        return [(step, value - start) for step, value in found]

    lines = [("optimised", "base", line("reward")), ("held out", "tuned", line("held_out_reward"))]
    lines = [(name, kind, points) for name, kind, points in lines if points]
    mark = (float(watch["best_step"]), 0.0)
    charts = [two_lines("Reward since the start; dashed: kept", lines, mark=mark)]
    if kl := line("kl"):
        charts.append(two_lines("KL on the same prompts, nats per answer", [("policy", "tuned", kl)], mark=mark))
    note = (
        f"At each look the policy answered the same {looks[0]['n']:,} prompts, which it did not learn from. "
        f"{watch['reason']}"
    )
    return f"<p>{text(note)}</p>", charts


def _warnings(warnings: Sequence[str]) -> str:
    items = "".join(f"<li>{text(warning)}</li>" for warning in warnings)
    return f'<div class="card"><ul>{items}</ul></div>' if items else ""


def _times(report: RunReport) -> str:
    steps, price_per_hour = report.steps, report.price_per_hour
    if not steps:
        return ""
    total = sum(step.seconds for step in steps)
    priced = price_per_hour is not None
    digits = 2 if total / 3600 * (price_per_hour or 0.0) >= 1 else 4

    def line(name: str, *cells: str) -> str:
        values = "".join(f'<td class="n">{cell}</td>' for cell in cells[: 3 if priced else 2])
        return f'<tr><th scope="row">{text(name)}</th>{values}</tr>'

    def share(seconds: float) -> str:
        part = seconds / total if total else 0.0
        return percent(part) if part >= 0.0005 else "under 0.1%"

    def cost(seconds: float) -> str:
        return f"{seconds / 3600 * (price_per_hour or 0.0):,.{digits}f}"

    rows = [
        line(step.name, '<span class="soft">from an earlier run</span>', "", cost(0))
        if step.cached
        else line(step.name, duration(step.seconds), share(step.seconds) if total else "", cost(step.seconds))
        for step in steps
    ]
    whole = line("These steps" if report.steps_note else "All steps", duration(total), "", cost(total))
    names = ("Time", "Share", "Cost")[: 3 if priced else 2]
    heads = '<th scope="col">Step</th>' + "".join(f'<th scope="col" class="n">{name}</th>' for name in names)
    note = report.steps_note or (
        f"At {price_per_hour:g} an hour, in the currency of that price; a step that an earlier run did costs nothing here."
        if priced
        else "What it cost is shown with --price-per-hour, the price of this machine: rlhf report RUN --price-per-hour 3.67."
    )
    return (
        f'<p class="soft">{note}</p><div class="card scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody><tfoot>{whole}</tfoot></table></div>"
    )


def _reward_model(part: RewardModelPart | None) -> str:
    if part is None:
        return ""
    measured = [
        ("All held-out preferences", part.accuracy),
        ("Shorter answer preferred", part.shorter_preferred),
        ("Rule “the longer answer wins”", part.longer_wins),
        ("Feedback: liked answers before others", part.feedback),
    ]
    rows = [
        IntervalRow(
            f"{label}: {percent(held.share)}",
            held.share,
            held.low,
            held.high,
            f"n = {held.n:,}",
        )
        for label, held in measured
        if held
    ]
    plot = interval_plot("Agreement with people, with its 95% interval", rows, reference_label="chance") if rows else ""
    note, held_out = _held_out(part.held_out, part.history) if part.held_out else ("", [])
    curves = grid([*held_out, *_curves(part.history, _REWARD_MODEL_CHARTS), *_calibration(part.by_margin)])
    measured_plot = f'<div class="card gap"><div class="intervals">{plot}</div></div>' if plot else ""
    by = "".join(
        f'<div class="card gap"><div class="intervals">{plot}</div></div>'
        for plot in (
            _accuracy_plot("Agreement by how far apart the two scores are", part.by_margin, ""),
            _accuracy_plot(
                "Agreement by how much longer the preferred answer is", part.by_length_difference, " tokens"
            ),
        )
        if plot
    )
    return measured_plot + by + note + curves


def _accuracy_plot(title: str, parts: Sequence[Mapping[str, float]], unit: str) -> str:
    rows = []
    for part in parts:
        span = (
            f"{number(part['low'])} to {number(part['high'])}{unit}"
            if not unit
            else (f"{_signed(part['low'])} to {_signed(part['high'])}{unit}")
        )
        rows.append(
            IntervalRow(
                f"{_minus(span)}: {percent(part['share'])}",
                part["share"],
                part["share_low"],
                part["share_high"],
                f"n = {part['n']:,.0f}",
            )
        )
    return interval_plot(title, rows, reference_label="chance") if rows else ""


def _signed(value: float) -> str:
    return f"{value:+.0f}" if round(value) else "0"


def _calibration(parts: Sequence[Mapping[str, float]]) -> list[str]:
    points = []
    for part in parts:
        words = f"predicted {percent(part['predicted'])}, right {percent(part['share'])}, n = {part['n']:,.0f}"
        points.append((part["predicted"], part["share"], part["share_low"], part["share_high"], words))
    title = "Calibration of the scores"
    return [calibration(title, points, x_label="predicted chance of being right")] if points else []


def _answers(report: RunReport, summary: Summary) -> str:
    if not report.pairs:
        return ""
    decisive = summary.measured[0] if summary.measured else None
    measure = decisive.name if decisive else "reward"
    shown: list[str] = []
    size = 0
    counts = {"win": 0, "tie": 0, "loss": 0}
    for index, pair in enumerate(report.pairs, 1):
        outcome = pair_outcome(pair, measure)
        block = _pair(index, pair, outcome, report, measure)
        size += len(block.encode())
        if index > LEAST_PAIRS and size > _ANSWER_BYTES:
            break
        shown.append(block)
        if outcome:
            counts[outcome] += 1
    notes = []
    if len(shown) < len(report.pairs):
        notes.append(f"The first {len(shown):,} of {len(report.pairs):,}; all of them are in the predictions file.")
    filters = [("all", f"All {len(shown):,}")]
    if any(counts.values()):
        by = decisive.measure if decisive else "reward"
        notes.append(f"Won, tied, lost: what the tuned model's answer did, by {text(by)}.")
        filters += [(name, f"{word} {counts[name]:,}") for name, word in _OUTCOME_WORDS.items()]
    picks = "".join(
        f'<input class="pick" type="radio" name="pick" id="{name}"{" checked" if name == "all" else ""}>'
        for name, _ in filters
    )
    labels = "".join(f'<label for="{name}">{label}</label>' for name, label in filters)
    search = (
        '<input id="search" type="search" placeholder="Search prompts and answers" aria-label="Search answers" hidden>'
    )
    if any("data-change" in block for block in shown):
        search += (
            '<select id="order" aria-label="Order of the answers" hidden><option value="">in the data\'s order</option>'
            '<option value="gain">largest gain first</option><option value="loss">largest loss first</option></select>'
        )
    note = f'<p class="soft">{" ".join(notes)}</p>' if notes else ""
    return (
        f'{note}{picks}<div class="controls">{labels}{search}<span id="shown" role="status"></span></div>'
        f'<div class="pairs">{"".join(shown)}</div>'
    )


# A minus before a number, or before its exponent.
_SIGN = re.compile(r"(?<![^\s\[(])-(?=\d)|(?<=\de)-(?=\d)")
_OUTCOME_WORDS = {"win": "Won", "tie": "Tied", "loss": "Lost"}


def _pair(
    index: int, pair: AnswerPair, outcome: Literal["win", "tie", "loss"] | None, report: RunReport, measure: str
) -> str:
    scorer_name = report.scorer_name
    change = score_change(pair, measure)
    data = f' data-change="{change:.6g}"' if change is not None else ""
    badge = f'<span class="badge {outcome}">{_OUTCOME_WORDS[outcome]}</span>' if outcome else ""
    sides = []
    if pair.base:
        sides.append(_side("base", text(_capital(short_name(report.opponent)), 200), pair.base, scorer_name))
    sides.append(_side("tuned", "Tuned" if pair.base else "Answer", pair.tuned, scorer_name))
    return (
        f'<article class="card pair {outcome or ""}"{data}><header><span class="soft">{index}</span>'
        f'<div class="ask">{conversation(pair.prompt)}</div>{badge}</header>'
        f'<div class="sides">{"".join(sides)}</div></article>'
    )


def _side(kind: str, name: str, answer: ScoredAnswer, scorer_name: str) -> str:
    shown = said(answer.text) if answer.text.strip() else '<div class="said soft"><em>empty answer</em></div>'
    scores = [f"{answer.tokens:,} token{'' if answer.tokens == 1 else 's'}"]
    if not answer.ended:
        scores.append("cut at the length limit")
    if answer.kl is not None:
        scores.insert(0, f"KL {_minus(number(answer.kl))}")
    if answer.held_out_reward is not None:
        scores.insert(0, f"held-out reward {_minus(number(answer.held_out_reward))}")
    if answer.reward is not None:
        scores.insert(0, f"reward {_minus(number(answer.reward))}")
    if answer.true_score is not None:
        scores.insert(0, f"{text(scorer_name, 100)} {_minus(number(answer.true_score))}")
    line = " · ".join(scores)
    return f'<div class="side {kind}"><h3>{name}</h3>{shown}<div class="scores">{line}</div></div>'


def _inputs(report: RunReport) -> str:
    blocks = []
    if report.command:
        blocks.append(f"<h3>Call the model</h3><pre class=command><code>{text(report.command)}</code></pre>")
    if report.reproduce:
        blocks.append(f"<h3>Run the same again</h3><pre class=command><code>{text(report.reproduce)}</code></pre>")
    if report.lineage:
        blocks.append("<h3>Lineage</h3>" + _settings(report.lineage))
    if report.files:
        blocks.append("<h3>Files</h3>" + _settings(report.files))
    if report.data:
        rows = "".join(
            f'<tr><th scope="row">{text(source.name)}'
            + (f"<br><code class=soft>{text(source.path, VALUE_BYTES)}</code>" if source.path else "")
            + f'</th><td class="n">{source.rows:,}</td>'
            f"<td><code>{text(source.fingerprint, VALUE_BYTES)}</code></td></tr>"
            for source in report.data
        )
        heads = (
            '<th scope="col">Dataset</th><th scope="col" class="n">Rows</th><th scope="col">Content fingerprint</th>'
        )
        blocks.append(
            f'<h3>Data</h3><div class="scroll"><table><thead><tr>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    settings: dict[str, object] = dict(report.parameters or {})
    if report.seed is not None:
        settings = {"seed": report.seed, **settings}
    columns = []
    if settings:
        columns.append("<div><h3>Parameters</h3>" + _settings(settings) + "</div>")
    if report.versions:
        columns.append("<div><h3>Versions</h3>" + _settings(report.versions) + "</div>")
    if columns:
        blocks.append(f'<div class="two">{"".join(columns)}</div>')
    return "".join(f'<div class="card gap">{block}</div>' for block in blocks)


def _settings(values: Mapping[str, object]) -> str:
    return values_table([(str(name), _value(value)) for name, value in values.items()])


def _minus(shown: str) -> str:
    """Write numbers with the typographic minus sign, which is as wide as the plus; a hyphen in a name stays."""
    return _SIGN.sub("−", shown)


def _value(value: object) -> str:
    if isinstance(value, str):
        return text(value, VALUE_BYTES) if value else '<span class="soft">(empty)</span>'
    return text(json.dumps(value, ensure_ascii=False, default=str), VALUE_BYTES)
