import json
from dataclasses import replace
from typing import Any

import pytest
from html_page import HOSTILE, Page
from method_contest import HELD_OUT, REWARD, SCORER, contest

from rlhf_tuning.evaluation.method_comparison import MethodComparison
from rlhf_tuning.reports.methods_report import MethodsReport, methods_text, render_methods


def report(found: MethodComparison | None = None, **changed: Any) -> MethodsReport:
    return MethodsReport(
        **{
            "found": found or contest(),
            "base_model": "smollm2-135m-instruct",
            "created": "2026-11-29 21:00",
            "budget": "5 minutes",
            "price_per_hour": 3.67,
            "data": {"preferences": 850, "eval prompts": 150},
            "parameters": {"lora_dim": 16, "judge": ""},
            "models": {"RLHF, seed 0": "rlhf predict --model rlhf-seed-0@1"},
            "command": "rlhf compare-methods --sample --seeds 0 1 2",
        }
        | changed
    )


def test_the_page_has_the_advice_each_against_each_and_what_it_cost() -> None:
    page = Page(render_methods(report()))
    assert page.count("table", "heat") == 3
    assert "Take best of 8: by house style" in page.text
    for words in (
        "the advice rests on it",
        "no ground for advice",
        "at most 1.20",
        "p (Holm)",
        "Over the seeds",
        "3 seeds",
    ):
        assert words in page.text
    assert page.count("article", "pair") == 40
    assert page.count("td", "ahead") == page.count("td", "behind") > 0


def test_a_difference_that_is_shown_is_bold_and_no_other() -> None:
    found = contest(judges=[SCORER])
    shown = sum(duel.outcome != "unclear" for duel in found.tables[0].duels.values())
    html = render_methods(report(found))
    matrix = html[html.index('<table class="heat">') :].split("</table>")[0]
    assert matrix.count("<b>") == 2 * shown > 0


def test_one_seed_has_no_columns_for_several() -> None:
    text = Page(render_methods(report(contest(seeds=(0,))))).text
    assert "Over the seeds:" in text
    assert "Each seed" not in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_models_and_people_wrote_is_shown_and_nothing_more(hostile: str) -> None:
    found = contest(count=30)
    answers = {
        seed: [replace(answer, text=hostile) for answer in given] for seed, given in found.methods[0].answers.items()
    }
    methods = [replace(found.methods[0], answers=answers, label=hostile), *found.methods[1:]]
    prompts = [[{"role": "user", "content": hostile}] for _ in found.prompts]
    tables = [replace(table, label=hostile) for table in found.tables]
    hostile_found = replace(found, prompts=prompts, methods=methods, tables=tables, notes=[hostile])
    made = report(hostile_found, base_model=hostile, parameters={"judge": hostile}, command=hostile)
    page = Page(render_methods(made))
    kept = {"script", "style", "svg"}
    assert {tag for tag, _ in page.tags} & (kept | {"img"}) == kept
    assert page.count("script") == 1
    assert not any(name.startswith("on") for _, held in page.tags for name in held)


def test_the_text_is_markdown_of_the_same_numbers() -> None:
    found = contest()
    lines = methods_text(report(found)).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in rows[:6]}) == 1
    rate = found.decisive.duel("best_of_n", "base").rate.rate
    assert any(line.startswith("| best of 8 beats the base model ") and f"| {rate:.0%} [" in line for line in rows)
    assert lines[0].startswith("Take best of 8")
    json.dumps(found.as_json(), allow_nan=False)


def test_nobody_who_judged_is_no_failure() -> None:
    found = contest(judges=[replace(HELD_OUT, agreement=None), replace(REWARD, agreement=None)])
    assert "No advice" in Page(render_methods(report(found))).text
    assert methods_text(report(found)).startswith("No advice")
    assert "No advice" in Page(render_methods(report(replace(found, tables=[])))).text
