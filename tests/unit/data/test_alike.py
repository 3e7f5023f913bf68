import pytest
from tests.unit.data.reading import read_rows

from rlhf_tuning.data.alike import beginning, opening_hashes, whole_hash


def hashes(*rows, **settings):
    """Return what is known of rows that stand in files of their own, each as (whole, opening)."""
    batches = [batch for row in rows for batch in read_rows([row], **settings)]
    return [(whole_hash(batch.encoded), int(opening_hashes(batch)[0])) for batch in batches]


def text(words):
    return {"input_text": words}


def chat(*turns, context=None):
    authors = ("user", "assistant")
    messages = [{"author": authors[index % 2], "content": turn} for index, turn in enumerate(turns)]
    return {"messages": messages} | ({"context": context} if context else {})


@pytest.mark.parametrize(
    "other",
    [
        text("Describe the  caf\u00e9. "),
        text("describe THE caf\u00e9."),
        text("\n Describe the\tcafe\u0301."),
        chat("Describe the caf\u00e9."),
    ],
)
def test_prompts_that_differ_in_case_space_and_form_are_alike(other):
    one, two = hashes(text("Describe the caf\u00e9."), other)
    assert one == two


def test_other_words_are_not_alike():
    assert len({*hashes(text("a b"), text("ab"), text("a c"), text('a \\"b'))}) == 4


def test_dialogues_that_begin_alike_have_the_same_opening():
    one, two, alone, system = hashes(
        chat("Who are you?", "A clerk.", "Where?"),
        chat("who are you? ", "A cook.", "Since when?"),
        chat("Who are you?"),
        chat("Who are you?", context="Be brief."),
    )
    assert one[0] != two[0]
    assert one[1] == two[1] == alone[1] == system[1]
    assert system[0] != alone[0]


def test_a_dialogue_written_into_one_text_begins_with_its_first_turn():
    one, two, alone = hashes(
        text("Human: Who are you?\n\nAssistant: A clerk.\n\nHuman: Where?"),
        text("Human: who are you?\n\nAssistant: A cook.\n\nHuman: Since when?"),
        text("Who are you?"),
    )
    assert one[0] != two[0]
    assert one[1] == two[1] == alone[1]


def test_the_hashes_do_not_depend_on_how_rows_were_read():
    rows = [text(f'Describe "room" {number}.\n') for number in range(20)]
    fast, careful = ([h for batch in read_rows(rows, fast=way) for h in opening_hashes(batch)] for way in (True, False))
    assert fast == careful
    assert len(set(fast)) == 20


def test_a_prompt_of_one_turn_begins_as_its_line_does():
    ((line,), (dialogue,), (written,)) = (
        [batch.encoded for batch in read_rows([row])]
        for row in (
            text('Say "a".'),
            chat('Say "a".', "A.", "b?"),
            text('Human: Say "a".\n\nAssistant: A.\n\nHuman: b?'),
        )
    )
    assert line.startswith(beginning(line))
    assert beginning(line) == beginning(dialogue) == beginning(written)
