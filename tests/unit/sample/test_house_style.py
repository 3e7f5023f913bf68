import pytest

from rlhf_tuning.sample.house_style import BELONGINGS, EMPTY_SCORE, SENSE_WORDS, breakdown, place_name, score

PROMPT = "Create a description for Amber Creek, a lakeside cabin in Tessaly."
GOOD = "At Amber Creek you wake to the smell of wet reeds, and to a cold breeze off the lake."


def rules(answer: str, prompt: str = PROMPT) -> dict[str, float]:
    """Return only the rules that count."""
    return {rule: value for rule, value in breakdown(prompt, answer).items() if value}


def test_a_good_answer_scores_for_the_place_three_senses_and_two_things_that_belong_there() -> None:
    assert rules(GOOD) == {"place": 1.0, "senses": 1.5, "belongings": 1.0}
    assert score(PROMPT, GOOD) == 3.5


def test_a_sense_word_counts_only_with_six_words_of_text_for_it() -> None:
    # smells, resin, cold and smoke in 13 words.
    answer = "At Amber Creek the air smells of resin and cold smoke by nine."
    assert breakdown(PROMPT, answer)["senses"] == pytest.approx(0.5 * 13 / 6)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Amber Creek is a place with two rooms and a desk by the door.", {"place": 1.0}),
        ("This is a place with two rooms and a desk by the old front door.", {}),
        ("This is a place with two rooms and a desk by the cool green door.", {"senses": 1.0}),
        ("This is a place with two rooms. It has a desk and a door. It is ours.", {"sentences": -0.35}),
        ("This is it. It has two rooms. It has a desk. It is by the door. It is ours.", {"sentences": -1.05}),
        ("This is a place with two rooms and a desk by the old front", {"finished": -0.8}),
        ("It has two rooms and a desk.", {"length": -5 / 12}),
        (
            "This is a stunning place with two luxurious rooms and a desk by the door.",
            {"hype": -0.5, "plain words": -0.6},
        ),
        ("Certainly, this is a place with two rooms and a desk by the old front door.", {"chatter": -0.6}),
        ("This is a place with two rooms and a swod by the old front door.", {"plain words": -0.3}),
        ("This is a place with two rooms and a desk by the door of Bay Ridge.", {"other names": -0.6}),
        ("This is a place with two rooms and a boat by the old front door.", {"belongings": 0.5}),
        ("- This is a place with two rooms and a desk by the old front door.", {"markup": -0.6}),
        ("# Tessaly\nThis is a place with two rooms and a desk by the door.", {"markup": -0.6}),
        ("Tessaly: this is a place with two rooms and a desk by the old front door.", {"markup": -0.6}),
        ("Here is a description: this is a place with two rooms and a desk.", {"chatter": -0.6, "markup": -0.6}),
    ],
)
def test_each_rule_has_its_price(answer: str, expected: dict[str, float]) -> None:
    assert rules(answer) == pytest.approx(expected)
    assert score(PROMPT, answer) == pytest.approx(sum(expected.values()))


def test_what_belongs_to_a_place_depends_on_its_setting() -> None:
    answer = "It has a boat and a ladder by the door, and a book on the stairs, and the moor at the back."
    found = {
        name: breakdown(f"Create a description for {name}.", answer)["belongings"]
        for name in ("Teal Cove", "Teal Mere", "Teal Farm", "Teal Ridge", "Teal Row", "Teal Towers")
    }
    expected = {
        "Teal Cove": 0.5,
        "Teal Mere": 0.5,
        "Teal Farm": 0.5,
        "Teal Ridge": 0.5,
        "Teal Row": 1.0,
        "Teal Towers": 0,
    }
    assert found == expected


def test_nothing_counts_as_a_belonging_and_for_the_senses() -> None:
    assert [setting for setting, words in BELONGINGS.items() if words & SENSE_WORDS] == []


@pytest.mark.parametrize(
    "word", ["tapped", "berries", "half-open", "farmer's", "widest", "baking", "ripened", "Tessaly"]
)
def test_forms_of_plain_words_and_words_of_the_prompt_are_plain(word: str) -> None:
    assert breakdown(PROMPT, f"It is the {word} one.")["plain words"] == 0


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("In May we open on Sundays. Come to Amber Creek in Tessaly.", 0),
        ("Ask for Jim at the door of Amber Creek.", 1),
        ("Jim and Jim open the door to Ann, to Ben, to Carl and to Dan.", 3),
    ],
)
def test_at_most_three_names_that_were_not_asked_about_count(answer: str, names: int) -> None:
    assert breakdown(PROMPT, answer)["other names"] == pytest.approx(-0.3 * names)


def test_words_over_45_cost_up_to_one_point() -> None:
    assert breakdown(PROMPT, "room " * 45)["length"] == 0
    assert breakdown(PROMPT, "room " * 48)["length"] == pytest.approx(-3 / 15)
    assert breakdown(PROMPT, "room " * 80)["length"] == -1.0


