"""Small made-up files in the shape of well-known datasets, and what their rows mean."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.fuzz_rows import BAD_VALUES
from tests.unit.data.reading import as_lines, read

from rlhf_tuning.data.convert import Converted, convert, tried
from rlhf_tuning.data.layout import CONTRADICTED, OTHER_CONVERSATIONS, TIES, TOO_FEW
from rlhf_tuning.data.well_known import WELL_KNOWN, WellKnown
from rlhf_tuning.errors import DataError

Rows = list[dict[str, Any]]

GOOD, FAIR, BAD = "Quiet light falls on it.", "It is calm there.", "It is a place."
ASKED = "Describe the harbour."


def said(*texts: str) -> list[dict[str, str]]:
    """Return the messages of a user and an assistant in turn."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def preference(chosen: str, rejected: str, *prompt: str, margin: float | None = None) -> dict[str, Any]:
    row = {"prompt": said(*(prompt or (ASKED,))), "chosen": chosen, "rejected": rejected}
    return row if margin is None else {**row, "margin": margin}


def shown(answer: str, *prompt: str) -> dict[str, Any]:
    return {"prompt": said(*prompt), "answer": answer}


def scored(field: str, *answers: tuple[str, Any]) -> Rows:
    return [{"model": "m", "response": text, field: score} for text, score in answers]


