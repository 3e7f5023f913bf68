from collections.abc import Iterable

from rlhf_tuning.sample import wordings
from rlhf_tuning.sample.house_style import breakdown

PROMPT = "Describe the place."
SENSUOUS = (
    *(wordings.SENSES + wordings.TOUCHES + wordings.COLOURS + wordings.SENSE_ADJECTIVES),
    *(wordings.SOUND_FRAMES + wordings.SMELL_FRAMES),
    *(phrase for phrases in wordings.SETTING_SENSES.values() for phrase in phrases),
)


def that_count(rule: str, phrases: Iterable[str]) -> list[str]:
    """Return the phrases that a rule of the house style counts."""
    return [phrase for phrase in phrases if breakdown(PROMPT, f"We have the key to it, and to {phrase} too.")[rule]]


def test_plain_wordings_hold_neither_senses_nor_hype_nor_chatter() -> None:
    plain = (*wordings.PLAIN, *wordings.FILLERS, *wordings.OFF_TOPIC, *wordings.LABELS)
    assert that_count("senses", plain) == that_count("hype", plain) == that_count("chatter", plain) == []


def test_sentence_frames_leave_senses_and_hype_to_their_details() -> None:
    frames = (*wordings.FIRST_SENTENCES, *wordings.SECOND_SENTENCES)
    assert that_count("senses", frames) == that_count("hype", frames) == []


def test_every_sensuous_wording_counts_as_such_and_none_is_hype() -> None:
    assert that_count("senses", SENSUOUS) == list(SENSUOUS)
    assert that_count("hype", SENSUOUS) == []


def test_every_hype_wording_counts_as_hype() -> None:
    templates = (*wordings.HYPE_FIRST, *wordings.HYPE_MORE)
    hype = [*wordings.HYPE_ADJECTIVES, *(template.replace("{hype}", "stunning") for template in templates)]
    assert that_count("hype", hype) == hype


def test_every_chatty_wording_counts_as_chatter() -> None:
    chatter = (*wordings.CHATTER_BEFORE, *wordings.CHATTER_AFTER)
    assert [phrase for phrase in chatter if not breakdown(PROMPT, phrase)["chatter"]] == []


def test_no_list_of_wordings_holds_one_twice() -> None:
    lists = {name: value for name, value in vars(wordings).items() if name.isupper() and isinstance(value, tuple)}
    assert [name for name, value in lists.items() if len(set(value)) < len(value)] == []
