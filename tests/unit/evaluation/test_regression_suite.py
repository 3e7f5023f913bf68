import json

import pytest

from rlhf_tuning import patterns
from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.evaluation.judges.verdict import Verdict
from rlhf_tuning.evaluation.regression_suite import (
    ASSERTIONS,
    Answered,
    Assertion,
    Case,
    Regression,
    check_suite,
    read_suite,
)

#: Of each type: a value, an answer of which it holds, and one of which it does not.
EXAMPLES = {
    "equals": ("Paris.", " Paris.\n", "Paris"),
    "contains": ("Paris", "It is Paris.", "It is paris."),
    "icontains": ("paris", "It is PARIS.", "It is Rome."),
    "starts-with": ("It", "It is.", "Well, It is."),
    "regex": (r"(?i)\bfour\b", "Four.", "Fourteen."),
    "contains-any": (["Paris", "Rome"], "In Rome.", "In rome."),
    "icontains-any": (["Paris", "Rome"], "in rome", "in Bonn"),
    "contains-all": (["Paris", "Rome"], "Rome, Paris", "Rome, paris"),
    "icontains-all": (["Paris", "Rome"], "rome, paris", "rome"),
    "is-json": (None, ' {"a": [1]} ', "a: 1"),
}


def test_what_opens_more_brackets_than_can_be_read_is_no_json():
    assert not Assertion("is-json").holds("[" * 100_000)
    assert Assertion("not-is-json").holds('{"a":' * 100_000)


def test_a_regular_expression_that_takes_for_ever_is_named(monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.05)
    with pytest.raises(ParameterError, match=r"'\(a\|aa\)\+\$' of regression_suite took more than"):
        Assertion("regex", "(a|aa)+$").holds("a" * 60 + "b")


def prompt(text):
    return [{"role": "user", "content": text}]


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("kind", ASSERTIONS)
def test_what_is_asserted_holds_or_does_not(tmp_path, kind):
    value, good, bad = EXAMPLES[kind]
    asserted = {"type": kind} | ({"value": value} if value else {})
    rows = [{"prompt": "p", "assert": [asserted]}, {"prompt": "p", "assert": [asserted | {"type": f"not-{kind}"}]}]
    plain, turned = read_suite(write(tmp_path / "suite.jsonl", *rows))
    assert [case.passes(answer) for case in (plain, turned) for answer in (good, bad)] == [True, False, False, True]


def test_all_that_is_asserted_must_hold():
    case = Case(prompt("p"), (Assertion("contains", "a"), Assertion("not-contains", "b")))
    assert [case.passes(answer) for answer in ("a", "ab", "c")] == [True, False, False]


def test_the_suite_of_ours_is_large_enough_and_asks_nothing_twice():
    cases = read_suite("general")
    assert len({str(case.prompt) for case in cases}) == len(cases) >= 100
    assert all(case.assertions and not case.passes("") for case in cases)
    assert check_suite("general", judge="", gate_max_regression=0.05, gate_max_judge_loss=0.1)


