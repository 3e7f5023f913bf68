import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from html_page import HOSTILE, Page

from rlhf_tuning.data.problems import CODES, Problem
from rlhf_tuning.data.summary import DatasetSummary, DataSummary, Example, Finding, Lengths, SampledRow
from rlhf_tuning.reports.data_report import render_data_report, write_data_report

LENGTHS = tuple(random.Random(0).randint(1, 120) for _ in range(500))
PREFERENCES = DatasetSummary(
    parameter="preference_dataset",
    reference="data/*.jsonl",
    kind="preference",
    files=2,
    rows=12_345,
    set_aside=7,
    distinct_prompts=12_000,
    fingerprint="sha256:" + "ab" * 32,
    formats={"vertex_text": 12_345},
    first_chosen=9_000,
    longer_chosen=7_000,
    equally_long=45,
    sampled=500,
    lengths=(
        Lengths(part="prompt", unit="tokens", values=LENGTHS, limit=512),
        Lengths(part="chosen", unit="tokens", values=LENGTHS, limit=64),
        Lengths(part="rejected", unit="tokens", values=LENGTHS, limit=64),
    ),
    scripts={"Latin": 490, "Cyrillic": 10},
    epochs=5.2,
    examples=(
        SampledRow(
            location="data/a.jsonl:17",
            prompt=[{"role": "user", "content": "Describe the harbour."}],
            chosen="Salt and warm bread.",
            rejected="A breathtaking gem!",
        ),
    ),
)
PROMPTS = DatasetSummary(
    parameter="prompt_dataset",
    reference="prompts.jsonl",
    kind="prompt",
    files=1,
    rows=40,
    set_aside=0,
    distinct_prompts=40,
    fingerprint="sha256:" + "cd" * 32,
    formats={"trl_standard": 40},
    sampled=40,
    lengths=(Lengths(part="prompt", unit="characters", values=tuple(range(1, 41))),),
    scripts={"Latin": 40},
)
BIAS = Finding(
    code="position_bias",
    parameter="preference_dataset",
    message="choice is 0 in 72.9% of the rows.",
    examples=(Example("data/a.jsonl:3", "the same as data/b.jsonl:9"),),
)
GOOD = DataSummary(datasets=(PREFERENCES, PROMPTS))


def shown(summary: DataSummary) -> str:
    return Page(render_data_report(summary)).text


def problem(code: str, line: int) -> Problem:
    return Problem(code, "preference_dataset", "bad.jsonl", line, "choice", '"1" (a string)', "0 or 1")


def test_many_warnings_are_listed_by_their_first_words_with_links_to_them() -> None:
    findings = tuple(replace(BIAS, code=f"code_{n}", message=f"Found {n}: why <b>. What to do.") for n in range(5))
    html = render_data_report(replace(GOOD, findings=findings))
    assert html.count('href="#warning-') == html.count('id="warning-') == 5
    assert "<td>Found 3</td>" in html
    assert 'href="#warning-' not in render_data_report(replace(GOOD, findings=findings[:3]))


def test_problems_that_say_the_same_are_counted_where_one_of_them_is_shown() -> None:
    extra = problem("extra_field", 4)._replace(field="id")
    summary = replace(GOOD, problem_counts={"extra_field": 40}, problems=(extra,), repeats={extra: 30}, usable=False)
    text = shown(summary)
    assert "and 30 more that say the same" in text
    assert "and 9 more problems" in text


def test_how_to_mend_a_dataset_is_told_with_its_command() -> None:
    extra = problem("extra_field", 4)
    advice = ("id is left out.\npython3 -c '<b>'",)
    text = shown(replace(GOOD, problem_counts={"extra_field": 1}, problems=(extra,), advice=advice, usable=False))
    assert "id is left out." in text
    assert "python3 -c '<b>'" in text


def test_the_verdict_comes_first_and_says_whether_the_data_can_be_used() -> None:
    text = shown(replace(GOOD, datasets=(replace(PREFERENCES, set_aside=0),)))
    assert text.index("The data can be used.") < text.index("12,345")
    assert "The data can be used, with 1 warning." in shown(replace(GOOD, findings=(BIAS,)))
    refused = replace(
        GOOD,
        usable=False,
        problem_counts={"wrong_type": 2},
        problems=(problem("wrong_type", 4), problem("wrong_type", 9)),
    )
    assert "The data cannot be used: 2 problems." in shown(refused)


