import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.reports.test_report import SHOWN, full_report, judged, one_pair, realistic_report, with_text

from rlhf_tuning.errors import DataError
from rlhf_tuning.evaluation.comparison import JudgeRecord
from rlhf_tuning.evaluation.gate import Decision
from rlhf_tuning.evaluation.judges.verdict import Agreement, Verdict
from rlhf_tuning.evaluation.phase_gains import Gain
from rlhf_tuning.evaluation.regression_suite import Answered, Assertion, Case, Regression
from rlhf_tuning.reports.report import PreferencePart, RunReport, SupervisedPart, render_report
from rlhf_tuning.reports.saved_report import add_report, read_report
from rlhf_tuning.statistics import MeanEstimate, win_rate


def read_back(report: RunReport, folder: Path) -> RunReport:
    """Return the report from an evaluation file, whose other parts are as `evaluate.write_evaluation` writes them."""
    path = folder / "evaluation"
    judges = [asdict(judge) | {"agreement": judge.agreement and judge.agreement._asdict()} for judge in report.judges]
    content = {"metrics": {}, "judges": judges, "answers": [asdict(pair) for pair in report.pairs]}
    path.write_text(json.dumps(content), encoding="utf-8")
    add_report(report, str(path))
    return read_report(path)


def test_a_report_that_was_read_back_looks_the_same(tmp_path: Path) -> None:
    report = full_report()
    pairs = [replace(pair, verdicts={"llm": Verdict(orders=(-1, 1))}) for pair in report.pairs[:60]]
    judge = JudgeRecord(name="llm", label="judge", agreement=Agreement(0.7, 0.6, 0.8, 100), notes=("capped",))
    gain = Gain(
        model="the tuned model",
        against="the base model",
        wins={"judge": win_rate(9, 1, 2)},
        kl=MeanEstimate(3.0, 2.0, 4.0, 12),
    )
    report = replace(
        report,
        pairs=pairs,
        judges=[judge],
        price_per_hour=3.67,
        gains=[gain],
        budget=["It ended."],
        reference="supervised",
    )
    html = render_report(report)
    assert "What each phase brought" in html
    assert "At 3.67 an hour" in html
    assert render_report(read_back(report, tmp_path)) == html


WAITS = RunReport(title="waits", decision=Decision(champion="the base model", conditions=(), needs_approval=True))


@pytest.mark.parametrize("report", [RunReport(title="empty"), replace(realistic_report(0), seed=None), WAITS])
def test_what_a_report_lacks_is_still_lacking_when_it_was_read_back(tmp_path: Path, report: RunReport) -> None:
    assert render_report(read_back(report, tmp_path)) == render_report(report)


@pytest.mark.parametrize("text", SHOWN)
def test_no_text_is_changed_on_the_way_to_the_file_and_back(tmp_path: Path, text: str) -> None:
    parts: dict[str, Any] = {}
    for part in with_text(text).values():
        parts |= part
    parts |= judged(label=text, notes=(text,)) | {"pairs": [one_pair(text, text, f"{text} tuned")]}
    report = RunReport(title=text, **parts)
    assert render_report(read_back(report, tmp_path)) == render_report(report)


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"answers": [], "judges": [], "report": {}})])
def test_another_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "evaluation"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="evaluation is damaged, or not by this version"):
        read_report(path)
    with pytest.raises(DataError, match=r"Cannot read .*absent: No such file"):
        read_report(tmp_path / "absent")