def test_every_line_that_cannot_be_used_is_told(tmp_path):
    rows = [
        {"prompt": "p", "assert": [{"type": "contain", "value": "x"}]},
        "",
        {"prompt": "p"},
        {"prompt": ""},
        {"prompt": [{"role": "robot", "content": "p"}]},
        {"prompt": "p", "assert": [{"type": "regex", "value": "("}]},
        {"prompt": "p", "assert": [{"type": "contains-any", "value": "x"}]},
        {"prompt": "p", "assert": [{"type": "contains"}]},
        {"prompt": "p", "assert": {"type": "contains"}},
        {"prompt": "p", "assert": [{"type": "is-json", "value": {"type": "object"}}]},
        {"prompt": "p", "asserts": []},
        '{"prompt": "p"',
    ]
    with pytest.raises(ParameterError) as told:
        read_suite(write(tmp_path / "suite.jsonl", *rows))
    lines = str(told.value).splitlines()[1:]
    assert [int(line.split(":")[0].removeprefix("  line ")) for line in lines] == [1, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert "type 'contain' is none of equals, contains" in lines[0]
    assert "no regular expression" in lines[3]
    assert "must be a list of texts" in lines[4]
    assert "is-json takes no value" in lines[7]
    assert "asserts is no field" in lines[8]


def test_what_is_not_there_or_empty_is_told(tmp_path):
    assert read_suite("") == []
    with pytest.raises(DataError, match=r"No such file or directory\. Give a file of JSON lines, or general"):
        read_suite(str(tmp_path / "absent.jsonl"))
    with pytest.raises(ParameterError, match="holds no prompt"):
        read_suite(write(tmp_path / "suite.jsonl", ""))


def test_a_suite_that_no_model_could_pass_is_refused_and_its_content_is_fingerprinted(tmp_path):
    checked = [{"prompt": f"p{number}", "assert": [{"type": "contains", "value": "x"}]} for number in range(35)]
    limits = {"judge": "", "gate_max_regression": 0.1, "gate_max_judge_loss": 0.1}
    path = tmp_path / "suite.jsonl"
    enough = check_suite(write(path, *checked), **limits)
    assert enough == check_suite(write(path, "", *checked), **limits)
    assert enough != check_suite(write(path, *checked, checked[0]), **limits)
    with pytest.raises(
        ParameterError, match=r"has 34 prompts with assert\. With gate_max_regression 0\.1 it takes 35 at"
    ):
        check_suite(write(path, *checked[1:]), **limits)
    assert check_suite(write(path, *checked[1:]), **limits | {"gate_max_regression": 0.0})
    with pytest.raises(ParameterError, match=r"has 1 prompt without assert, .* but judge is empty"):
        check_suite(write(path, *checked, {"prompt": "p"}), **limits)
    with pytest.raises(ParameterError, match=r"has 1 prompt for the judge. With gate_max_judge_loss 0.1 it takes 16"):
        check_suite(write(path, *checked, {"prompt": "p"}), **limits | {"judge": "local_model"})


@pytest.fixture
def found():
    """Of ten checked prompts the base model passes six, and the tuned model four of these and one other."""
    passes = [(True, True)] * 4 + [(True, False)] * 2 + [(False, True)] + [(False, False)] * 3
    words = {True: "yes", False: "no"}
    checked = [
        Answered(
            case=Case(prompt(f"Ask {number}"), (Assertion("contains-any", ("yes",)),)),
            base=words[base],
            tuned=words[tuned],
        )
        for number, (base, tuned) in enumerate(passes)
    ]
    verdicts = [Verdict(orders=(1.0, 1.0)), Verdict(orders=(1.0, -1.0)), None]
    judged = [
        Answered(case=Case(prompt(f"Tell {number}")), base="a", tuned="b", verdict=verdict)
        for number, verdict in enumerate(verdicts)
    ]
    return Regression(answered=[*checked, *judged], judge="judge gpt-4")


def test_what_was_lost_and_won_is_counted_pair_by_pair(found):
    assert found.passed == (6, 5)
    assert [each.case.prompt[0]["content"] for each in found.lost] == ["Ask 4", "Ask 5"]
    assert (found.difference.mean, found.difference.n) == (pytest.approx(-0.1), 10)
    assert found.difference.low < -0.1 < found.difference.high
    # Where the judge gave no verdict the answer counts as lost.
    assert (found.win_rate.wins, found.win_rate.ties, found.win_rate.losses) == (1, 1, 1)
    assert found.metrics()["regression_difference"] == pytest.approx(-0.1)
    assert found.metrics()["regression_tuned_passed"] == 0.5


def test_it_is_the_same_once_it_was_written_and_read(found):
    assert Regression.from_json(json.loads(json.dumps(found.as_json()))) == found