def test_every_dataset_has_its_figures_with_their_n() -> None:
    text = shown(GOOD)
    for figure in ("12,345", "12,000", "vertex_text", "trl_standard", "sha256:" + "ab" * 32, "data/*.jsonl"):
        assert figure in text
    assert "Measured on a sample: 500 of 12,345 rows." in text
    assert "Measured on all 40 rows." in text
    assert "They are in characters" in text
    assert "n = 12,345" in text
    assert "n = 12,300; 45 of equal length left out" in text
    assert "5.2" in text


def test_a_sample_is_told_from_all_rows() -> None:
    assert "Which answer is preferred is counted in all rows." in shown(GOOD)
    assert "sample" not in shown(DataSummary(datasets=(replace(PREFERENCES, sampled=12_345),)))


def test_rows_set_aside_on_purpose_are_no_problems_of_the_data() -> None:
    summary = replace(GOOD, problem_counts={"wrong_type": 7}, problems=(problem("wrong_type", 4),))
    text = shown(summary)
    assert "The data can be used." in text
    assert "7 bad rows were set aside" in text
    assert "What was set aside" in text
    assert "bad.jsonl:4" in text
    one = replace(GOOD, datasets=(replace(PREFERENCES, set_aside=1),))
    assert "1 bad row was set aside" in shown(one)


def test_the_state_of_the_verdict_can_be_seen() -> None:
    for summary, state in (
        (GOOD, "better"),
        (replace(GOOD, findings=(BIAS,)), "warned"),
        (replace(GOOD, findings=(BIAS,), usable=False), "worse"),
    ):
        assert Page(render_data_report(summary)).count("section", state) == 1


def test_the_whole_fingerprint_can_be_copied_from_a_short_one() -> None:
    page = Page(render_data_report(GOOD))
    (clip, _) = [held for tag, held in page.tags if tag == "span" and held.get("class") == "clip"]
    assert clip["title"] == PREFERENCES.fingerprint
    assert page.text.count(PREFERENCES.fingerprint) == 1


def test_the_page_fetches_nothing_and_has_no_style_that_its_policy_would_drop() -> None:
    html = render_data_report(replace(GOOD, findings=(BIAS,)))
    assert not re.search(r"(?:src|href|action|srcset)=(?!\"#)", html.split("<body>")[1])
    assert "default-src 'none'" in html
    assert not any("style" in held for _, held in Page(html).tags)


def test_every_link_has_its_target() -> None:
    html = render_data_report(
        replace(GOOD, findings=(BIAS,), problem_counts={"wrong_type": 1, "blank_text": 1}, usable=False)
    )
    tags = Page(html).tags
    targets = {held["href"] for tag, held in tags if tag == "a"}
    assert {"#problems", "#warnings", "#dataset-1", "#dataset-2", "#problem-1", "#problem-2"} <= targets
    assert targets <= {f"#{held['id']}" for _, held in tags if "id" in held}


def test_direction_marks_and_control_characters_are_made_visible() -> None:
    odd = "safe\u202egnp\x00\x1b[31m\ud800"
    bad = Problem("wrong_type", "preference_dataset", odd, 1, odd, odd, odd)
    finding = replace(BIAS, message=odd, examples=(Example(odd, odd),))
    row = SampledRow(location=odd, prompt=[{"role": odd, "content": odd}] * 2, chosen=odd, rejected=odd)
    dataset = replace(PREFERENCES, reference=odd, formats={odd: 1}, examples=(row,), fingerprint=odd, scripts={})
    html = render_data_report(
        DataSummary(
            datasets=(dataset,), findings=(finding,), problem_counts={"wrong_type": 1}, problems=(bad,), usable=False
        )
    )
    assert not re.search("[\u202e\x00\x1b\ud800]", html)
    assert html.count("U+202E") >= 14


def test_lengths_beyond_the_limit_are_counted() -> None:
    beyond = sum(value > 64 for value in LENGTHS)
    assert f"{beyond} of 500" in shown(GOOD)


def test_a_dataset_of_prompts_shows_no_answers_and_no_bias() -> None:
    text = shown(DataSummary(datasets=(PROMPTS,)))
    assert "Chosen" not in text
    assert "gives the preferred answer away" not in text


def test_the_examples_stand_side_by_side_with_their_places() -> None:
    text = shown(GOOD)
    for part in ("data/a.jsonl:17", "Describe the harbour.", "Salt and warm bread.", "A breathtaking gem!"):
        assert part in text