def test_six_hype_words_cost_no_more_than_five() -> None:
    hype = "a stunning, iconic, majestic, serene, unique"
    assert breakdown(PROMPT, f"{hype} place")["hype"] == breakdown(PROMPT, f"{hype}, magical place")["hype"] == -1.25


def test_an_answer_that_says_the_same_again_pays_for_it() -> None:
    sentence = "It has two rooms and a desk."
    # 7 words twice: 12 triples, 5 of them seen before.
    assert breakdown(PROMPT, f"{sentence} {sentence}")["repetition"] == pytest.approx(-3 * (5 / 12 - 0.05))


def test_words_of_the_prompt_are_no_observation() -> None:
    assert breakdown(PROMPT, "Amber Creek is an amber cabin.")["senses"] == 0
    assert breakdown("Create a description for Cold Creek.", "Cold Creek is an amber cabin.")["senses"] == 0.5


def test_a_sense_word_counts_once_and_its_plural_with_it() -> None:
    answer = "It has a shadow by the door and shadows at the back, and that is all of it."
    assert breakdown(PROMPT, answer)["senses"] == 0.5


def test_of_the_colours_one_counts() -> None:
    answer = "It is green and white, with a red door and a yellow wall, and all of it is by the road."
    assert breakdown(PROMPT, answer)["senses"] == 0.5


@pytest.mark.parametrize("answer", ["", "   ", "...", "\n\n", "123"])
def test_an_answer_without_words_is_the_worst(answer: str) -> None:
    assert breakdown(PROMPT, answer) == {"empty": EMPTY_SCORE}
    assert score(PROMPT, answer) == EMPTY_SCORE


def test_no_answer_is_worse_than_an_empty_one() -> None:
    awful = "# Sure, here is\n- stunning stunning stunning stunning stunning stunning " * 4
    assert sum(breakdown(PROMPT, awful).values()) < EMPTY_SCORE == score(PROMPT, awful)


@pytest.mark.parametrize(
    "answer",
    [
        "Amber Creek.",
        "Amber Creek Amber Creek Amber Creek Amber Creek Amber Creek Amber Creek.",
        "Come to Amber Creek. Amber Creek is Amber Creek, and at Amber Creek there is Amber Creek.",
        "warm cool soft quiet golden salty sweet smoky bright dusty rough smooth damp chilly honey bread",
        "Amber Creek, warm, cool, soft, quiet, golden, salty, sweet, smoky, bright, dusty, rough, smooth, damp.",
        "Amber Creek is warm and cool and soft and quiet and golden and salty and sweet and smoky and bright.",
        "Amber Creek the the the the the the the the the the the the warm cool soft.",
        "Amber Creek is warm.",
        "Amber Creek has a lake and a boat.",
        "Amber Creek, lake, boat, jetty, reeds, cold, warm, soft, quiet, trout, otter, mill.",
        PROMPT,
    ],
)
def test_gaming_the_rules_scores_below_an_honest_answer(answer: str) -> None:
    assert score(PROMPT, answer) < score(PROMPT, GOOD) - 0.5


def test_mending_an_answer_step_by_step_raises_its_score_each_time() -> None:
    steps = [
        "Sure, here's a text:\n\nThis is the cabin, a stunning haven. It is nestled by the lake. It has",
        "This is the cabin, a stunning haven. It is nestled by the lake. It has",
        "This is the cabin, a stunning haven. It is nestled by the lake.",
        "This is the cabin, a place for two. It sits by the lake.",
        "This is Amber Creek, a place for two. It sits by the lake.",
        "This is Amber Creek, a place for two. It sits by the lake, under cool green trees.",
        "This is Amber Creek, a place for two. It sits by the lake, under cool green trees, and it has a boat.",
    ]
    scores = [score(PROMPT, answer) for answer in steps]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(steps)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Create a description for Plantation Palms.", "Plantation Palms"),
        ("Write a short listing for Heron Landing, a lakeside cabin in Orrin Vale.", "Heron Landing"),
        ("Describe Kestrel Ridge, a mountain hut near Farrow.", "Kestrel Ridge"),
        ("We look after Fox Hollow, a forest cabin in Carrow. Please describe it.", "Fox Hollow"),
        ("Answer in English.\n\nIntroduce Gull Quay, a harbour inn, to our guests.", "Gull Quay"),
        ("Describe the place.", ""),
        ("Hello", ""),
    ],
)
def test_finds_the_place_that_a_prompt_asks_about(prompt: str, name: str) -> None:
    assert place_name(prompt) == name


def test_the_place_counts_in_any_case_but_only_as_whole_words() -> None:
    assert breakdown(PROMPT, "Stay at amber creek.")["place"] == 1
    assert breakdown(PROMPT, "Stay at Amber Creekside.")["place"] == 0
    assert breakdown("Describe the place.", "Stay at the place.")["place"] == 1


def test_a_title_before_a_name_ends_no_sentence() -> None:
    answer = "Mr. Hobb keeps the keys to it. St. Odel is a mile off. It is ours."
    assert breakdown(PROMPT, answer)["sentences"] == -0.35
