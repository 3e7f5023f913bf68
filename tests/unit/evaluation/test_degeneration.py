import pytest

from rlhf_tuning.evaluation.degeneration import distinct, is_refusal, is_repetitive, repetition


def test_repetition_is_the_share_of_runs_that_stood_before():
    # Runs of two: a b, b a, a b, b a; the last two are repeats.
    assert repetition("a b a b a", n=2) == 0.5
    assert repetition("a b c d e") == 0.0


@pytest.mark.parametrize("text", ["", "one", "one two three four", "!!! ???"])
def test_what_is_too_short_to_repeat_does_not(text):
    assert repetition(text) == 0.0
    assert not is_repetitive(text)


def test_an_answer_that_loops_is_repetitive_and_prose_is_not():
    assert is_repetitive("The beach is lovely. " * 6)
    assert not is_repetitive("Plantation Palms lies by the sea. Its rooms are bright, and breakfast is served outside.")


def test_case_and_punctuation_do_not_hide_repetition():
    assert is_repetitive("Come and see us! come, and see us. COME AND SEE US? come and see us;")


def test_scripts_without_spaces_are_read_by_character():
    assert is_repetitive("海辺の宿です。" * 6)
    assert distinct("海辺の宿", 2) == 1.0


def test_distinct_is_the_share_of_different_runs():
    assert distinct("a b a b a", 2) == 0.5
    assert distinct("a", 2) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, that is not possible.",
        "I cannot provide a description.",
        "As an AI language model, I have no opinions.",
        '"I am unable to do that."',
        "Sorry, no.",
    ],
)
def test_refusals_are_known_by_their_beginning(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    ["", "You will not be sorry, come!", "I can help with that.", "The assistant can't swim.", "As an airport hotel"],
)
def test_other_answers_are_no_refusals(text):
    assert not is_refusal(text)
