import base64
import hashlib
import json
import math
import os
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from html_page import HOSTILE, Page

from rlhf_tuning import environment
from rlhf_tuning.evaluation.comparison import AnswerPair, JudgeRecord, ScoredAnswer
from rlhf_tuning.evaluation.gate import Condition, Decision
from rlhf_tuning.evaluation.judges.verdict import Agreement, Verdict
from rlhf_tuning.evaluation.phase_gains import Gain
from rlhf_tuning.reports.report import (
    DataSource,
    Proportion,
    RewardModelPart,
    RunReport,
    StepTime,
    render_report,
    write_report,
)
from rlhf_tuning.reports.run_report import lineage
from rlhf_tuning.statistics import MeanEstimate, wilson_interval, win_rate

PLACES = [
    "Plantation Palms",
    "Gulf Shores",
    "Harbour House",
    "The Old Mill",
    "Cedar Ridge",
    "Villa Azul",
    "Fern Hollow",
]


def fake_pairs(n: int, gain: float = 0.35, seed: int = 0) -> list[AnswerPair]:
    """Answers with scores such as a run leaves: the tuned model shorter, better by `gain` on average, sometimes tied."""
    rng = random.Random(seed)
    pairs = []
    for index in range(n):
        place = PLACES[index % len(PLACES)]
        base_score, tuned_score = rng.gauss(0.42, 0.2), rng.gauss(0.42 + gain, 0.18)
        base = ScoredAnswer(
            text=f"Welcome to {place}, the ultimate destination for an unforgettable getaway! Nestled in the heart of "
            "paradise, our stunning resort offers world-class amenities that will take your breath away. Whether you "
            "are looking for adventure or relaxation, you will find it here, and",
            tokens=rng.randint(44, 64),
            ended=rng.random() < 0.2,
            reward=rng.gauss(0, 1),
            true_score=round(base_score, 1),
        )
        tuned = ScoredAnswer(
            text=f"{place} wakes to the smell of salt and warm pine. Mornings begin on the porch, with coffee and gulls.",
            tokens=max(3, round(rng.gauss(30, 7))),
            ended=rng.random() < 0.93,
            reward=rng.gauss(3.5 * gain, 0.8),
            true_score=round(tuned_score, 1),
            kl=max(0.0, rng.gauss(6, 2)),
        )
        question = f"Create a description for {place}, number {index + 1}."
        pairs.append(AnswerPair(prompt=[{"role": "user", "content": question}], base=base, tuned=tuned))
    return pairs


def fake_reinforcement(steps: int = 90) -> list[dict[str, float]]:
    rng = random.Random(3)
    return [
        {
            "step": step,
            "reward": 1.6 * (1 - math.exp(-step / 30)) + rng.gauss(0, 0.18),
            "kl": 6 * (1 - math.exp(-step / 35)) * (1 + rng.gauss(0, 0.12)),
            "entropy": 2.4 - 1.1 * (1 - math.exp(-step / 40)) + rng.gauss(0, 0.06),
            "answer_tokens": 58 - 26 * (1 - math.exp(-step / 30)) + rng.gauss(0, 2),
            "ended": min(1.0, max(0.0, 0.15 + 0.8 * (1 - math.exp(-step / 28)) + rng.gauss(0, 0.06))),
            "frac_reward_zero_std": 0.01 * (step % 3),
            "grad_norm": 24 + rng.gauss(0, 2),
            "learning_rate": 1e-4 * (1 - step / (steps + 1)),
        }
        for step in range(1, steps + 1)
    ]


def fake_reward_history(steps: int = 120) -> list[dict[str, float]]:
    rng = random.Random(4)
    return [
        {
            "step": step,
            "loss": 0.32 + 0.37 * math.exp(-step / 30) + rng.gauss(0, 0.04),
            "accuracy": min(1.0, 0.88 - 0.38 * math.exp(-step / 25) + rng.gauss(0, 0.05)),
        }
        for step in range(1, steps + 1)
    ]


def proportion(successes: int, n: int) -> Proportion:
    low, high = wilson_interval(successes, n)
    return Proportion(share=successes / n, low=low, high=high, n=n)


