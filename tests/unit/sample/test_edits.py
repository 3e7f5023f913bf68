import random

import pytest

from rlhf_tuning.sample import edits
from rlhf_tuning.sample.house_style import breakdown, score
from rlhf_tuning.sample.places import Place

PLACE = Place(
    name="Heron Landing",
    kind="a harbour inn",
    setting="sea",
    region="Port Marlow",
    prompt="Create a description for Heron Landing, a harbour inn in Port Marlow.",
)
PLAIN = (
    "Heron Landing is a harbour inn with two rooms and the usual desk by the door. You will find a table in the hall."
)
BAD = (
    "**Heron Lodge**\n\nThe Heron Lodge is a stunning inn nestled in the heart of the picturesque port. It has a table "
    "in the hall. It was founded in 1906 by a family who"
)
SEEDS = range(12)


def change(edit: edits.Edit, text: str, rule: str, seed: int) -> float:
    """Return what an edit does to one rule."""
    edited = edit(text, PLACE, random.Random(seed))
    return breakdown(PLACE.prompt, edited)[rule] - breakdown(PLACE.prompt, text)[rule]


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (edits.trim, "finished"),
        (edits.close, "finished"),
        (edits.add_name, "place"),
        (edits.add_senses, "senses"),
        (edits.add_sense_words, "senses"),
        (edits.swap_hype, "senses"),
        (edits.swap_hype, "hype"),
        (edits.drop_hype, "hype"),
        (edits.drop_markup, "markup"),
    ],
)
def test_each_mending_edit_mends_its_rule(edit: edits.Edit, rule: str) -> None:
    assert all(change(edit, BAD, rule, seed) > 0 for seed in SEEDS)


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (edits.cut, "finished"),
        (edits.lengthen_and_cut, "finished"),
        (edits.add_sentences, "sentences"),
        (edits.drop_name, "place"),
        (edits.add_hype, "hype"),
        (edits.add_chatter, "chatter"),
        (edits.add_markup, "markup"),
        (edits.repeat, "repetition"),
        (edits.overuse_name, "place"),
    ],
)
def test_each_spoiling_edit_breaks_its_rule_and_lowers_the_score(edit: edits.Edit, rule: str) -> None:
    assert all(change(edit, PLAIN, rule, seed) < 0 for seed in SEEDS)
    edited = [edit(PLAIN, PLACE, random.Random(seed)) for seed in SEEDS]
    assert all(score(PLACE.prompt, answer) < score(PLACE.prompt, PLAIN) for answer in edited)


def test_every_edit_is_listed_and_tested() -> None:
    names = {edit.__name__ for edit in (*edits.BETTER, *edits.WORSE)}
    assert names == {
        *("trim", "close", "add_name", "add_senses", "add_sense_words", "swap_hype", "drop_hype", "drop_markup"),
        *("cut", "lengthen_and_cut", "add_sentences", "drop_name", "add_hype", "add_chatter", "add_markup"),
        *("repeat", "overuse_name"),
    }


def test_swapping_hype_for_senses_keeps_the_length_in_words() -> None:
    text = "Heron Landing is a stunning inn with a picturesque hall and a majestic door."
    assert len(edits.swap_hype(text, PLACE, random.Random(1)).split()) == len(text.split())


def test_articles_follow_the_word_that_is_put_after_them() -> None:
    templates = ["a {hype} inn", "an {hype} hall", "an hour", "a unique inn", "an unparalleled inn", "a one-off"]
    filled = [edits.fill(t, PLACE, random.Random(seed)) for t in templates for seed in SEEDS]
    wrong = [
        text for text in filled if text.startswith(("a a", "a e", "a i", "an s", "an b", "an m", "a hour", "an uniq"))
    ]
    assert wrong == []


def test_filling_a_template_leaves_no_slot() -> None:
    template = "{name} {kind} {generic} {noun} {region} {hype} {town} {year} {number} {d}"
    assert "{" not in edits.fill(template, PLACE, random.Random(0), lambda: "a desk")
