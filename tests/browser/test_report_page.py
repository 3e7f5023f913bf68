"""The report in a real browser: it filters, sorts, searches, can be read and reached; hostile answers do nothing."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from tests.unit.reports.test_methods_report import report as methods_report
from tests.unit.reports.test_report import full_report, one_pair, realistic_report

from rlhf_tuning.evaluation.comparison import AnswerPair
from rlhf_tuning.reports.methods_report import MethodsReport, render_methods
from rlhf_tuning.reports.report import RunReport, render_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "</article></main><svg onload=window.hacked=1>",
    'javascript:window.hacked=1 " onmouseover="window.hacked=1',
    "\ud800 broken \udfff and \x00\x1b[31m",
    "\u202eright to left override \u2066 \u200f",
    "w" * 100_000,
    "<!-- <style>body{display:none}</style>",
    "مرحبا بالعالم 你好，世界 👩‍👩‍👧‍👦",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    flags = ["--no-sandbox"]
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=flags) as launched:
        yield launched


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A function that opens a report; at the end nothing may have been complained of, asked for, or run."""
    complaints: list[str] = []
    contexts = []

    def open_report(report: RunReport | MethodsReport, **settings: Any) -> Any:
        path = tmp_path / "report.html"
        html = render_report(report) if isinstance(report, RunReport) else render_methods(report)
        path.write_text(html, encoding="utf-8", errors="replace")
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: complaints.append(request.url) if "report.html" not in request.url else None)
        page.goto(path.as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert complaints == []


def visible(page: Any) -> Any:
    return page.locator(".pair:visible")


def test_answers_are_filtered_searched_and_sorted(opened: Any) -> None:
    page = opened(full_report())
    everything = visible(page).count()
    assert everything >= 50
    for pick in ("win", "loss", "all"):
        page.locator(f"label[for={pick}]").click()
        wanted = everything if pick == "all" else page.locator(f".pair.{pick}").count()
        assert 0 < visible(page).count() == wanted
        assert page.locator("#shown").inner_text().startswith(f"{wanted} of {everything}")
    word = visible(page).nth(3).locator(".ask .said").inner_text().split()[-1]
    page.fill("#search", word)
    assert 0 < visible(page).count() < everything
    page.fill("#search", "")
    for order, best in (("gain", max), ("loss", min)):
        page.select_option("#order", order)
        changes = [
            float(value) for value in page.locator(".pair").evaluate_all("all => all.map(x => x.dataset.change)")
        ]
        assert changes[0] == best(changes)
        assert changes == sorted(changes, reverse=order == "gain")


def test_the_filters_can_be_reached_and_used_with_the_keyboard_alone(opened: Any) -> None:
    page = opened(full_report())
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "all":
            page.keyboard.press("ArrowRight")
            assert page.evaluate("document.activeElement.id") == "win"
            assert visible(page).count() == page.locator(".pair.win").count()
        if reached[-1] == "order":
            break
    assert {"all", "search", "order"} <= set(reached)


def test_hostile_answers_are_shown_and_do_nothing(opened: Any) -> None:
    pairs = [one_pair(prompt=text, base=text, tuned=text) for text in HOSTILE]
    ordinary: AnswerPair = one_pair(prompt="The last one")
    report = replace(full_report(), pairs=[*pairs, ordinary], title=HOSTILE[0], opponent=HOSTILE[1])
    page = opened(report)
    page.mouse.wheel(0, 5000)
    page.locator(".pair .side").first.hover()
    assert page.evaluate("window.hacked") is None
    assert visible(page).count() == len(pairs) + 1
    assert "<script>window.hacked = 1</script>" in page.locator(".pair").first.inner_text()
    # Nothing pushes the page wider than the window.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("report", [full_report(), methods_report()], ids=["run", "methods"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened: Any, scheme: str, report: RunReport | MethodsReport) -> None:
    page = opened(report, color_scheme=scheme, bypass_csp=True)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_methods_against_each_other_are_no_wider_than_a_telephone(opened: Any) -> None:
    page = opened(methods_report(), viewport={"width": 400, "height": 900})
    assert page.locator("table.heat").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_thousand_answers_stay_below_3_mb_and_open(opened: Any) -> None:
    report = realistic_report(n=1000)
    assert len(render_report(report).encode()) < 3_000_000
    assert visible(opened(report)).count() >= 50


def test_paper_takes_the_first_answers_that_are_shown_and_cuts_nothing_off(opened: Any) -> None:
    report = realistic_report()
    page = opened(replace(report, pairs=report.pairs * (1 + 60 // len(report.pairs))))
    pairs = page.locator(".pair").count()
    assert pairs > 60
    page.set_viewport_size({"width": 700, "height": 1000})  # about as wide as a sheet
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".pair:visible").count() == 30
    assert page.locator(".printed").inner_text() == f"Printed: 30 of {pairs}. The file itself shows all."
    beyond = (
        "Array.from(document.querySelectorAll('main *')).filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    )
    assert page.evaluate(f"{beyond}.map(e => e.outerHTML.slice(0, 80))") == []
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert page.locator(".pair:visible").count() == pairs
    assert not page.locator(".printed").is_visible()