def realistic_report(n: int = 200, gain: float = 0.35) -> RunReport:
    return RunReport(
        title="palms-style",
        created="2 March 2026, 14:05",
        base_model="SmolLM2-135M-Instruct",
        tuned_model="models/palms-style@3",
        pairs=fake_pairs(n, gain),
        scorer_name="house style",
        reward_model=RewardModelPart(
            history=fake_reward_history(),
            accuracy=proportion(173, 200),
            shorter_preferred=proportion(135, 150),
            longer_wins=proportion(50, 200),
            held_out={
                "unit": "nats a preference",
                "looks": [
                    {
                        "step": 20 * number,
                        "n": 97,
                        "loss": around(0.7 - 0.1 * number + 0.02 * number**2),
                        "accuracy": around(0.5 + 0.05 * number),
                    }
                    for number in range(1, 6)
                ],
                "best_step": 60,
                "last_step": 100,
                "stopped": True,
                "reason": "Stopped at step 100 of 120.",
            },
        ),
        reinforcement=fake_reinforcement(),
        data=[
            DataSource(name="Preferences", rows=1200, fingerprint="sha256:" + "4f" * 32, path="data/preferences.jsonl"),
            DataSource(name="Prompts", rows=600, fingerprint="sha256:" + "9c" * 32, path="data/prompts.jsonl"),
            DataSource(name="Evaluation prompts", rows=200, fingerprint="sha256:" + "07" * 32),
        ],
        parameters={
            "large_model_reference": "smollm2-135m-instruct",
            "kl_coeff": 0.05,
            "reinforcement_learning_train_steps": 90,
            "reward_model_train_steps": 120,
            "rl_algorithm": "rloo",
            "lora_dim": 16,
            "batch_size": 16,
            "instruction": "",
            "deploy_model": False,
        },
        versions={"rlhf-pipelines": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0"},
        seed=0,
        files={"Merged model": "runs/palms-style/model", "Predictions": "runs/palms-style/predictions.jsonl"},
        command='rlhf predict --model palms-style@3 --prompt "Create a description for Fern Hollow."',
    )


def around(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.2, "high": mean + 0.2}


def look(step: int, reward: float, held_out: float | None = None) -> dict[str, Any]:
    """A look of the watch, as `watch.json` has it."""

    return {
        "step": step,
        "n": 64,
        "reward": around(reward),
        "held_out_reward": None if held_out is None else around(held_out),
        "kl": around(step / 10),
    }


WATCH = {
    "looks": [look(0, 2.0, -1.0), look(10, 3.0, -0.4), look(20, 3.5, -0.8), look(30, 3.75, -1.5)],
    "best_step": 10,
    "last_step": 30,
    "stopped": True,
    "reason": "Stopped at step 30: the held-out reward fell.",
}

CONDITIONS = (
    Condition(
        name="Beats palms@2 beyond chance",
        value="wins 55% [48%, 62%] by judge gpt-4, n = 200",
        limit="lower end above 50%, p at most 0.025",
        holds=False,
        change="About 480 evaluation prompts would show it.",
    ),
    Condition(name="KL to the base model within its limit", value="6 [5, 7] nats", limit="at most 50", holds=True),
    Condition(name="Held-out reward did not fall", value="not measured", limit="not lower", holds=None),
    Condition(name="No rise of refusals", value="-1 points [-3, +1], n = 200", limit="not higher", holds=True),
)


def share_of_40(correct: int) -> dict[str, float]:
    low, high = wilson_interval(correct, 40)
    return {"share": correct / 40, "share_low": low, "share_high": high}


BINS = [
    {"low": low, "high": low + 0.5, "n": 40, "predicted": predicted} | share_of_40(correct)
    for low, correct, predicted in ((0.0, 21, 0.56), (0.5, 26, 0.68), (1.0, 33, 0.78), (1.5, 38, 0.85))
]
LENGTH_BINS = [
    {"low": low, "high": low + 30, "n": 40} | share_of_40(correct)
    for low, correct in ((-60, 22), (-30, 27), (0, 35), (30, 39))
]


def full_report() -> RunReport:
    """A report with every part that there is."""
    report = realistic_report()
    assert report.reward_model
    return replace(
        report,
        reward_model=replace(report.reward_model, by_margin=BINS, by_length_difference=LENGTH_BINS),
        decision=Decision(champion="palms@2", conditions=CONDITIONS),
        opponent="palms@2",
        watch=WATCH,
        lineage={"Base model": "palms/tiny", "Base model, commit on the hub": "ab" * 20},
        steps=[
            StepTime(name="Validate Inputs", seconds=0, cached=True),
            StepTime(name="Reward Model Trainer", seconds=1800),
            StepTime(name="Reinforcer", seconds=5400),
        ],
        data_warnings=["The longer answer wins in 81% of the preferences."],
        reproduce="rlhf run --sample",
    )


def one_pair(prompt: str = "Ask", base: str = "Base says.", tuned: str = "Tuned says.", **scores: float) -> AnswerPair:
    return AnswerPair(
        prompt=[{"role": "user", "content": prompt}],
        base=ScoredAnswer(text=base, tokens=3, ended=True, reward=0.0, true_score=0.0),
        tuned=ScoredAnswer(text=tuned, tokens=3, ended=True, reward=scores.get("reward", 1.0), true_score=1.0),
    )


def without_scores(pairs: Sequence[AnswerPair], *names: str) -> list[AnswerPair]:
    empty = dict.fromkeys(names)
    return [
        replace(pair, tuned=replace(pair.tuned, **empty), base=pair.base and replace(pair.base, **empty))  # type: ignore[arg-type]
        for pair in pairs
    ]


def test_a_full_report_has_every_part() -> None:
    page = Page(render_report(realistic_report()))
    assert "The tuned model is better than the base model." in page.text
    for part in (
        "Base against tuned",
        "KL from base, nats per token",
        "Reinforcement learning",
        "Reward model",
        "the longer answer wins",
        "Answers side by side",
        "sha256:" + "4f" * 32,
        "reinforcement_learning_train_steps",
        "2.13.0",
        "rlhf predict --model palms-style@3",
    ):
        assert part in page.text, part
    # Two interval plots, three histograms, eight curves of RL, reward against KL, and four of the reward model.
    assert page.count("svg") == 18
    assert page.count("article", "pair") == 200


def test_the_verdict_comes_before_everything_else() -> None:
    text = Page(render_report(realistic_report())).text
    assert text.index("The tuned model is better") < text.index("Base against tuned") < text.index("Mean reward")


def test_says_plainly_when_no_difference_is_shown() -> None:
    page = Page(render_report(realistic_report(60, gain=0.0)))
    assert "No difference shown beyond chance." in page.text
    assert "no difference is shown beyond chance" in page.text
    assert page.count("section", "unclear") == 1


def test_says_plainly_when_the_tuned_model_is_worse() -> None:
    page = Page(render_report(realistic_report(100, gain=-0.4)))
    assert "The tuned model is worse than the base model." in page.text
    assert page.count("section", "worse") == 1


def test_fetches_nothing_and_runs_only_its_own_script() -> None:
    html = render_report(realistic_report(5))
    page = Page(html)
    assert not re.search(r"(?:src|href|action|srcset)=(?!\"#)", html.split("<body>")[1])
    assert "url(" not in html
    assert "@import" not in html
    policy = next(held["content"] for tag, held in page.tags if tag == "meta" and "http-equiv" in held)
    assert policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        (content,) = re.findall(f"<{kind}>(.*?)</{kind}>", html, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in policy
    # The policy would silently drop style attributes, so there must be none.
    assert not any("style" in held for _, held in page.tags)


def test_every_judge_stands_with_its_agreement_and_the_effect_of_the_order() -> None:
    pairs = [replace(pair, verdicts={"gemini": Verdict(orders=(1, 1))}) for pair in fake_pairs(40, 0.3)]
    judges = [JudgeRecord(name="gemini", label="judge <b>gemini", agreement=Agreement(0.71, 0.64, 0.77, 200))]
    page = Page(render_report(replace(realistic_report(0), pairs=pairs, judges=judges, scorer_name="house style")))
    assert "judge <b>gemini" in page.text
    assert "71%[64%, 77%] 200 choices" in page.text
    assert "50%[46%, 54%] 40 pairs" in page.text
    assert "not checkedno human choices" in page.text
    assert "<b>gemini" not in render_report(replace(realistic_report(0), pairs=pairs, judges=judges))


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_outside_stays_text(text: str) -> None:
    pair = replace(one_pair(text, f"base {text}", f"tuned {text}"))
    report = replace(
        realistic_report(0),
        title=text,
        created=text,
        base_model=text,
        tuned_model=text,
        scorer_name=text,
        pairs=[pair, replace(pair, prompt=[{"role": text, "content": text}, {"role": "user", "content": text}])],
        data=[DataSource(name=text, rows=1, fingerprint=text, path=text)],
        parameters={text: text, "nested": {text: [text]}},
        versions={text: text},
        files={text: text},
        command=text,
    )
    html = render_report(report)
    page = Page(html)
    plain = Page(render_report(replace(report, title="x"))).tags
    assert page.text.count(text) >= 15
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in Page(render_report(realistic_report(5))).tags} | {"br"}
    assert page.count("script") == page.count("style") == 1
    assert not any(name.startswith("on") for _, held in plain for name in held)


def test_direction_marks_cannot_disguise_an_answer() -> None:
    html = render_report(replace(realistic_report(0), pairs=[one_pair(tuned="safe \u202egpj.exe\u2066 end")]))
    assert "\u202e" not in html
    assert "\u2066" not in html
    assert "safe U+202Egpj.exeU+2066 end" in Page(html).text
    assert 'dir="auto"' in html


def test_characters_that_html_cannot_hold_are_replaced(tmp_path: Path) -> None:
    report = replace(
        realistic_report(0),
        pairs=[one_pair(tuned="a\x00b\x1b[31mc\ud800d\x85e")],
        title="t\ud800",
        scorer_name="s\udfff",
    )
    write_report(report, str(tmp_path / "report.html"))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a\ufffdb\ufffd[31mc\ufffdd\ufffde" in text
    assert "\x00" not in text


def test_a_very_long_answer_is_cut_and_says_so() -> None:
    page = Page(render_report(replace(realistic_report(0), pairs=[one_pair(tuned="word " * 2000)])))
    assert "more characters)" in page.text
    assert page.text.count("word ") >= 1500
    page = Page(render_report(replace(realistic_report(0), pairs=[one_pair(tuned="word " * 1000)])))
    assert "more characters)" not in page.text


# Very many answers of the kind that is drawn fastest; of the others several times what fits.
@pytest.mark.parametrize(
    ("text", "pairs"),
    [("x" * 10_000, 1000), ("'" * 10_000, 200), ("😀" * 10_000, 200), ("\u202e" * 10_000, 200)],
    ids=["many", "escaped", "of four bytes", "turned around"],
)
def test_stays_below_3_mb_and_shows_at_least_50_answers(tmp_path: Path, text: str, pairs: int) -> None:
    path = tmp_path / "report.html"
    write_report(replace(realistic_report(0), pairs=[one_pair(text, text + "a", text)] * pairs), str(path))
    assert path.stat().st_size < 3_000_000
    page = Page(path.read_text(encoding="utf-8"))
    assert 50 <= page.count("article", "pair") < pairs
    assert f"of {pairs:,}; all of them are in the predictions file." in page.text


def test_many_turns_do_not_fill_the_page() -> None:
    turns = [{"role": "user", "content": "y" * 5000}] * 500
    html = render_report(replace(realistic_report(0), pairs=[replace(one_pair(), prompt=turns)]))
    assert len(html) < 200_000
    assert "(460 more turns)" in html


def test_all_answers_are_shown_when_there_are_few() -> None:
    assert Page(render_report(realistic_report(120))).count("article", "pair") == 120


def test_filters_count_wins_ties_and_losses() -> None:
    pairs = [one_pair(tuned="Better.", reward=2.0)] * 3 + [one_pair(base="Same.", tuned="Same.")] * 2
    page = Page(render_report(replace(realistic_report(0), pairs=pairs)))
    assert "All 5" in page.text
    assert "Won 3" in page.text
    assert "Tied 2" in page.text
    assert "Lost 0" in page.text
    assert page.count("article", "win") == 3
    assert page.count("article", "tie") == 2


def test_answers_are_judged_by_reward_without_a_scorer() -> None:
    report = realistic_report(50)
    page = Page(render_report(replace(report, pairs=without_scores(report.pairs, "true_score"))))
    assert "house style" not in page.text.replace("palms-style", "")
    assert "answer did, by reward." in page.text
    assert "no independent judge" in page.text


def test_answers_without_any_scores_get_no_verdict() -> None:
    report = realistic_report(20)
    page = Page(render_report(replace(report, pairs=without_scores(report.pairs, "true_score", "reward", "kl"))))
    assert "No verdict." in page.text
    assert "KL from base, nats per token" not in page.text
    assert page.count("article", "pair") == 20


def test_one_model_alone_still_gives_a_report() -> None:
    pairs = [replace(pair, base=None) for pair in without_scores(fake_pairs(12), "true_score", "kl", "reward")]
    page = Page(render_report(RunReport(title="inference", pairs=pairs)))
    assert "One model answered 12 prompts." in page.text
    assert "Base" not in page.text.replace("Base model", "")
    assert page.count("article", "pair") == 12


def test_an_empty_run_still_gives_a_report() -> None:
    page = Page(render_report(RunReport(title="nothing")))
    assert "No answers were compared." in page.text
    assert page.count("svg") == 0


def test_a_run_without_a_reference_has_no_kl_curve_and_says_why() -> None:
    history = [{name: value for name, value in record.items() if name != "kl"} for record in fake_reinforcement(20)]
    page = Page(render_report(replace(realistic_report(0), reinforcement=history)))
    assert "No KL curve: the reference model was not used" in page.text
    assert "KL from the base model" not in page.text


def test_a_reward_model_without_a_shorter_case_leaves_it_out() -> None:
    part = RewardModelPart(accuracy=proportion(28, 40))
    page = Page(render_report(RunReport(title="reward model", reward_model=part)))
    assert "All held-out preferences: 70%" in page.text
    assert "Shorter answer preferred" not in page.text
    assert page.count("svg") == 1


def test_values_that_are_not_finite_do_not_break_the_page() -> None:
    history = [{"step": step, "reward": math.nan if step == 2 else float(step), "kl": math.inf} for step in range(1, 5)]
    html = render_report(RunReport(title="odd", reinforcement=history))
    assert Page(html).count("svg") == 3
    assert "nan" not in html.split("<body>")[1].split("<script>")[0]


def test_a_failed_write_keeps_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "report.html"
    write_report(realistic_report(3), str(path))
    before = path.read_bytes()

    def full_disk(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(realistic_report(4), str(path))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["report.html"]


def test_the_same_run_gives_the_same_report() -> None:
    assert render_report(realistic_report(30)) == render_report(realistic_report(30))


def test_the_lineage_names_revisions_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "IMAGES", "light=r/light:1,trainer=r/trainer@sha256:aa")
    model = {
        "base_model": "palms/tiny@abc",
        "base_model_fingerprint": "commit:abc",
        "warm_start_fingerprint": "sha256:w",
    }
    reward_model = {"base_model": "/models/base", "base_model_fingerprint": "sha256:1"}
    made_from = lineage(reward_model, model, {"base_model_fingerprint": "sha256:2"}, "models/palms@2")
    assert made_from == {
        "Base model": "palms/tiny",
        "Base model, commit on the hub": "abc",
        "Base of the reward model": "/models/base",
        "Base of the reward model, content fingerprint": "sha256:1",
        "Compared with": "models/palms@2",
        "Its weights": "sha256:2",
        "Adapter it started from": "sha256:w",
        "Image of the light steps": "r/light:1",
        "Image of the trainer steps": "r/trainer@sha256:aa",
    }
    text = Page(render_report(RunReport(title="t", lineage=made_from))).text
    for name, value in made_from.items():
        assert f"{name}{value}" in text
    monkeypatch.setattr(environment, "IMAGES", "")
    assert lineage(reward_model, model, {}, "")["Images"] == "none: the steps ran as processes of one machine"


def test_parameters_read_as_json() -> None:
    values: dict[str, object] = {"flag": True, "none": None, "rate": 1e-5, "list": [1, "ä"]}
    text = Page(render_report(RunReport(title="t", parameters=values, seed=7))).text
    for value in values.values():
        assert json.dumps(value, ensure_ascii=False) in text
    assert "seed7" in text


def page_of(**parts: Any) -> Page:
    return Page(render_report(RunReport(title="t", **parts)))


def titles(**parts: Any) -> list[str]:
    """Return what a pointer over the marks of the charts is told."""
    return re.findall("<title>(.*?)</title>", render_report(RunReport(title="t", **parts)).split("<body>")[1])


def test_what_its_budget_ended_stands_beside_the_verdict() -> None:
    said = "The budget, 3 h 00 min, ended reinforcement learning at step 40 of 100."
    page = page_of(budget=[said])
    assert page.text.index("No answers were compared.") < page.text.index(said)


def test_a_refused_promotion_says_which_condition_failed_and_what_would_change_it() -> None:
    page = page_of(decision=Decision(champion="palms@2", conditions=CONDITIONS))
    assert page.text.index("Not promoted: palms@2 stays champion.") < page.text.index("No answers were compared.")
    assert page.count("section", "better") == 0
    assert (
        "failsBeats palms@2 beyond chanceAbout 480 evaluation prompts would show it."
        "wins 55% [48%, 62%] by judge gpt-4, n = 200lower end above 50%, p at most 0.025" in page.text
    )
    assert "holdsKL to the base model within its limit6 [5, 7] natsat most 50" in page.text
    assert "not askedHeld-out reward did not fallnot measurednot lower" in page.text
    assert "holdsNo rise of refusals−1 points [−3, +1], n = 200not higher" in page.text


def test_a_promotion_says_so_first_and_gives_no_advice() -> None:
    conditions = tuple(replace(condition, holds=True) for condition in CONDITIONS)
    page = page_of(decision=Decision(champion="palms@2", conditions=conditions))
    assert "Promoted: the tuned model takes the place of palms@2." in page.text
    assert page.count("section", "better") == 1
    assert page.count("td", "holds") == 4
    assert page.count("td", "fails") == 0
    assert "About 480" not in page.text
    waits = page_of(decision=Decision(champion="palms@2", conditions=conditions, needs_approval=True)).text
    assert "Waits for approval: the gate lets the tuned model take the place of palms@2." in waits
    refused = page_of(decision=Decision(champion="palms@2", conditions=CONDITIONS, needs_approval=True)).text
    assert "Not promoted: palms@2 stays champion." in refused


def test_numbers_get_a_minus_and_names_keep_their_hyphen() -> None:
    condition = replace(CONDITIONS[0], value="gpt-4 of 2026-01: -0.5 [-1, 2e-05], n = 3")
    text = page_of(decision=Decision(champion="a-1", conditions=(condition,))).text
    assert "gpt-4 of 2026-01: −0.5 [−1, 2e−05], n = 3" in text


def test_watch_curves_show_both_rewards_since_the_start_and_the_step_that_was_kept() -> None:
    page = page_of(watch=WATCH)
    assert "answered the same 64 prompts, which it did not learn from. Stopped at step 30" in page.text
    assert titles(watch=WATCH) == [
        *("optimised, step 0: 0", "optimised, step 10: 1", "optimised, step 20: 1.5", "optimised, step 30: 1.75"),
        *("held out, step 0: 0", "held out, step 10: 0.6", "held out, step 20: 0.2", "held out, step 30: -0.5"),
        *("policy, step 0: 0", "policy, step 10: 1", "policy, step 20: 2", "policy, step 30: 3"),
    ]
    # Step 10 of 30 is a third of the way along the axis, in both pictures.
    marks = [held["x1"] for tag, held in page.tags if tag == "line" and held.get("class") == "limit"]
    assert marks == ["140.7", "140.7"]


def test_watch_curves_without_held_out_reward_show_the_optimised_one() -> None:
    looks = [look(0, 1.0), look(10, 1.5)]
    watch = {**WATCH, "looks": looks, "best_step": 10, "stopped": False, "reason": "Nothing to watch."}
    assert "held out" not in page_of(watch=watch).text
    assert titles(watch=watch)[:2] == ["optimised, step 0: 0", "optimised, step 10: 0.5"]
    assert page_of(watch={**watch, "looks": []}).count("svg") == 0
    no_kl = {**watch, "looks": [{**held, "kl": None} for held in looks]}
    assert page_of(watch=no_kl).count("svg") == 1


def test_reward_against_kl_is_a_dot_a_step_and_the_last_is_darkest() -> None:
    history = [{"step": step, "reward": (step / 4) ** 2, "kl": float(step)} for step in range(5)]
    html = render_report(RunReport(title="t", reinforcement=history))
    (chart,) = [svg for svg in html.split("<svg")[1:] if "Reward against KL" in svg]
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="3.5" fill-opacity="([\d.]+)"><title>(.*?)</title>', chart)
    assert [words for *_, words in dots] == [f"step {step}" for step in range(5)]
    assert [float(opacity) for *_, opacity, _ in dots] == pytest.approx([0.25, 0.44, 0.62, 0.81, 1.0], abs=0.01)
    assert [float(x) for x, *_ in dots] == pytest.approx([46, 117, 188, 259, 330])
    assert [float(y) for _, y, *_ in dots] == pytest.approx([188, 179.2, 153, 109.2, 48], abs=0.1)


def test_calibration_and_agreement_stand_by_bins_with_their_n() -> None:
    part = RewardModelPart(by_margin=BINS, by_length_difference=LENGTH_BINS)
    page = page_of(reward_model=part)
    assert titles(reward_model=part) == [
        *("0.00 to 0.50: 52%: 52.5% [37.5%, 67.1%]", "0.50 to 1.00: 65%: 65.0% [49.5%, 77.9%]"),
        *("1.00 to 1.50: 82%: 82.5% [68.1%, 91.3%]", "1.50 to 2.00: 95%: 95.0% [83.5%, 98.6%]"),
        *("−60 to −30 tokens: 55%: 55.0% [39.8%, 69.3%]", "−30 to 0 tokens: 68%: 67.5% [52.0%, 79.9%]"),
        *("0 to +30 tokens: 88%: 87.5% [73.9%, 94.5%]", "+30 to +60 tokens: 98%: 97.5% [87.1%, 99.6%]"),
        *("predicted 56%, right 52%, n = 40", "predicted 68%, right 65%, n = 40"),
        *("predicted 78%, right 82%, n = 40", "predicted 85%, right 95%, n = 40"),
    ]
    # The first dot stands at 56% between 50% and 100%, and at 52.5% between 20% and 100%.
    dots = [(held["cx"], held["cy"]) for tag, held in page.tags if tag == "circle" and held.get("class") == "dot"]
    assert dots[0] == ("80.1", "131.1")
    assert page.text.count("n = 40") == 8 + 4  # beside every row, and in the words of the calibration's dots
    assert page_of(reward_model=RewardModelPart()).count("svg") == 0


STEPS = (
    StepTime(name="Validate Inputs", seconds=0, cached=True),
    StepTime(name="Reward Model Trainer", seconds=1800),
    StepTime(name="Reinforcer", seconds=5400),
    StepTime(name="Upload Model", seconds=1),
)


def test_times_of_steps_come_with_their_share_and_say_how_to_see_the_cost() -> None:
    text = page_of(steps=STEPS).text
    assert "rlhf report RUN --price-per-hour 3.67" in text
    assert "StepTimeShareValidate Inputsfrom an earlier runReward Model Trainer30 min 00 s25%" in text
    assert "Reinforcer1 h 30 min75%Upload Model1 sunder 0.1%All steps2 h 00 min" in text
    assert "Cost" not in text


def test_a_price_per_hour_gives_the_cost_of_every_step_and_of_all() -> None:
    text = page_of(steps=STEPS, price_per_hour=3.67).text
    assert "At 3.67 an hour" in text
    assert "StepTimeShareCostValidate Inputsfrom an earlier run0.00Reward Model Trainer30 min 00 s25%1.83" in text
    assert "Reinforcer1 h 30 min75%5.50Upload Model1 sunder 0.1%0.00All steps2 h 00 min7.34" in text
    cached = page_of(steps=STEPS[:1], price_per_hour=3.67).text
    assert "Validate Inputsfrom an earlier run0.0000All steps0 s0.0000" in cached


def test_times_of_a_part_of_the_run_are_not_told_as_those_of_all_of_it() -> None:
    text = page_of(steps=STEPS, steps_note="Those after this page are not listed.").text
    assert "Time by stepThose after this page are not listed.Step" in text
    assert "These steps2 h 00 min" in text
    assert "All steps" not in text
    assert "--price-per-hour" not in text


def test_warnings_about_the_data_are_a_list_and_no_warning_is_no_list() -> None:
    page = page_of(data_warnings=["The longer answer wins.", "12 prompts are in both."])
    assert page.count("li") == 2
    assert "The longer answer wins." in page.text
    assert "Warnings about the data" not in page_of().text


def test_what_the_order_of_the_answers_does_to_a_judge_is_told() -> None:
    turned = [Verdict(orders=(1, 1)), Verdict(orders=(1, 1)), Verdict(orders=(1, 1)), Verdict(orders=(-1, 1))]
    pairs = [replace(pair, verdicts={"llm": turned[index % 4]}) for index, pair in enumerate(fake_pairs(40))]
    known = [JudgeRecord(name="llm", label="judge", agreement=Agreement(0.48, 0.41, 0.55, 200), notes=("capped",))]
    text = page_of(pairs=without_scores(pairs, "reward", "true_score"), judges=known).text
    assert "48%[41%, 55%] 200 choices" in text
    assert "no better than chance, so do not rely on it" in text
    first, changed = re.findall(r"(\d+)%\[\d+%, \d+%\] 40 pairs", text)[-2:]
    assert (first, changed) == ("62", "25")
    assert "Judge: capped." in text


#: What a text from outside looks like on the page.
SHOWN = {
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    '" onload="alert(1)': '" onload="alert(1)',
    "a\u202egpj\u2066.exe": "aU+202EgpjU+2066.exe",
    "half \ud800 and \x00 nul": "half \ufffd and \ufffd nul",
    "smile 😀👩‍👩‍👧": "smile 😀👩‍👩‍👧",
    "你好，世界": "你好，世界",
    "مرحبا بالعالم": "مرحبا بالعالم",
}


def judged(**record: Any) -> dict[str, Any]:
    pair = replace(one_pair(), verdicts={"llm": Verdict(orders=(1, 1))})
    return {"pairs": [pair], "judges": [JudgeRecord(**{"name": "llm", "label": "judge", **record})]}


def with_text(text: str) -> dict[str, dict[str, Any]]:
    """Return, for every place of the report that a text from outside can come to, a report with it there alone."""

    def condition(**changes: Any) -> dict[str, Any]:
        return {"decision": Decision(champion="c", conditions=(replace(CONDITIONS[0], **changes),))}

    return {
        "champion": {"decision": Decision(champion=text, conditions=())},
        "condition": condition(name=text),
        "value": condition(value=text),
        "limit": condition(limit=text),
        "change": condition(change=text),
        "opponent": {"opponent": text, "pairs": [one_pair()]},
        "watch": {"watch": {**WATCH, "reason": text}},
        "lineage": {"lineage": {"Base model": text}},
        "lineage name": {"lineage": {text: "x"}},
        "step": {"steps": [StepTime(name=text, seconds=1)]},
        "warning": {"data_warnings": [text]},
        "judge": judged(label=text),
        "note of a judge": judged(notes=(text,)),
        "scorer": {"scorer_name": text, "pairs": [one_pair()]},
        "command": {"reproduce": text},
    }


@pytest.mark.parametrize("place", with_text(""))
def test_text_from_outside_stays_text_in_every_place(place: str) -> None:
    usual = render_report(RunReport(title="t", **with_text("x")[place]))
    for text, shown in SHOWN.items():
        html = render_report(RunReport(title="t", **with_text(text)[place]))
        page = Page(html)
        assert shown in page.text, text
        assert html.count("<script") == 1
        assert not re.search("[\u202e\u2066\ud800\x00]", html)
        marks = [(tag, sorted(held)) for tag, held in page.tags if held.get("class") != "mark"]
        assert marks == [(tag, sorted(held)) for tag, held in Page(usual).tags], text


def test_what_each_phase_brought_is_told_and_which_model_kl_is_measured_to():
    gains = [
        Gain(
            model="the supervised model",
            against="the base model",
            wins={"house style": win_rate(30, 4, 6)},
            kl=MeanEstimate(12.0, 11.0, 13.0, 40),
        ),
        Gain(model="the tuned model", against="the supervised model", wins={}),
    ]
    report = RunReport(title="t", pairs=fake_pairs(8), reference="supervised", gains=gains)
    page = render_report(report)
    section = Page(
        "<section>" + page.split('id="phases"')[1].split(">", 1)[1].split("</section>")[0] + "</section>"
    ).text
    assert "Supervised model against base model" in section
    assert "80%" in section
    assert "12.0" in section
    assert 'id="phases"' not in render_report(RunReport(title="t", pairs=fake_pairs(8)))
