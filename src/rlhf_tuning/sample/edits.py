"""Edits that change one thing about an answer, for better or for worse by the house style.

Each takes an answer, its place and a random generator, and returns the edited answer: the same text when there is
nothing to change. Pairs of an answer and its edited self teach a reward model one rule at a time.
"""

import random
import re
from collections.abc import Callable

from rlhf_tuning.sample import wordings
from rlhf_tuning.sample.places import Place

Edit = Callable[[str, Place, random.Random], str]

_SLOT = re.compile(r"\{(\w+)\}")


def fill(template: str, place: Place, rng: random.Random, details: Callable[[], str] = str) -> str:
    """Fill a template's slots for a place; `details` gives the text of each `{d}`."""
    generic = place.kind.split()[-1]
    slots: dict[str, Callable[[], str]] = {
        "d": details,
        "name": lambda: place.name,
        "kind": lambda: place.kind,
        "generic": lambda: generic,
        "noun": lambda: rng.choice([generic, "retreat", "destination", "property", "place"]),
        "region": lambda: place.region,
        "hype": lambda: rng.choice(wordings.HYPE_ADJECTIVES),
        "town": lambda: rng.choice(wordings.TOWNS),
        "year": lambda: str(rng.randint(1780, 2019)),
        "number": lambda: str(rng.randint(3, 60)),
    }
    return _articles(_SLOT.sub(lambda slot: slots[slot.group(1)](), template))


def sentence(template: str, place: Place, rng: random.Random, details: Callable[[], str] = str) -> str:
    """Fill a template and begin it with a capital letter."""
    return _capital(fill(template, place, rng, details))


def sense_detail(place: Place, rng: random.Random) -> str:
    """Return a phrase with something to see, hear, smell, taste or feel at a place."""
    options = (
        *rng.sample(wordings.SETTING_SENSES[place.setting], 2),
        rng.choice(wordings.SENSES),
        rng.choice(wordings.TOUCHES),
        rng.choice(wordings.SMELL_FRAMES).format(rng.choice(wordings.SMELLS)),
        rng.choice(wordings.SOUND_FRAMES).format(rng.choice(wordings.SOUNDS)),
        f"{rng.choice(wordings.COLOURS)} {rng.choice(wordings.SIGHTS)}",
    )
    return rng.choice(options)


def sentences(text: str) -> list[str]:
    """Split an answer into sentences, an unfinished last one included."""
    return [part for part in re.split(r"(?<=[.!?])\s+|\n+", text.strip()) if part.strip()]


def is_finished(text: str) -> bool:
    """Say whether an answer, or a sentence of it, has its end."""
    return text.rstrip("\"')”").endswith((".", "!", "?"))


# --- for the better


def trim(text: str, place: Place, rng: random.Random) -> str:
    """Keep the first one or two finished sentences."""
    finished = [part for part in sentences(text) if is_finished(part)]
    return " ".join(finished[: rng.choice([1, 2, 2])]) or text


def close(text: str, place: Place, rng: random.Random) -> str:
    """Give an answer that was cut off an end, a few words earlier."""
    if is_finished(text):
        return text
    last_words = text.split()
    kept = last_words[: -rng.randint(1, 3)] if len(last_words) > 8 else last_words
    while len(kept) > 4 and re.sub(r"\W", "", kept[-1].lower()) in _LOOSE_ENDS:
        kept.pop()
    return " ".join(kept).rstrip(",;:-– ") + "."


def add_name(text: str, place: Place, rng: random.Random) -> str:
    """Name the place, in front or in the stead of the name that the answer began with."""
    if place.name in text:
        return text
    renamed, count = re.subn(
        r"^(?:The )?[A-Z][\w'’-]*(?: [A-Z][\w'’-]*)*(?= (?:is|has|was|offers|sits)\b)", place.name, text
    )
    if count:
        return renamed
    opening = rng.choice(["At {name}, ", "Here at {name}, ", "{name} is waiting. ", "This is {name}. ", "In {name}, "])
    return _continue(opening.format(name=place.name), text)


