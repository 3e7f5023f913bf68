import re
from pathlib import Path

from html_page import Page

from rlhf_tuning.reports.page import Section, conversation, render_page, text, values_table, write_page


def render(**changes: object) -> str:
    parts = {
        "kicker": "Report",
        "title": "One",
        "facts": [],
        "verdict": "<p>Good.</p>",
        "sections": [Section("a", "First", "<p>1</p>")],
        "footer": "End.",
    }
    return render_page(**{**parts, **changes})  # type: ignore[arg-type]


def test_a_section_without_content_is_left_out_and_one_without_heading_has_no_link() -> None:
    page = Page(render(sections=[Section("a", "First", "<p>1</p>"), Section("b", "Second", ""), Section("c", "", "3")]))
    assert [held["href"] for tag, held in page.tags if tag == "a"] == ["#a"]
    assert [held["id"] for tag, held in page.tags if tag == "section"] == ["a", "c"]


def test_a_fact_without_value_is_left_out() -> None:
    shown = Page(render(facts=[("Rows", "5"), ("Model", "")])).text
    assert "Rows 5" in shown
    assert "Model" not in shown


def test_the_title_of_the_window_has_no_elements() -> None:
    html = render(title="a <b> \u202e" + "x" * 9_000)
    (title,) = re.findall("<title>(.*?)</title>", html)
    assert title.startswith("a &lt;b&gt; U+202Exxx")
    assert title.endswith("more characters)")
    assert "<" not in title


def test_text_is_cut_by_the_bytes_of_its_html_and_says_how_much_is_left_out() -> None:
    assert text("&" * 10, 50) == "&amp;" * 10
    assert text("&" * 12, 50) == "&amp;" * 10 + ' <span class="soft">… (2 more characters)</span>'
    assert text("ä" * 30, 50).startswith("ä" * 25 + " <span")


def test_one_turn_needs_no_role() -> None:
    one = {"role": "user", "content": "Ask"}
    assert "user" not in Page(conversation([one])).text
    assert Page(conversation([one, one])).text.count("user") == 2
    assert conversation([]) == ""


def test_names_in_a_table_are_escaped() -> None:
    assert Page(values_table([("<i>", "<b>1</b>")])).text == "<i>1"


def test_a_page_is_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "page.html"
    write_page("<p>ä</p>", str(path))
    assert path.read_bytes() == "<p>ä</p>".encode()
    assert path.stat().st_mode & 0o777 == 0o644