def test_warnings_have_their_code_message_and_examples() -> None:
    text = shown(replace(GOOD, findings=(BIAS,)))
    for part in ("position_bias", BIAS.message, "data/a.jsonl:3", "the same as data/b.jsonl:9"):
        assert part in text


def test_problems_of_every_code_fit_and_those_not_shown_are_counted() -> None:
    problems = tuple(problem(code, line) for code in CODES for line in range(1, 21))
    counts = dict.fromkeys(CODES, 25)
    page = render_data_report(DataSummary(datasets=(), problem_counts=counts, problems=problems, usable=False))
    assert len(page.encode()) < 3_000_000
    text = Page(page).text
    for code, meaning in CODES.items():
        assert code in text
        assert meaning.replace("`", "") in text
    assert text.count("and 5 more problems") == len(CODES)
    assert text.count("bad.jsonl:20") == len(CODES)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_is_shown_and_never_run(hostile: str) -> None:
    row = SampledRow(
        location=hostile, prompt=[{"role": "user", "content": hostile}], chosen=hostile + "a", rejected=hostile + "b"
    )
    dataset = replace(
        PREFERENCES, reference=hostile, formats={hostile: 1}, scripts={hostile: 3}, examples=(row,), fingerprint=hostile
    )
    finding = Finding(code=hostile, parameter=hostile, message=hostile, examples=(Example(hostile, hostile),))
    bad = Problem("wrong_type", hostile, hostile, 1, hostile, hostile, hostile)
    counts = {"wrong_type": 1}
    page = Page(
        render_data_report(
            DataSummary(datasets=(dataset,), findings=(finding,), problem_counts=counts, problems=(bad,), usable=False)
        )
    )
    plain = Page(
        render_data_report(
            DataSummary(
                datasets=(PREFERENCES,),
                findings=(BIAS,),
                problem_counts=counts,
                problems=(problem("wrong_type", 1),),
                usable=False,
            )
        )
    )
    assert [tag for tag, _ in page.tags if tag in ("script", "style", "img", "iframe", "link")] == [
        tag for tag, _ in plain.tags if tag in ("script", "style", "img", "iframe", "link")
    ]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert hostile.replace("\u2028", " ").replace("\u2029", " ")[:10].strip() in page.text.replace("\u2028", " ")


def test_very_long_problems_and_warnings_stay_below_three_megabytes() -> None:
    long = "&" * 5_000
    problems = tuple(
        Problem(code, "preference_dataset", long, line, long, long, long) for code in CODES for line in range(20)
    )
    findings = (replace(BIAS, message=long, examples=(Example(long, long),) * 500),) * 30
    summary = replace(GOOD, findings=findings, problem_counts=dict.fromkeys(CODES, 20), problems=problems, usable=False)
    html = render_data_report(summary)
    assert len(html.encode()) < 3_000_000
    # Each code and each warning still has an example.
    text = Page(html).text
    assert text.count("more problem") == len(CODES)
    assert text.count("more example") == 30


def test_very_long_texts_and_many_rows_stay_below_three_megabytes() -> None:
    row = SampledRow(
        location="a:1", prompt=[{"role": "user", "content": "x" * 10**6}], chosen="y" * 10**6, rejected="z"
    )
    lengths = Lengths(part="prompt", unit="tokens", values=tuple(range(10_000)), limit=512)
    summary = DataSummary(datasets=(replace(PREFERENCES, examples=(row,) * 50, lengths=(lengths,) * 3),) * 3)
    assert len(render_data_report(summary).encode()) < 3_000_000


@pytest.mark.parametrize("rows", [0, 1])
def test_a_dataset_with_hardly_any_row_is_shown(rows: int) -> None:
    nearly_empty = replace(
        PREFERENCES,
        rows=rows,
        sampled=rows,
        distinct_prompts=rows,
        first_chosen=rows,
        longer_chosen=0,
        equally_long=rows,
        lengths=(Lengths(part="prompt", unit="tokens", values=(3,) * rows, limit=4),),
        scripts={"Latin": rows},
        examples=(),
    )
    text = shown(DataSummary(datasets=(nearly_empty,)))
    assert ("There is no good row" in text) == (rows == 0)


def test_the_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    write_data_report(GOOD, str(path))
    assert path.read_text(encoding="utf-8") == render_data_report(GOOD)