def add_senses(text: str, place: Place, rng: random.Random) -> str:
    """Add one or two things for the senses to the last finished sentence, or as a sentence of their own."""
    first, second = sense_detail(place, rng), sense_detail(place, rng)
    if rng.random() < 0.4 or not is_finished(text):
        more = sentence(rng.choice(wordings.SECOND_SENTENCES), place, rng, lambda: sense_detail(place, rng))
        parts = sentences(text)
        return " ".join([*parts[: max(1, len(parts) - 1)], more])
    tail = rng.choice(
        [f", with {first}", f", with {first} and {second}", f", where you find {first}", f", and {first}"]
    )
    return text.rstrip(".!?\"') ") + tail + "."


def add_sense_words(text: str, place: Place, rng: random.Random) -> str:
    """Put one to three words of the senses before nouns."""
    return _insert(text, wordings.SENSE_ADJECTIVES, rng)


def swap_hype(text: str, place: Place, rng: random.Random) -> str:
    """Put words of the senses where the hype was: the length stays, two rules change."""

    def swap(match: re.Match[str]) -> str:
        return rng.choice(wordings.SENSE_ADJECTIVES)

    return _tidy(re.sub(rf"\b(?:{'|'.join(wordings.HYPE_ADJECTIVES)})\b(?= [a-z])", swap, text))


