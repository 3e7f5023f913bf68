"""The page that the smoke pipeline ends in: what works here and, for what does not, what to do."""

from collections.abc import Sequence

from rlhf_tuning.reports.page import VALUE_BYTES, Section, render_page, text, write_page
from rlhf_tuning.smoke.checks import FAILS, NOTE, WORKS, Check

_MARKS = {WORKS: ("holds", "yes"), FAILS: ("fails", "NO"), NOTE: ("soft", "·")}


def write_smoke_page(checks: Sequence[Check], path: str, facts: Sequence[tuple[str, str]] = ()) -> str:
    """Write the page at `path`, and return what fails, a line each with what to do; empty where all works."""
    steps = list(dict.fromkeys(check.step for check in checks))
    page = render_page(
        kicker="RLHF smoke test",
        title="What works here",
        facts=facts,
        verdict=_verdict(checks),
        sections=[
            Section(f"step-{index}", text(step, VALUE_BYTES), _table([check for check in checks if check.step == step]))
            for index, step in enumerate(steps)
        ],
        footer="Each line was tried by the step under whose name it stands.",
    )
    write_page(page, path)
    return "\n".join(f"{where}: {check.name}: {check.seen}. {check.remedy}" for where, check in _failures(checks))


def _failures(checks: Sequence[Check]) -> list[tuple[str, Check]]:
    """Return every check that fails, with its step; what fails alike in several steps once, with all of them."""
    alike: dict[tuple[str, str, str], list[Check]] = {}
    for check in checks:
        if check.state == FAILS:
            alike.setdefault((check.name, check.seen, check.remedy), []).append(check)
    return [(", ".join(check.step for check in same), same[0]) for same in alike.values()]


def _verdict(checks: Sequence[Check]) -> str:
    failed = sum(check.state == FAILS for check in checks)
    tried = sum(check.state != NOTE for check in checks)
    if failed:
        headline = f"Not everything works here: {failed} of {tried} tries failed."
        items = "".join(
            f"<li><b>{text(check.name, VALUE_BYTES)}</b> ({text(where, VALUE_BYTES)}): {text(check.seen, VALUE_BYTES)}. "
            f"{text(check.remedy, VALUE_BYTES)}</li>"
            for where, check in _failures(checks)
        )
        body = f"<p>Mend this before the first run:</p><ol>{items}</ol>"
    else:
        headline = f"All that a tuning run needs works here: {tried} tries, none failed."
        body = "<p>Submit the first run.</p>"
    state = "worse" if failed else "better"
    return (
        f'<section class="card verdict {state}" aria-label="Verdict"><p class="headline">{headline}</p>{body}</section>'
    )


def _table(checks: Sequence[Check]) -> str:
    lines = "".join(
        f'<tr><td class="state {_MARKS[check.state][0]}">{_MARKS[check.state][1]}</td>'
        f'<th scope="row">{text(check.name, VALUE_BYTES)}</th>'
        f'<td class="wrap">{text(check.seen, VALUE_BYTES)}'
        f"{f'<br><b>{text(check.remedy, VALUE_BYTES)}</b>' if check.remedy else ''}</td></tr>"
        for check in checks
    )
    head = "<tr><th>Works</th><th>What</th><th>What was seen</th></tr>"
    return f'<div class="scroll"><table class="conditions"><thead>{head}</thead><tbody>{lines}</tbody></table></div>'
