from dataclasses import replace

from html_page import Page

from rlhf_tuning.smoke.checks import FAILS, NOTE, WORKS, Check
from rlhf_tuning.smoke.page import write_smoke_page

GOOD = Check(step="Light image", name="Artifacts can be written", state=WORKS, seen="wrote 1 MiB")
NOTED = Check(step="Light image", name="Who the step is", state=NOTE, seen="user 10001")
BAD = Check(
    step="Trainer image", name="The GPU can be used", state=FAILS, seen="<b>driver 535", remedy="Take newer nodes."
)


def test_the_page_says_first_what_does_not_work_and_what_to_do(tmp_path):
    failed = write_smoke_page([GOOD, NOTED, BAD, replace(BAD, step="Light image")], str(tmp_path / "page.html"))
    assert failed == "Trainer image, Light image: The GPU can be used: <b>driver 535. Take newer nodes."
    page = Page((tmp_path / "page.html").read_text())
    assert "Not everything works here: 2 of 3 tries failed." in page.text
    assert page.text.index("Take newer nodes.") < page.text.index("wrote 1 MiB")
    assert "<b>driver 535" in page.text


def test_where_all_works_it_says_so(tmp_path):
    assert write_smoke_page([GOOD, NOTED, GOOD], str(tmp_path / "page.html")) == ""
    page = Page((tmp_path / "page.html").read_text())
    assert "All that a tuning run needs works here: 2 tries, none failed." in page.text
    assert "user 10001" in page.text