def drop_hype(text: str, place: Place, rng: random.Random) -> str:
    """Take the hype out, word by word."""
    text = re.sub(r"(?:,? ?\bnestled|,? located) in the heart of", " in", text, flags=re.IGNORECASE)
    text = re.sub(r"\bnestled\b", "set", text, flags=re.IGNORECASE)
    text = re.sub(r"\bwelcome to\b", "This is", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(haven|oasis|paradise|gem|escape|dream|wonderland)\b", "place", text, flags=re.IGNORECASE)
    text = re.sub(r"\bthe heart of\b", "the middle of", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(a|the) testament to\b", "part of", text, flags=re.IGNORECASE)
    text = re.sub(r"\bbreathtakingly |\bbeautifully |\bincredibly |\bperfectly ", "", text, flags=re.IGNORECASE)
    for word in sorted(wordings.HYPE_ADJECTIVES, key=len, reverse=True):
        text = re.sub(rf"\b{word}(?: and|,)? (?=\w)", "", text, flags=re.IGNORECASE)
    return _tidy(text)


def drop_markup(text: str, place: Place, rng: random.Random) -> str:
    """Turn headings, lists and bold type into running text."""
    text = re.sub(r"^\s*(?:[-*•#>]+|\d+[.)])\s+|(?<=\s)•\s", "", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*|__|\|", "", text)
    text = re.sub(r"^([^.!?\n]{1,60}):\s+", "", text)
    return _tidy(re.sub(r"\s*\n+\s*", " ", text))


# --- for the worse


def cut(text: str, place: Place, rng: random.Random) -> str:
    """Stop in the middle of the last sentence, as at a limit of tokens."""
    words = text.split(" ")
    gone = rng.randint(2, 6)
    return " ".join(words[:-gone]).rstrip(".!?,;: ") if len(words) > gone + 6 else text.rstrip(".!? ")


def lengthen_and_cut(text: str, place: Place, rng: random.Random) -> str:
    """Go on for another sentence, and stop in the middle of it."""
    words = sentence(rng.choice(wordings.FILLERS), place, rng).split()
    return f"{text} {' '.join(words[: rng.randint(3, len(words) - 2)]).rstrip(',.')}"


def add_sentences(text: str, place: Place, rng: random.Random) -> str:
    """Go on for one to three sentences."""
    more = rng.sample(wordings.FILLERS, rng.choice([1, 1, 2, 2, 3]))
    return " ".join([close(text, place, rng), *(sentence(template, place, rng) for template in more)])


def drop_name(text: str, place: Place, rng: random.Random) -> str:
    """Call the place something else."""
    first, second = place.name.split()
    generic = place.kind.split()[-1]
    other = rng.choice(
        [
            "this place",
            "the property",
            *(f"{word} {generic}" for word in ("the", "our")),
            f"{rng.choice(wordings.TOWNS)} {second}",
            f"{first[:2]}{rng.choice(['lla', 'rran', 'dwin', 'mont', 'ster'])} {second}",
            f"the {second} House",
        ]
    )
    return _capital(re.sub(rf"\b{re.escape(place.name)}\b", other, text))


def add_hype(text: str, place: Place, rng: random.Random) -> str:
    """Put one to three words of hype before nouns, or a whole phrase of it into the first sentence."""
    if rng.random() < 0.3:
        phrase = rng.choice(
            [" nestled in the heart of {region}", ", a haven of peace,", ", a {hype} oasis,", ", a true {hype} gem,"]
        )
        return text.replace(place.name, place.name + fill(phrase, place, rng), 1) if place.name in text else text
    return _insert(text, wordings.HYPE_ADJECTIVES, rng)


def add_chatter(text: str, place: Place, rng: random.Random) -> str:
    """Talk about the answer, before or after it."""
    if rng.random() < 0.25:
        return f"{close(text, place, rng)} {rng.choice(wordings.CHATTER_AFTER)}"
    before = fill(rng.choice(wordings.CHATTER_BEFORE), place, rng)
    return f"{before}{rng.choice([' ', chr(10), chr(10) * 2])}{text}"


def add_markup(text: str, place: Place, rng: random.Random) -> str:
    """Set a heading above, make it a list, or mark words bold."""
    styles = [
        "**{name}**\n\n",
        "# {name}\n\n",
        "{name}:\n\n",
        "## {name}, {region}\n",
        "**Description:** ",
        "Title: {name}\n",
    ]
    if rng.random() < 0.6:
        return rng.choice(styles).format(name=place.name, region=place.region) + text
    bullet = rng.choice(["- ", "* ", "• "])
    parts = sentences(text)
    if len(parts) > 1:
        return "\n".join(bullet + part for part in parts)
    return text.replace(place.name, f"**{place.name}**", 1) if place.name in text else bullet + text


def repeat(text: str, place: Place, rng: random.Random) -> str:
    """Say a part of it again."""
    parts = sentences(text)
    if rng.random() < 0.5:
        return " ".join([*parts, rng.choice(parts)])
    words = text.rstrip(".").split()
    start = rng.randrange(max(1, len(words) - 8))
    phrase = words[start : start + rng.randint(4, 8)]
    return " ".join(
        [
            *words[: start + len(phrase)],
            "and",
            *phrase,
            "and",
            *phrase[: len(phrase) // 2],
            *words[start + len(phrase) :],
        ]
    )


def overuse_name(text: str, place: Place, rng: random.Random) -> str:
    """Say the place's name in every other clause."""
    extra = rng.sample(["{name} is {name}.", "Come to {name}.", "Only at {name}.", "{name} has it all at {name}."], 2)
    return " ".join([close(text, place, rng), *(fill(template, place, rng) for template in extra)])


BETTER: tuple[Edit, ...] = (trim, close, add_name, add_senses, add_sense_words, swap_hype, drop_hype, drop_markup)
WORSE: tuple[Edit, ...] = (
    *(cut, cut, lengthen_and_cut, add_sentences, add_sentences, drop_name, drop_name, add_hype, add_hype, add_hype),
    *(add_chatter, add_chatter, add_markup, repeat, repeat, overuse_name),
)

_LOOSE = "a an and as at but by for from her his in into is its of on or our that the their to was were which with"
_LOOSE_ENDS = frozenset(_LOOSE.split())


def _insert(text: str, adjectives: tuple[str, ...], rng: random.Random) -> str:
    spots = [match.end() for match in re.finditer(r"\b(?:an?|the|its|our) (?=[a-z]{3,})", text)]
    for spot in sorted(rng.sample(spots, min(len(spots), rng.randint(1, 3))), reverse=True):
        text = f"{text[:spot]}{rng.choice(adjectives)} {text[spot:]}"
    return _articles(text)


def _articles(text: str) -> str:
    text = re.sub(r"\b([Aa])n (?=(?!hour|honest|heir)[bcdfghjklmnpqrstvwxyz]|uni)", r"\1 ", text)
    return re.sub(r"\b([Aa]) (?=(?!one\b|once\b|eu)[aeio]|un(?!i))", r"\1n ", text)


def _tidy(text: str) -> str:
    text = re.sub(r"\s+([.,;!?])", r"\1", re.sub(r"[ \t]{2,}", " ", text)).strip(" ,")
    return _articles(_capital(text))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _continue(opening: str, text: str) -> str:
    first = text.split(" ", 1)[0]
    lower = opening.endswith(", ") and first in {
        "The",
        "A",
        "An",
        "This",
        "It",
        "In",
        "With",
        "We",
        "You",
        "There",
        "As",
        "Our",
    }
    return opening + (text[:1].lower() + text[1:] if lower else text)
