import ast
import json
from pathlib import Path

import pytest

import rlhf_tuning.data
from rlhf_tuning.data.problems import CODES, SHOWN_ALIKE, SHOWN_OF_EACH, Fault, Problem, Problems, describe, shorten
from rlhf_tuning.errors import DataError


def problem(code: str = "wrong_type", line: int = 3) -> Problem:
    return Problem(code, "prompt_dataset", "a.jsonl", line, "choice", '"1" (a string)', "0 or 1")


def test_shows_location_field_found_and_accepted() -> None:
    assert str(problem()) == 'a.jsonl:3: choice: found "1" (a string); accepted: 0 or 1'


def test_a_problem_of_no_single_line_is_located_at_its_file() -> None:
    assert problem(line=0).location == "a.jsonl"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("caf\u00e9 (1).jsonl", "caf\u00e9 (1).jsonl"),
        ("a\nb.jsonl", "a\\nb.jsonl"),
        ("\x1b[31m.jsonl", "\\x1b[31m.jsonl"),
        ("caf\udce9.jsonl", "caf\\udce9.jsonl"),
    ],
)
def test_a_file_name_breaks_no_line_and_can_be_printed(tmp_path: Path, name: str, shown: str) -> None:
    one = problem()._replace(file=name)
    assert str(one).startswith(f"{shown}:3: choice: found")
    problems = Problems(str(tmp_path / "problems"))
    problems.add(one)
    problems.flush()
    assert problems.render().encode().count(b"\n") == 3
    assert json.loads((tmp_path / "problems").read_text())["file"] == name


def test_counts_all_and_shows_the_first_of_each_kind() -> None:
    problems = Problems()
    for line in range(1, 1001):
        problems.add(problem(line=line))
    problems.add(problem("blank_line", 7))
    message = problems.render()
    assert message.startswith("prompt_dataset cannot be used: 1,001 problems.")
    assert "wrong_type (1,000): a field of the wrong type" in message
    assert message.count("a.jsonl:") == SHOWN_ALIKE + 1
    assert f"a.jsonl:{SHOWN_ALIKE}:" in message
    assert f"a.jsonl:{SHOWN_ALIKE + 1}:" not in message
    assert f"and {1000 - SHOWN_ALIKE} more that say the same" in message
    assert message.endswith("Mend the dataset and run again.")
    assert message.index("blank_line (1)") < message.index("wrong_type")


@pytest.mark.parametrize("files", [1, 3])
def test_what_differs_is_shown_up_to_the_limit_and_what_is_alike_in_few_rows_and_all_is_counted(files: int) -> None:
    problems = Problems()
    parts = [problems] if files == 1 else [Problems() for _ in range(files)]
    for number in range(300):
        part = parts[number * files // 300]
        part.add(problem(line=number)._replace(field=f"messages[{number}].{'abcdefghijklmnopqrstuvwxyz'[number % 26]}"))
        part.add(problem(line=number)._replace(found=f'"{number}" (a string)'))
        part.add(problem("extra_field", number)._replace(field=f"messages[{number % 7}].id", found=str([number] * 5)))
        part.add(problem("extra_field", number)._replace(field="meta" if number % 2 else "a b", found="null"))
    if files > 1:
        for part in parts:
            problems.merge(part)
    assert problems.counts == {"wrong_type": 600, "extra_field": 600}
    assert len(problems.kept["wrong_type"]) == SHOWN_OF_EACH
    assert [each.field for each in problems.kept["extra_field"]] == ["messages[0].id", "a b", "meta"]
    message = problems.render()
    assert "    and 297 more that say the same" in message
    assert [message.count(f"    and {count} more that say the same") for count in (299, 149)] == [1, 2]
    shown = sum(len(kept) for kept in problems.kept.values())
    more = sum(int(words[1]) for line in message.splitlines() if (words := line.split())[0] == "and")
    assert shown + more == 1200


def test_problems_and_bad_rows_can_be_joined_by_number(tmp_path: Path) -> None:
    problems = Problems(str(tmp_path / "all"))
    for name in ("a", "b"):
        part = Problems(str(tmp_path / name))
        part.add_faults([Fault("wrong_type", "f", "1", "2")] * 2, parameter="p", file=name, line=5, bad_row=1)
        part.add(problem("blank_line", 6))
        part.add_faults([Fault("wrong_type", "f", "1", "2")], parameter="p", file=name, line=7, bad_row=2)
        problems.merge(part, bad_rows=2)
    written = [json.loads(line) for line in (tmp_path / "all").read_text().splitlines()]
    assert [each["bad_row"] for each in written] == [1, 1, 0, 2, 3, 3, 0, 4]
    assert [each["line"] for each in written] == [5, 5, 6, 7] * 2


def test_a_reason_of_whole_sentences_is_punctuated_once() -> None:
    reason = problem("unreadable_file", 0)._replace(field="", found="it ends early. Copy it again.", accepted="a file")
    assert str(reason) == "a.jsonl: found it ends early. Copy it again; accepted: a file"


def test_names_every_dataset_that_has_a_problem() -> None:
    problems = Problems()
    problems.add(problem())
    problems.add_faults([Fault("not_a_number", "", "NaN", "numbers")], parameter="eval_dataset", file="e", line=1)
    assert problems.render().startswith("eval_dataset and prompt_dataset cannot be used: 2 problems.")


def test_raises_only_when_there_is_a_problem() -> None:
    problems = Problems()
    problems.raise_if_any()
    problems.add(problem())
    with pytest.raises(DataError, match="wrong_type"):
        problems.raise_if_any()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true (a boolean)"),
        (1.0, "1.0 (a number)"),
        ("1", '"1" (a string)'),
        ([1, 2], "an array of 2"),
        ({}, "an object with 0 fields"),
        ({"a": 1}, "an object with 1 field"),
        ("a\nb\ud800é", '"a\\nb\\ud800\\u00e9" (a string)'),
        (object(), "object"),
    ],
)
def test_describes_a_value_with_its_type_on_one_line(value: object, shown: str) -> None:
    assert describe(value) == shown


def test_shortens_what_is_long() -> None:
    assert len(describe("x" * 10_000)) < 120
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == "abcd"


def test_every_code_that_the_library_uses_has_a_meaning_and_no_other_has() -> None:
    used = set()
    for file in Path(rlhf_tuning.data.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                if name not in ("Fault", "Problem", "_add_problem"):
                    continue
                first = node.args[0]
                used |= {first.value} if isinstance(first, ast.Constant) else set()
    assert used == set(CODES)