HH = "\n\nHuman: Where?\n\nAssistant: Here: see\n\nthe map.\n\nHuman: Sure?\n\nAssistant: "
SHP = {"post_id": "p", "history": ASKED, "human_ref_A": GOOD, "human_ref_B": BAD, "seconds_difference": 3.0}
HELPSTEER = {"correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 2}
NECTAR = {"model": "m"}
PAIR = {"prompt": ASKED, "prompt_id": "7", "messages": said(ASKED, GOOD)}
ARENA = {"question_id": "q", "model_a": "x", "model_b": "y", "judge": "j", "turn": 1, "language": "English"}
KAGGLE = {"id": 1, "model_a": "x", "model_b": "y", "prompt": json.dumps([ASKED])}
WEBGPT = {"question": {"dataset": "eli5", "id": "7", "full_text": ASKED}, "answer_0": GOOD, "answer_1": BAD}
WEBGPT |= {"quotes_0": {"title": [], "extract": []}, "tokens_0": {"prefix": [1], "completion": [2]}}


def message(
    number: int, parent: int | None, role: str, text: str, rank: int | None = None, **more: Any
) -> dict[str, Any]:
    where: dict[str, Any] = {"message_id": str(number), "parent_id": None if parent is None else str(parent)}
    return {**where, "message_tree_id": "t1", "role": role, "text": text, "rank": rank, "lang": "en", **more}


MESSAGES = [
    message(1, None, "prompter", "Where?"),
    message(2, 1, "assistant", "There.", rank=1),
    message(3, 1, "assistant", "Here.", rank=0),
    message(4, 3, "prompter", "Sure?"),
    message(5, 4, "assistant", "Yes.", rank=0),
    message(6, 4, "assistant", "No.", rank=2),
    message(7, 4, "assistant", "Perhaps.", rank=1),
    message(8, 4, "assistant", "Spam.", rank=3, deleted=True),
    message(9, 2, "prompter", "Why?"),
    message(10, 9, "assistant", "So."),
]
OTHER_TREE = [
    message(11, None, "prompter", "What?", message_tree_id="t2"),
    message(12, 11, "assistant", "It.", message_tree_id="t2"),
]
RANKED = [
    preference("Here.", "There.", "Where?"),
    preference("Yes.", "No.", "Where?", "Here.", "Sure?"),
    preference("Yes.", "Perhaps.", "Where?", "Here.", "Sure?"),
]


def tree(number: str) -> dict[str, Any]:
    """Return a message with what was said after it inside, as the files of whole trees have it."""
    [own] = [each for each in MESSAGES if each["message_id"] == number]
    replies = [tree(each["message_id"]) for each in MESSAGES if each["parent_id"] == number]
    return {**own, "replies": replies}


#: Rows by dataset; what they mean; why others were left out.
CASES: dict[str, tuple[Rows, Rows, dict[str, int]]] = {
    "HH-RLHF": (
        [
            {"chosen": HH + GOOD, "rejected": HH + BAD},
            {"chosen": HH + GOOD, "rejected": HH.replace("Sure", "Really") + BAD},
        ],
        [preference(GOOD, BAD, "Where?", "Here: see\n\nthe map.", "Sure?")],
        {OTHER_CONVERSATIONS: 1},
    ),
    "SHP": (
        [
            {**SHP, "labels": 1, "score_A": 9, "score_B": 2},
            {**SHP, "labels": 0, "score_A": 2, "score_B": 9},
            {**SHP, "labels": 1, "score_A": 2, "score_B": 9},
        ],
        [preference(GOOD, BAD), preference(BAD, GOOD)],
        {CONTRADICTED: 1},
    ),
    "HelpSteer2": (
        [
            {"split": "train", "prompt": prompt, "response_1": GOOD, "response_2": BAD, "preference_strength": strength}
            for prompt, strength in (
                (ASKED, -3),
                ("Where?\n<extra_id_1>Assistant\nHere.\n<extra_id_1>User\nSure?", 1),
                (ASKED, 0),
            )
        ],
        [preference(GOOD, BAD, margin=1.0), preference(BAD, GOOD, "Where?", "Here.", "Sure?", margin=0.3333)],
        {TIES: 1},
    ),
    "HelpSteer3": (
        [
            {"domain": "x", "context": said("Where?", "Here.", "Sure?"), "response1": GOOD, "response2": BAD}
            | {"language": "english", "overall_preference": strength, "individual_preference": [{"score": strength}]}
            for strength in (-1, 2)
        ],
        [
            preference(GOOD, BAD, "Where?", "Here.", "Sure?", margin=0.3333),
            preference(BAD, GOOD, "Where?", "Here.", "Sure?", margin=0.6667),
        ],
        {},
    ),
    "HelpSteer": (
        [
            {"prompt": ASKED, "response": BAD, "helpfulness": 1, **HELPSTEER},
            {"prompt": "Another.", "response": BAD, "helpfulness": 0, **HELPSTEER},
            {"prompt": ASKED, "response": GOOD, "helpfulness": 4, **HELPSTEER},
        ],
        [preference(GOOD, BAD, margin=0.75)],
        {TOO_FEW: 1},
    ),
    "Nectar": (
        [
            {
                "prompt": "\n\nHuman: Where?\n\nAssistant: Here.\n\nHuman: Sure?\n\nAssistant: ",
                "answers": [
                    {**NECTAR, "answer": FAIR, "rank": 2.0},
                    {**NECTAR, "answer": GOOD, "rank": 1.0},
                    {**NECTAR, "answer": BAD, "rank": 3.0},
                ],
                "turns": 2,
                "num_responses": 3,
                "source": ["a"],
                "good_natured": True,
            }
        ]
        * 2,
        [preference(GOOD, other, "Where?", "Here.", "Sure?") for other in (FAIR, BAD)] * 2,
        {},
    ),
    "UltraFeedback": (
        [
            {
                "source": "s",
                "instruction": ASKED,
                "models": ["m"] * 4,
                "completions": scored("fine-grained_score", (FAIR, 3.5), (GOOD, 4.5), (BAD, 0.5 + 1), ("Hm.", None)),
                "correct_answers": ["None"],
            },
            {
                "instruction": ASKED,
                # Two are the best: each is preferred in its turn.
                "completions": scored("overall_score", (GOOD, 10.0), (FAIR, 10.0), (BAD, 1.0), ("No.", 5.5)),
            },
            {"instruction": ASKED, "completions": scored("overall_score", (GOOD, 7.0), (BAD, 7.0))},
        ],
        [
            preference(GOOD, FAIR, margin=0.25),
            preference(GOOD, BAD, margin=0.75),
            preference(GOOD, BAD, margin=1.0),
            preference(FAIR, "No.", margin=0.5),
        ],
        {TIES: 1},
    ),
    "Argilla's UltraFeedback": (
        [
            {"instruction": ASKED, "generations": [GOOD, BAD], "ratings": ratings, "rationales": ["", ""]}
            for ratings in ([5.0, 1.0], ["3", "4"])
        ],
        [preference(GOOD, BAD, margin=1.0), preference(BAD, GOOD, margin=0.25)],
        {},
    ),
    "UltraFeedback in pairs": (
        [
            {
                **PAIR,
                "chosen": said(ASKED, GOOD),
                "rejected": said(ASKED, BAD),
                "score_chosen": one,
                "score_rejected": other,
            }
            for one, other in ((10.0, 1.0), (5.0, 6.0), (6.0, 6.0))
        ],
        [preference(GOOD, BAD, margin=1.0)],
        {CONTRADICTED: 1, TIES: 1},
    ),
    "Argilla's UltraFeedback in pairs": (
        [
            {"source": "s", "prompt": ASKED, "chosen": said(ASKED, GOOD), "chosen-rating": 4.75, "chosen-model": "m"}
            | {"rejected": said(ASKED, BAD), "rejected-rating": 3.75, "rejected-model": "n"}
        ]
        * 2,
        [preference(GOOD, BAD, margin=0.25)] * 2,
        {},
    ),
    "Argilla's first UltraFeedback in pairs": (
        [
            {
                "source": "s",
                "instruction": ASKED,
                "chosen_response": GOOD,
                "rejected_response": BAD,
                "chosen_model": "m",
            }
            | {"chosen_avg_rating": rating, "rejected_avg_rating": 3.0}
            for rating in (5.0, 2.0)
        ],
        [preference(GOOD, BAD, margin=0.5)],
        {CONTRADICTED: 1},
    ),
    "Chatbot Arena": (
        [
            {**ARENA, "conversation_a": said(*one), "conversation_b": said(*other), "winner": winner}
            for one, other, winner in (
                ((ASKED, GOOD), (ASKED, BAD), "model_a"),
                ((ASKED, GOOD), (ASKED, BAD), "model_b"),
                ((ASKED, GOOD), (ASKED, BAD), "tie"),
                ((ASKED, GOOD), (ASKED, BAD), "tie (bothbad)"),
                ((ASKED, GOOD, "Sure?", "Yes."), (ASKED, BAD, "Sure?", "No."), "model_a"),
            )
        ],
        [preference(GOOD, BAD), preference(BAD, GOOD)],
        {TIES: 2, OTHER_CONVERSATIONS: 1},
    ),
    "Chatbot Arena on Kaggle": (
        [
            {**KAGGLE, "response_a": json.dumps([GOOD]), "response_b": json.dumps([BAD])}
            | dict(zip(("winner_model_a", "winner_model_b", "winner_tie"), winner, strict=True))
            for winner in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        ],
        [preference(GOOD, BAD), preference(BAD, GOOD)],
        {TIES: 1},
    ),
    "WebGPT's comparisons": (
        [{**WEBGPT, "score_0": score, "score_1": -score} for score in (1.0, -0.25, 0.0)],
        [preference(GOOD, BAD, margin=1.0), preference(BAD, GOOD, margin=0.25)],
        {TIES: 1},
    ),
    "OpenAI's summaries": (
        [
            {
                "info": {"id": "7", "post": ASKED},
                "summaries": [{"text": GOOD}, {"text": BAD}],
                "choice": place,
                "worker": "w",
            }
            for place in (0, 1)
        ],
        [preference(GOOD, BAD), preference(BAD, GOOD)],
        {},
    ),
    "OpenAI's fine-tuning": (
        [
            {"input": {"messages": said("Where?", "Here.", "Sure?"), "tools": []}}
            | {"preferred_output": said("", GOOD)[1:], "non_preferred_output": said("", BAD)[1:]}
        ]
        * 2,
        [preference(GOOD, BAD, "Where?", "Here.", "Sure?")] * 2,
        {},
    ),
    "OpenAssistant's trees": (
        [
            {"message_tree_id": "t1", "tree_state": "ready_for_export", "prompt": tree("1")},
            {
                "message_tree_id": "t2",
                "tree_state": "ready_for_export",
                "prompt": {**OTHER_TREE[0], "replies": OTHER_TREE[1:]},
            },
        ],
        RANKED,
        {"nobody ranked answers in them": 1},
    ),
    # Another tree's messages stand between those of one.
    "OpenAssistant's messages": (
        [*MESSAGES[:4], *OTHER_TREE, *MESSAGES[4:]],
        RANKED,
        {"nobody ranked answers in them": 1},
    ),
    "Alpaca": (
        [
            {"instruction": ASKED, "input": more, "output": GOOD, "text": "Below is an instruction."}
            for more in ("", "Now.")
        ],
        [shown(GOOD, ASKED), shown(GOOD, f"{ASKED}\n\nNow.")],
        {},
    ),
    "UltraChat": (
        [{"prompt": "Where?", "prompt_id": "7", "messages": said("Where?", "Here.", "Sure?", "Yes.")}] * 2,
        [shown("Here.", "Where?"), shown("Yes.", "Where?", "Here.", "Sure?")] * 2,
        {},
    ),
    "UltraChat's texts": (
        [{"id": "7", "data": ["Where?", "Here.", "Sure?", "Yes.", "Fine."]}] * 2,
        [shown("Here.", "Where?"), shown("Yes.", "Where?", "Here.", "Sure?")] * 2,
        {},
    ),
}


def converted(content: Rows, folder: Path, **settings: Any) -> tuple[Converted, Rows]:
    """Return what a conversion tells, and the new rows as they are read."""
    (folder / "a.jsonl").write_bytes(as_lines(content))
    done = convert([str(folder / "a.jsonl")], str(folder / "new.jsonl"), **settings)
    reading = read((folder / "new.jsonl").read_bytes(), accepts=(done.kind,))
    assert not reading.found
    return done, reading.rows


@pytest.mark.parametrize("name", CASES)
def test_rows_of_a_well_known_dataset_become_rows_that_mean_the_same(name: str, tmp_path: Path) -> None:
    content, meant, left_out = CASES[name]
    [known] = [known for known in WELL_KNOWN if known.name == name]
    done, rows = converted(content, tmp_path, to="preference" if known.kind == "feedback" else known.kind)
    assert rows == meant
    assert done.left_out == left_out
    assert done.taken.startswith(f"rows as {name} has them: ")
    assert done.read == len(content)


def test_every_well_known_dataset_is_tried() -> None:
    assert CASES.keys() == {known.name for known in WELL_KNOWN}


@pytest.mark.parametrize("name", ["HH-RLHF", "UltraFeedback", "Alpaca", "UltraChat", "OpenAssistant's messages"])
def test_of_such_rows_the_prompts_can_be_had_alone(name: str, tmp_path: Path) -> None:
    content, meant, _ = CASES[name]
    _, rows = converted(content, tmp_path, to="prompt")
    prompts = [row["prompt"] for row in rows]
    assert all(row["prompt"] in [*prompts, *(prompt[:1] for prompt in prompts)] for row in meant)
    assert all(row.keys() == {"prompt"} for row in rows)


def test_a_score_beyond_its_scale_makes_a_row_of_another_dataset(tmp_path: Path) -> None:
    content = CASES["UltraFeedback in pairs"][0][:1]
    strange = {**content[0], "score_chosen": 100.0}
    with pytest.raises(DataError, match=r"row 201: scores of 100.0 and 1.0 are not on a scale of 9"):
        converted([*content * 200, strange], tmp_path)


def test_a_value_of_another_kind_is_told_in_words(tmp_path: Path) -> None:
    content = CASES["Nectar"][0][:1]
    strange = {**content[0], "answers": [{**answer, "rank": [1]} for answer in content[0]["answers"]]}
    with pytest.raises(DataError, match="row 201: a value in it is of another kind than it should be"):
        converted([*content * 200, strange], tmp_path)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every object or array in a value, with each of its keys or places."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@pytest.mark.parametrize("known", WELL_KNOWN, ids=lambda known: known.name)
def test_damaged_rows_are_no_rows_or_good_ones_and_never_break_it(known: WellKnown) -> None:
    pick = random.Random(known.name)
    layout = known.layout(set(known.fields))
    assert layout is not None
    for _ in range(40):
        content = copy.deepcopy(CASES[known.name][0])
        for _ in range(pick.choice([1, 1, 3])):
            target, key = pick.choice(list(places(content))[1:])
            target[key] = copy.deepcopy(pick.choice([*BAD_VALUES, pick.choice(list(places(content)))[0]]))
        records = [row for row in content if isinstance(row, dict) and row.keys() >= {*known.fields}]
        found = tried(layout, records, unfit=len(records))
        assert found.made >= 0
        assert found.left_out.total() + found.unfit <= len(records)


def test_a_message_without_a_name_is_not_its_own_reply() -> None:
    [known] = [known for known in WELL_KNOWN if known.name == "OpenAssistant's messages"]
    layout = known.layout(set(known.fields))
    assert layout is not None
    assert tried(layout, [message(1, None, "prompter", "Where?", message_id=None)]).made == 0
