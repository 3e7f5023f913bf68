"""Every command that is told is run: what it writes is good, and every row means what it meant."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.reading import as_lines, read

from rlhf_pipelines.cli import rlhf
from rlhf_tuning.data.check import check_datasets

GOOD, BAD = "Quiet light falls on it.", "It is a place."
CHAT = [
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "Here."},
    {"role": "user", "content": "Sure?"},
]
ASKED = "Describe the harbour."


def user(text: str = ASKED) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def pairs(prompt: Any = None, flip: int = 1) -> list[dict[str, Any]]:
    """Return what two rows mean, of which the second prefers the other answer."""
    good = {"prompt": prompt or user(), "chosen": GOOD, "rejected": BAD}
    return [good, good if not flip else {**good, "chosen": BAD, "rejected": GOOD}]


def margins(*values: float, **settings: Any) -> list[dict[str, Any]]:
    """Return the same with margins."""
    return [{**row, "margin": round(value, 4)} for row, value in zip(pairs(**settings), values, strict=True)]


def rows(**fields: tuple[Any, Any]) -> list[dict[str, Any]]:
    """Return two rows, from two values of each field."""
    return [{name: values[index] for name, values in fields.items()} for index in (0, 1)]


def both(value: Any) -> tuple[Any, Any]:
    return value, value


SHARED = {"prompt": both(ASKED), "chosen": (GOOD, BAD), "rejected": (BAD, GOOD)}
TWO = {"input_text": both(ASKED), "candidate_0": both(GOOD), "candidate_1": both(BAD), "choice": (0, 1)}
SYSTEM = [{"role": "system", "content": "Be terse."}]
DIALOGUE = "\n\nHuman: Where?\n\nAssistant: Here.\n\nHuman: Sure?\n\nAssistant: "

#: The rows of a preference dataset, and what they mean.
PREFERENCES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "candidates and choice from 1": (
        rows(input_text=both(ASKED), candidate_1=both(GOOD), candidate_2=both(BAD), choice=(1, 2)),
        pairs(),
    ),
    "choice from 1": (rows(**TWO | {"choice": (1, 2)}), pairs()),
    "chat, candidates from 1": (
        rows(
            messages=both([{"author": "user", "content": ASKED}]),
            context=both("Be terse."),
            candidate_1=both(GOOD),
            candidate_2=both(BAD),
            choice=(1, 2),
        ),
        pairs(SYSTEM + user()),
    ),
    "candidates from 1, in the last message": (
        rows(
            messages=tuple(
                [{"author": "user", "content": ASKED, "candidate_1": GOOD, "candidate_2": BAD, "choice": choice}]
                for choice in (1, 2)
            )
        ),
        pairs(),
    ),
    "a system prompt in some rows": (
        [{"system": None, **rows(**SHARED)[0]}, {"id": 7, **rows(**SHARED)[1]}],
        pairs(),
    ),
    "choice from 1, in the last message": (
        rows(
            messages=tuple(
                [{"author": "user", "content": ASKED, "candidate_0": GOOD, "candidate_1": BAD, "choice": choice}]
                for choice in (1, 2)
            )
        ),
        pairs(),
    ),
    "HelpSteer2": (
        rows(
            split=both("train"),
            prompt=both(ASKED),
            response_1=both(GOOD),
            response_2=both(BAD),
            preference_strength=(-2, 1),
        ),
        margins(2 / 3, 1 / 3),
    ),
    "HelpSteer3": (
        rows(
            context=both(CHAT),
            response1=both(GOOD),
            response2=both(BAD),
            overall_preference=(-1, 3),
            language=both("x"),
        ),
        margins(1 / 3, 1, prompt=CHAT),
    ),
    "Nectar": (
        rows(
            prompt=both(ASKED),
            answers=(
                [{"answer": BAD, "rank": 2.0}, {"answer": GOOD, "rank": 1.0}],
                [{"answer": BAD, "rank": 1.0}, {"answer": GOOD, "rank": 2.0}],
            ),
            turns=both(1),
        ),
        pairs(),
    ),
    "summaries": (
        rows(
            info=both({"id": "7", "post": ASKED}),
            summaries=both([{"text": GOOD}, {"text": BAD}]),
            choice=(0, 1),
            worker=both("w"),
        ),
        pairs(),
    ),
    "an answer twice": (rows(**SHARED, response=(GOOD, BAD)), pairs()),
    "SafeRLHF": (
        rows(
            prompt=both(ASKED),
            response_0=both(GOOD),
            response_1=both(BAD),
            better_response_id=(0, 1),
            is_response_0_safe=both(True),
        ),
        pairs(),
    ),
    "SHP": (
        rows(history=both(ASKED), human_ref_A=both(GOOD), human_ref_B=both(BAD), labels=(1, 0), domain=both("x")),
        pairs(),
    ),
    "letters": (
        rows(question=both(ASKED), answer_a=both(GOOD), answer_b=both(BAD), winner=("A", "B")),
        pairs(),
    ),
    "named winners": (
        rows(query=both(ASKED), response1=both(GOOD), response2=both(BAD), chosen=("response1", "response2")),
        pairs(),
    ),
    "numbered scores beside": (
        rows(
            prompt=both(ASKED),
            response_1=both(GOOD),
            response_2=both(BAD),
            score_1=both(3),
            score_2=both(4),
            best=(1, 2),
        ),
        pairs(),
    ),
    "choice as text": (rows(**TWO | {"choice": ("0", "1")}), pairs()),
    "three candidates": (
        rows(**TWO | {"candidate_2": both("No."), "choice": (0, 2)}),
        [
            {"prompt": user(), "chosen": GOOD, "rejected": BAD},
            {"prompt": user(), "chosen": GOOD, "rejected": "No."},
            {"prompt": user(), "chosen": "No.", "rejected": GOOD},
            {"prompt": user(), "chosen": "No.", "rejected": BAD},
        ],
    ),
    "three candidates from 1": (
        rows(prompt=both(ASKED), answer_1=both(GOOD), answer_2=both(BAD), answer_3=both("No."), best=(1, 3)),
        [
            {"prompt": user(), "chosen": GOOD, "rejected": BAD},
            {"prompt": user(), "chosen": GOOD, "rejected": "No."},
            {"prompt": user(), "chosen": "No.", "rejected": GOOD},
            {"prompt": user(), "chosen": "No.", "rejected": BAD},
        ],
    ),
    "Orca": (
        [
            {"system": "Be terse.", "question": ASKED, "chosen": GOOD, "rejected": BAD},
            {"system": "", "question": ASKED, "chosen": BAD, "rejected": GOOD},
        ],
        [pairs(SYSTEM + user())[0], pairs()[1]],
    ),
    "a system prompt beside": (rows(system=both("Be terse."), **SHARED), pairs(SYSTEM + user())),
    "a system prompt beside candidates": (rows(system=both("Be terse."), **TWO), pairs(SYSTEM + user())),
    "Stack Exchange": (
        rows(qid=both(1), question=both(ASKED), response_j=(GOOD, BAD), response_k=(BAD, GOOD), metadata=both(["a"])),
        pairs(),
    ),
    "Alpaca": (
        rows(instruction=both("Describe."), input=("The harbour.", ""), chosen=both(GOOD), rejected=both(BAD)),
        [pairs(user("Describe.\n\nThe harbour."))[0], pairs(user("Describe."))[0]],
    ),
    "UltraFeedback": (
        rows(
            prompt=both("Where?"),
            prompt_id=both("7"),
            chosen=both(CHAT + answer(GOOD)),
            rejected=both(CHAT + answer(BAD)),
            messages=both(CHAT + answer(GOOD)),
            score_chosen=(8.5, 10.0),
            score_rejected=(4.0, 1.0),
        ),
        margins(0.5, 1, prompt=CHAT, flip=0),
    ),
    "conversations alone": (
        rows(chosen=both(CHAT + answer(GOOD)), rejected=both(CHAT + answer(BAD))),
        pairs(CHAT, flip=0),
    ),
    "HH-RLHF": (rows(chosen=both(DIALOGUE + GOOD), rejected=both(DIALOGUE + BAD)), pairs(CHAT, flip=0)),
    "OpenAI": (
        rows(
            input=both({"messages": SYSTEM + CHAT, "tools": []}),
            preferred_output=both(answer(GOOD)),
            non_preferred_output=both(answer(BAD)),
        ),
        pairs(SYSTEM + CHAT, flip=0),
    ),
    "messages and answers": (rows(messages=both(CHAT), chosen=(GOOD, BAD), rejected=(BAD, GOOD)), pairs(CHAT)),
    "messages with roles": (rows(messages=both(CHAT), **{name: TWO[name] for name in list(TWO)[1:]}), pairs(CHAT)),
    "messages with a system turn": (
        rows(messages=both(SYSTEM + CHAT), **{name: TWO[name] for name in list(TWO)[1:]}),
        pairs(SYSTEM + CHAT),
    ),
    "ShareGPT": (
        rows(
            conversations=both(
                [
                    {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]}
                    for turn in CHAT
                ]
            ),
            chosen=(GOOD, BAD),
            rejected=(BAD, GOOD),
        ),
        pairs(CHAT),
    ),
    "LLaMA-Factory": (
        rows(
            conversations=both([{"from": "human", "value": ASKED}]),
            chosen=tuple({"from": "gpt", "value": text} for text in (GOOD, BAD)),
            rejected=tuple({"from": "gpt", "value": text} for text in (BAD, GOOD)),
        ),
        pairs(),
    ),
    "answers in messages": (
        rows(prompt=both(ASKED), chosen=(answer(GOOD), answer(BAD)), rejected=(answer(BAD), answer(GOOD))),
        pairs(),
    ),
    "misspelt": (
        rows(**{"Input-Text": both(ASKED), "candidat_0": both(GOOD), "candidat_1": both(BAD), "choise": (0, 1)}),
        pairs(),
    ),
    "in capitals": (rows(**{name.title(): values for name, values in SHARED.items()}), pairs()),
    "AlpacaFarm": (
        rows(instruction=both(ASKED), input=both(""), output_1=both(GOOD), output_2=both(BAD), preference=(1, 2)),
        pairs(),
    ),
    "more fields": (rows(**SHARED, id=both(7), source=both("a")), pairs()),
    "more fields in some rows": ([{**rows(**TWO)[0], "id": 7}, rows(**TWO)[1]], pairs()),
    "more fields in messages": (
        rows(prompt=both([{**turn, "id": 3} for turn in CHAT]), chosen=both(answer(GOOD)), rejected=both(answer(BAD))),
        pairs(CHAT, flip=0),
    ),
}

PROMPTS: dict[str, tuple[list[dict[str, Any]], list[list[dict[str, str]]]]] = {
    "question": (rows(question=both(ASKED), id=both(7)), [user(), user()]),
    "labelled texts": (rows(text=both(ASKED), label=both(1)), [user(), user()]),
    "Alpaca": (
        rows(instruction=both(ASKED), input=("Now.", ""), output=both(GOOD)),
        [user(f"{ASKED}\n\nNow."), user()],
    ),
    "Dolly": (
        rows(instruction=both("What is it?"), context=("A harbour.", ""), response=both(GOOD), category=both("qa")),
        [user("What is it?\n\nA harbour."), user("What is it?")],
    ),
    "system": (rows(system=both("Be terse."), question=both(ASKED)), [SYSTEM + user()] * 2),
    "messages with roles": (rows(messages=both(CHAT)), [CHAT, CHAT]),
    "messages with a system turn": (rows(messages=both(SYSTEM + CHAT), id=both(7)), [SYSTEM + CHAT] * 2),
    "messages with an answer": (rows(messages=(CHAT + answer(GOOD), CHAT)), [CHAT, CHAT]),
    "ShareGPT": (
        rows(conversation=both([{"from": "human", "value": ASKED}, {"from": "gpt", "value": GOOD}])),
        [user(), user()],
    ),
    "more fields": (rows(input_text=both(ASKED), id=both(7)), [user(), user()]),
}


def advice_of(parameter: str, content: list[dict[str, Any]]) -> tuple[str, ...]:
    Path("a b.jsonl").write_bytes(as_lines(content))
    return advice(parameter, "a b.jsonl")


def advice(parameter: str, dataset: str) -> tuple[str, ...]:
    datasets = {"prompt_dataset": "", "preference_dataset": "", "eval_dataset": "", parameter: dataset}
    return check_datasets(**datasets, instruction="").summary.advice


def mended(advice: str) -> bytes:
    """Run the command of an advice and return what it wrote."""
    program, *arguments = shlex.split(advice.splitlines()[-1])
    assert program == "rlhf"
    assert rlhf.main(arguments) == 0
    return Path(arguments[-1]).read_bytes()


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences_of_another_make_come_with_the_command_that_mends_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, meant = PREFERENCES[name]
    [told] = advice_of("preference_dataset", content)
    reading = read(mended(told), accepts=("preference",))
    assert (reading.found, reading.rows) == ([], meant)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_of_another_make_come_with_the_command_that_mends_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, meant = PROMPTS[name]
    [told] = advice_of("prompt_dataset", content)
    reading = read(mended(told), accepts=("prompt",))
    assert (reading.found, reading.rows) == ([], [{"prompt": prompt} for prompt in meant])


DEMONSTRATIONS: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
    "Alpaca": (
        rows(instruction=both(ASKED), input=("", "By the sea."), output=both(GOOD)),
        [(user(), GOOD), (user(f"{ASKED}\n\nBy the sea."), GOOD)],
    ),
    "question and answer": (rows(question=both(ASKED), answer=(GOOD, BAD)), [(user(), GOOD), (user(), BAD)]),
    "ShareGPT": (
        rows(
            id=both(7),
            conversations=both([{"from": "human", "value": ASKED}, {"from": "gpt", "value": GOOD}]),
        ),
        [(user(), GOOD)] * 2,
    ),
    "messages with more": (rows(messages=both([*user(), {**answer(GOOD)[0], "name": "x"}])), [(user(), GOOD)] * 2),
}


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_demonstrations_of_another_make_come_with_the_command_that_mends_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, meant = DEMONSTRATIONS[name]
    [told] = advice_of("dataset_uri", content)
    reading = read(mended(told), accepts=("demonstration",))
    assert (reading.found, reading.rows) == ([], [{"prompt": prompt, "answer": text} for prompt, text in meant])


def test_no_command_takes_the_weight_from_an_answer_that_is_not_to_be_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not advice_of("dataset_uri", rows(messages=both([*user(), {**answer(GOOD)[0], "weight": 0}])))


UNCLEAR = {
    "names from 1, choice from 0": rows(
        input_text=both(ASKED), candidate_1=both(GOOD), candidate_2=both(BAD), choice=(0, 1)
    ),
    "names from 1, only choice 1": rows(
        input_text=both(ASKED), candidate_1=both(GOOD), candidate_2=both(BAD), choice=both(1)
    ),
    "three candidates, four choices": rows(**TWO | {"candidate_2": both("No."), "choice": (0, 3)}),
    "letters and numbers": rows(question=both(ASKED), answer_a=both(GOOD), answer_b=both(BAD), label=(0, 1)),
    "two labels": rows(prompt=both(ASKED), response_0=both(GOOD), response_1=both(BAD), label=(0, 1), better=(1, 0)),
    "no label": rows(prompt=both(ASKED), response_0=both(GOOD), response_1=both(BAD)),
    "true and false": rows(**TWO | {"choice": (True, False)}),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_a_label_stands_for_is_asked_where_names_and_values_do_not_say_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for told in advice_of("preference_dataset", UNCLEAR[name]):
        assert "rlhf convert" not in told
        assert "candidate_0" in told


NOT_TO_BE_DROPPED = {
    "answers without a rank": rows(prompt=both(ASKED), answers=both([{"answer": GOOD}, {"answer": BAD}])),
    "a question about a text": rows(**SHARED, context=both("A text.")),
    "history": rows(**SHARED, history=both([["Hi", "Hello"]])),
    "two prompts": rows(**SHARED, question=both("Another?")),
    "an answer alone": rows(prompt=both(ASKED), chosen=both(GOOD), score=both(1)),
    "a file with good rows of another kind": [
        *rows(**SHARED),
        *rows(question=both(ASKED), chosen=both("a"), rejected=both("b")),
    ],
}


@pytest.mark.parametrize("name", NOT_TO_BE_DROPPED)
def test_no_command_leaves_out_what_may_mean_something(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert advice_of("preference_dataset", NOT_TO_BE_DROPPED[name]) == ()


@pytest.mark.parametrize(
    "label",
    [{"preference_strength": (0, 3)}, {"winner": ("tie", "2")}],
    ids=["strength", "winner"],
)
def test_rows_that_prefer_no_answer_are_left_out_and_counted(
    label: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tie = rows(prompt=both(ASKED), response_1=both(GOOD), response_2=both(BAD), **label)
    [told] = advice_of("preference_dataset", tie)
    assert "Of 2 rows 1 are left out: they prefer no answer" in told
    [row] = read(mended(told)).rows
    assert (row["chosen"], row["rejected"]) == (BAD, GOOD)
    assert "Left out, 1: they prefer no answer." in capsys.readouterr().out


def test_all_files_of_a_dataset_are_mended_into_one_that_was_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(f"{name}.jsonl").write_bytes(as_lines(rows(question=both(name)))[:-1])
    Path("a-new.jsonl.old").write_text("")
    [told] = advice("prompt_dataset", "[ab].jsonl")
    Path("a-new.jsonl").write_text("kept")
    [again] = advice("prompt_dataset", "[ab].jsonl")
    assert [row["prompt"][0]["content"] for row in read(mended(again)).rows] == ["a", "a", "b", "b"]
    assert Path("a-new.jsonl").read_text() == "kept"
    assert told != again


def test_western_letters_of_older_windows_programs_come_with_the_command_that_mends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ['{"input_text": "漢字"}', '{"input_text": "Un café créé à 5 €"}', '{"input_text": "plain"}']
    Path("a.jsonl").write_bytes(lines[0].encode() + b"\n" + "\n".join(lines[1:]).encode("cp1252"))
    [told] = advice("prompt_dataset", "a.jsonl")
    assert "caf\\xe9 for café" in told
    assert mended(told).decode().splitlines() == lines


@pytest.mark.parametrize(
    "row",
    [
        '{"input_text": "Опиши море."}'.encode("cp1251"),
        '{"input_text": "漢"}'.encode()[:-3] + b'"}',
        b'{"input_text": "\xed\xa0\xbd"}',
        '{"input_text": "海"}'.encode("shift-jis"),
        '{"input_text": "caf\xe9"'.encode("cp1252"),
    ],
)
def test_other_encodings_are_not_guessed(row: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_bytes(row + b'\n{"input_text": "plain"}\n')
    assert advice("prompt_dataset", "a.jsonl") == ()


def test_lines_that_are_no_json_objects_are_to_be_mended_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    twice = b'{"question": "a", "question": "b"}\n'
    Path("a.jsonl").write_bytes(as_lines(PROMPTS["question"][0]) + twice)
    [told] = advice("prompt_dataset", "a.jsonl")
    assert "mend first the lines that are no proper JSON objects" in told
    assert "rlhf convert" not in told


def test_a_name_that_could_be_taken_for_code_is_no_part_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = '"], open("hacked", "w"), ["; touch hacked; $(touch hacked)'
    [told] = advice_of("prompt_dataset", rows(**{"question": both(ASKED), name: both(1)}))
    assert len(read(mended(told)).rows) == 2
    assert not Path("hacked").exists()
    assert "hacked" not in told.splitlines()[-1]


def test_rows_of_a_format_without_a_choice_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    counted = rows(input_text=both(ASKED), candidate_0=both("Salt."), candidate_1=both("A house."), choice=(1, 2))
    other = {"prompt": ASKED, "chosen": "Gulls.", "rejected": "A house."}
    [told] = advice_of("preference_dataset", [*counted, other])
    reading = read(mended(told), accepts=("preference",))
    assert [row["chosen"] for row in reading.rows] == ["Salt.", "A house.", "Gulls."]


def test_a_command_stops_at_a_row_that_it_was_not_told_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content = PREFERENCES["HelpSteer2"][0]
    [told] = advice_of("preference_dataset", content)
    strange = {**content[0], "preference_strength": "much"}
    Path("a b.jsonl").write_bytes(as_lines([*content * 10_000, strange]))
    _, *arguments = shlex.split(told.splitlines()[-1])
    assert rlhf.main(arguments) == 2
    assert "a b.jsonl, row 20,001: " in capsys.readouterr().err
    assert not Path(arguments[-1]).exists()