def test_preference_tuning_is_shown_by_what_became_of_held_out_pairs_and_read_back(tmp_path: Path) -> None:
    def around(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}

    names = ("accuracy", "margin", "chosen", "rejected", "chosen_change", "rejected_change", "kl", "answer_tokens")
    looks = [
        {"step": step, "n": 9, "loss": around(loss), **{name: around(step / 10) for name in names}}
        for step, loss in ((0, 0.69), (20, 0.5), (40, 0.55))
    ]
    held_out = {"unit": "sigmoid", "looks": looks, "best_step": 20, "reason": "Step 20 is returned."}
    history = [{"step": step, "loss": 0.6, "accuracy": 0.7, "margin": 0.1, "grad_norm": 1.0} for step in range(1, 41)]
    report = RunReport(
        title="Preferences",
        preference=PreferencePart(history=history, held_out=held_out, warning="Chosen answers lost."),
    )
    html = render_report(report)
    assert 'id="preference"' in html
    assert "<strong>Chosen answers lost.</strong>" in html
    for heading in ("Accuracy", "Margin times beta", "Chosen answer, nats", "KL of own answers, nats"):
        assert f">{heading}</th>" in html
    assert "Held-out answers: nats gained since the start" in html
    assert render_report(read_back(report, tmp_path)) == html


def test_what_a_regression_suite_says_is_shown_with_what_was_lost_and_read_back(tmp_path: Path) -> None:
    prompt, asserted = [{"role": "user", "content": "Capital of <France>?"}], (Assertion("icontains", "paris"),)
    answered = [
        Answered(case=Case(prompt, asserted), base="Paris", tuned="A sunny place."),  # type: ignore[arg-type]
        Answered(case=Case(prompt), base="a", tuned="b", verdict=Verdict(orders=(1.0, 1.0))),  # type: ignore[arg-type]
    ]
    report = RunReport(title="Suite", regression=Regression(answered=answered, judge="judge gpt-4"))
    html = render_report(report)
    assert "the base model passes 1 and the tuned model 0: −100 points" in html
    assert "the tuned model&#x27;s answer wins 100%" in html
    assert "Capital of &lt;France&gt;?" in html
    assert "icontains &quot;paris&quot;" in html
    assert "A sunny place." in html
    assert render_report(read_back(report, tmp_path)) == html


def test_tuning_on_feedback_is_shown_by_what_liked_and_other_answers_gained() -> None:
    names = ("margin", "desirable_change", "undesirable_change", "reference_point")
    looks = [
        {"step": at, "n": 9, **{name: {"mean": at, "low": at - 1, "high": at + 1} for name in ("loss", *names)}}
        for at in (0, 20)
    ]
    held_out = {"unit": "kto", "looks": looks, "best_step": 20, "reason": "Step 20 is returned."}
    html = render_report(RunReport(title="Thumbs", preference=PreferencePart(history=[], held_out=held_out)))
    for heading in ("Margin times beta", "Liked answers, nats gained", "Other answers, nats gained"):
        assert f">{heading}</th>" in html
    assert "undesirable" in html


def test_supervised_tuning_is_shown_by_its_held_out_loss_and_read_back(tmp_path: Path) -> None:
    looks = [
        {
            "step": step,
            "n": 9,
            "loss": {"mean": loss, "low": loss - 0.1, "high": loss + 0.1},
            "perplexity": {"mean": math.exp(loss), "low": 1.0, "high": 99.0},
        }
        for step, loss in ((0, 3.0), (20, 2.0), (40, 2.5))
    ]
    reason = "The checkpoint, step 20, is returned: it has the lowest loss."
    held_out = {"unit": "nats a <token>", "looks": looks, "best_step": 20, "reason": reason}
    history = [{"step": step, "loss": 3 - step / 40, "learning_rate": 1e-4} for step in range(1, 41)]
    report = RunReport(
        title="Supervised",
        supervised=SupervisedPart(history=history, held_out=held_out),
    )
    html = render_report(report)
    assert 'id="supervised"' in html
    assert reason in html
    assert html.count('<th scope="row">Before</th>') == html.count('<th scope="row">Last</th>') == 1
    assert ">Loss, nats a &lt;token&gt;</th>" in html
    assert "<token>" not in html
    assert "7.39" in html  # the perplexity of what is returned
    assert render_report(read_back(report, tmp_path)) == html
