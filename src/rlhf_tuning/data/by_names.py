"""What rows are taken for by the names of their fields and what those hold, where they are nearly ours.

What a value stands for is never guessed: names and labels are read together, and where they do not agree there is no layout.
To add a way to read such rows: a function, a line in `BY_NAMES`, and its rows in the test.
"""

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

from rlhf_tuning.data.fields import PREFERENCE_FIELDS
from rlhf_tuning.data.layout import (
    TIES,
    Layout,
    LeftOutError,
    Made,
    Record,
    UnclearError,
    check_scores,
    choice,
    common_prompt,
    pair,
)
from rlhf_tuning.data.nearest import SYNONYMS, closest_field, plain
from rlhf_tuning.data.problems import Fault, printable, shorten
from rlhf_tuning.data.rows import Conversation, Kind

#: Returns a value of a row.
Get = Callable[[Record], Any]

#: Fields that hold a conversation.
_TURNS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
_SYSTEM = {"system", "system_prompt", "system_message", "context"}
#: Fields that name the preferred one of several answers.
_LABELS = (
    *("choice", "label", "labels", "preference", "preferred", "winner", "better", "best", "selected", "chosen"),
    *("chosen_index", "chosen_id", "better_response", "better_response_id", "preferred_response", "preferred_index"),
)
#: What such a field holds where neither is preferred.
_NEITHER = frozenset({"tie", "tie (bothbad)", "bothbad", "both_bad", "equal", "neither", "same"})
_ANSWERS = ("output", "response", "completion", "answer")
#: Fields that say how good the only answer of a row is: whether people liked it, or by how much.
_LIKED = ("label", *SYNONYMS["label"])
_RATINGS = ("rating", *SYNONYMS["rating"])
_LIKES = {
    True: ("true", "up", "thumbs_up", "thumbsup", "like", "liked", "good", "positive", "upvote", "\N{THUMBS UP SIGN}"),
    False: (
        "false",
        "down",
        "thumbs_down",
        "thumbsdown",
        "dislike",
        "disliked",
        "bad",
        "negative",
        "downvote",
        "\N{THUMBS DOWN SIGN}",
    ),
}
#: What may be left out of rows that are taken for prompts alone.
_NO_PROMPT = {*_ANSWERS, *_LABELS} - {"chosen", *SYNONYMS["chosen"]}
#: Never left out: a row without them may mean something else.
_MEANT = frozenset(
    {*_TURNS, *_SYSTEM, *_LABELS, *_ANSWERS, "history", "answers", "responses", "completions", "margin"}
    | {"weight"}  # 0 says that an answer is not to be learnt
    | {name for field in ("prompt", "chosen", "rejected") for name in (field, *SYNONYMS[field])}
)

_NUMBERED = re.compile(r"(?P<stem>.*?[A-Za-z])(?:[_ -]?(?P<number>\d+)|[_ -](?P<letter>[ABab]))")
_NUMBER = re.compile(r"-?\d{1,9}(\.\d{1,9})?")
_SCORE = re.compile(r"score|rating|reward")


def has_meaning(name: str) -> bool:
    """Say whether a row without a field of this name may mean something else."""
    return plain(name) in _MEANT


def _listed(names: Iterable[str]) -> str:
    *first, last = (shorten(ascii(name)[1:-1]) for name in names)
    return f"{', '.join(first)} and {last}" if first else last


def _field(name: str) -> Get:
    return lambda record: record[name]


class Fields:
    """The fields of bad rows, and which of them have been found a use for.

    Args:
        records: The rows.
        faults: What is wrong with them.
        kind: What they are to be.
    """

    def __init__(self, records: Sequence[Record], faults: Sequence[Fault], kind: Kind) -> None:
        self.records, self.faults, self.kind = records, faults, kind
        self.common = [name for name in records[0] if all(name in record for record in records)]
        self.all = list(dict.fromkeys(name for record in records for name in record))
        self.used: list[str] = []
        self.words: list[str] = []

    def texts(self, names: Collection[str], *alike: str) -> list[str]:
        """Return the fields of these names that hold a text in every row; where there is none, one that is spelt alike."""
        found = [name for name in self.common if plain(name) in names]
        found = found or [name for field in alike if (name := closest_field(field, self.common))][:1]
        return [name for name in found if self.hold(name, str)]

    def hold(self, name: str, *kinds: type) -> bool:
        """Say whether a field holds values of some types in every row that has it; a truth value is no number here."""
        return all(type(record[name]) in kinds for record in self.records if name in record)

    def values(self, name: str) -> list[Any]:
        """Return what a field holds that every row has."""
        return [record[name] for record in self.records]

    def take(self, name: str, meaning: str = "") -> Get:
        """Note that a field is used, and for what; return what gets its value."""
        self.used.append(name)
        if meaning and plain(name) != meaning:
            self.words.append(f"{shorten(ascii(name)[1:-1])} is taken for {meaning}")
        return _field(name)

    def layout(self, rows: Callable[[Record], Iterable[Made]], *, but: Collection[str] = ()) -> Layout | None:
        """Return the layout that uses the fields used; None where another one may mean something.

        Args:
            rows: Returns those that one is made into.
            but: Names with a meaning that may be left out all the same.
        """
        left = [name for name in self.all if name not in self.used]
        texts = [name for name in left if self.hold(name, str)]
        if any(has_meaning(name) and plain(name) not in but for name in left) or _numbered(texts):
            return None
        words = [*self.words, *([f"{_listed(left)} {'is' if len(left) == 1 else 'are'} left out"] if left else [])]
        known = {*self.all}

        def of_known_fields(record: Record) -> Iterable[Made]:
            for name in record.keys() - known:
                if has_meaning(name):
                    raise ValueError(f"a field {name!a}, which the other rows do not have")
            return rows(record)

        return Layout(self.kind, printable("; ".join(words)) or "the fields are put where they belong", of_known_fields)


def _numbered(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the fields that are numbered alike, two or more of a kind: stem to number, or letter, to field."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            found.setdefault(match["stem"], {})[match["number"] or match["letter"]] = name
    kinds = (*([str(first + index) for index in range(count)] for first in (0, 1) for count in range(2, 10)),)
    return {
        stem: {key: fields[key] for key in sorted(fields)}
        for stem, fields in found.items()
        if sorted(fields) in (*kinds, ["A", "B"], ["a", "b"])
    }


def _prompt_text(fields: Fields) -> Get | None:
    """Return what gets a prompt that is one text; None where it is not clear which field that is."""
    names = fields.texts(("prompt", *SYNONYMS["prompt"]), "prompt", "input_text")
    if [plain(name) for name in names] == ["instruction"]:
        names += fields.texts(("context",))  # Dolly: what the instruction is about
    if sorted(map(plain, names)) in (["input", "instruction"], ["context", "instruction"]):
        names.sort(key=lambda name: plain(name) != "instruction")
        fields.used += names
        fields.words.append(f"{_listed(names)} together are taken for prompt")
        return lambda record: "\n\n".join(filter(str.strip, (record[name] for name in names)))
    if len(names) != 1:
        return None
    return fields.take(names[0], "" if plain(names[0]) == "input_text" else "prompt")


def _system(fields: Fields) -> str:
    """Return the field of a system prompt that stands by itself; empty where there is none."""
    known = _SYSTEM if "input_text" in fields.all else _SYSTEM - {"context"}  # elsewhere it may be a part of the prompt
    names = [name for name in fields.all if plain(name) in known]
    if len(names) != 1 or not fields.hold(names[0], str, type(None)):
        return ""
    fields.take(names[0], "the system turn")
    return names[0]


def _turns(fields: Fields, meaning: str = "prompt") -> Get | None:
    """Return what gets a prompt in messages, as our formats with `role` have them; None where there are none."""
    for name in fields.common:
        if plain(name) in ("prompt", "context", *_TURNS) and _have(fields.records, name, "role", "content"):
            return fields.take(name, "prompt")
        if plain(name) in ("prompt", *_TURNS) and _have(fields.records, name, "from", "value"):
            turns = fields.take(name, meaning)
            return lambda record: _shared_turns(turns(record))
    system = _system(fields)
    text = _prompt_text(fields) if system else None
    if text is None:
        return None

    def with_system(record: Record) -> Conversation:
        # Datasets with such a field have rows in which it is empty; those have no system turn.
        said = record.get(system)
        before = [{"role": "system", "content": said}] if said and said.strip() else []
        return [*before, {"role": "user", "content": text(record)}]

    return with_system


def _shared_turns(turns: Sequence[Record]) -> Conversation:
    """Return messages of `from` and `value`, as ShareGPT has them, as those of `role` and `content`."""
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    return [{"role": roles[turn["from"]], "content": turn["value"]} for turn in turns]


def _have(records: Sequence[Record], field: str, *keys: str) -> bool:
    """Say whether a field is an array of objects with some keys in all rows."""
    return all(
        isinstance(record[field], list)
        and record[field]
        and all(isinstance(turn, dict) and all(key in turn for key in keys) for turn in record[field])
        for record in records
    )


def from_zero(field: str) -> Layout:
    """Count the candidates from 0 where every row counts them from 1, so that good rows are meant otherwise too."""

    def rows(record: Record) -> Iterable[Made]:
        # Rows of another format may stand between them.
        if "[" not in field:
            yield {**record, "choice": _FROM_ONE[record["choice"]]} if "choice" in record else dict(record)
            return
        *turns, last = record.get("messages") or [{}]
        if "choice" not in last:
            yield dict(record)
            return
        yield {**record, "messages": [*turns, {**last, "choice": _FROM_ONE[last["choice"]]}]}

    return Layout("preference", "choice 1 is taken for candidate_0, and 2 for candidate_1", rows)


_FROM_ONE = {1: 0, 2: 1}


def _without_extras(fields: Fields) -> Layout | None:
    """Leave out the fields that alone make bad rows of good ones."""
    extra = sorted({fault.field.rpartition(".")[2] for fault in fields.faults})
    if {fault.code for fault in fields.faults} != {"extra_field"}:
        return None
    if {plain(name) for name in extra} & _MEANT or any(name.startswith("candidate_") for name in extra):
        return None
    scores = _scores(fields)

    def rows(record: Record) -> Iterable[Made]:
        scores(record)
        yield _without(record, extra)

    words = [f"{_listed(extra)} {'is' if len(extra) == 1 else 'are'} left out", *fields.words]
    return Layout(fields.kind, printable("; ".join(words)), rows, spares_others=True)


def _without(value: Any, names: Collection[str]) -> Any:
    """Return a value whose objects have no fields of some names."""
    if isinstance(value, list):
        return [_without(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _without(value[name], names) for name in value if name not in names}


def _with_authors(fields: Fields) -> Layout | None:
    """Call those who speak in messages by the field that chat rows have for it."""
    if "messages" not in fields.common or not _have(fields.records, "messages", "role", "content"):
        return None
    if not all({*record} <= {"messages", "context", *PREFERENCE_FIELDS} for record in fields.records):
        return None

    def rows(record: Record) -> Iterable[Made]:
        turns = [{"author" if name == "role" else name: turn[name] for name in turn} for turn in record["messages"]]
        yield {**record, "messages": turns}

    return Layout(fields.kind, "role is taken for author", rows, spares_others=True)


def _split_conversations(fields: Fields) -> Layout | None:
    """Take the prompt from answers that are whole conversations, as on many datasets of the Hugging Face hub."""
    if not all(
        name in fields.common and _have(fields.records, name, "role", "content") for name in ("chosen", "rejected")
    ):
        return None
    fields.used += ["chosen", "rejected"]
    fields.words.append(
        "what chosen and rejected have in common is taken for prompt, and their last messages for the answers"
    )
    scores, margin = _scores(fields), _margin(fields)
    repeated = [
        name
        for name in ("prompt", "messages")
        if all(_repeats(record, name) for record in fields.records if name in record)
    ]

    def rows(record: Record) -> Iterable[Made]:
        scores(record)
        yield pair(*common_prompt(record["chosen"], record["rejected"]), margin(record))

    return fields.layout(rows, but=repeated)


def _repeats(record: Record, name: str) -> bool:
    """Say whether a field holds what stands in `chosen` too."""
    turns = record["chosen"]
    return record[name] in (turns, turns[:-1], *(turn["content"] for turn in turns[:-1]))


def _scores(fields: Fields) -> Get:
    """Return what leaves a row out whose scores say otherwise than its answers' names, where both answers have one."""
    for name in fields.common:
        other = plain(name).replace("chosen", "rejected")
        [*others] = (each for each in fields.common if plain(each) == other != plain(name))
        numbers = all(fields.hold(each, int, float, type(None)) for each in (name, *others))
        if others and numbers and _SCORE.search(plain(name)):
            fields.words.append(f"rows whose {name} is not above {others[0]} are left out")
            fields.used += [name, others[0]]
            return lambda record: check_scores(record.get(name), record.get(others[0]))
    return lambda record: None


def _margin(fields: Fields) -> Get:
    """Return what gets a row's margin, None where rows have none."""
    if "margin" not in fields.common:
        return lambda record: None
    return fields.take("margin")


def _pairs(fields: Fields) -> Layout | None:
    """Find the prompt, the preferred answer and the other one by their names."""
    turns = _turns(fields)
    prompt = turns or _prompt_text(fields)
    chosen, rejected = _answer(fields, "chosen"), _answer(fields, "rejected")
    if prompt is None or chosen is None or rejected is None:
        return None
    scores, margin = _scores(fields), _margin(fields)
    repeated = [name for name in _ANSWERS if all(record.get(name) == record.get("chosen") for record in fields.records)]

    def rows(record: Record) -> Iterable[Made]:
        scores(record)
        yield pair(prompt(record), chosen(record), rejected(record), margin(record))

    return fields.layout(rows, but=repeated)


def _answer(fields: Fields, field: str) -> Get | None:
    """Return what gets an answer's text, which may stand in a message; None where there is none."""
    names = [name for name in fields.common if plain(name) in (field, *SYNONYMS[field])]
    names = names or [name for name in (closest_field(field, fields.common),) if name]
    if len(names) != 1:
        return None
    [name] = names
    if not all(isinstance(_text_of(record[name]), str) for record in fields.records):
        return None
    value = fields.take(name, field)
    return lambda record: _text_of(value(record))


def _text_of(value: Any) -> Any:
    """Return the text of an answer: itself, or that of a message, or of the only message of an array."""
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    if isinstance(value, dict) and len(value) == 2:
        return value.get("content", value.get("value"))
    return value


def _candidates(fields: Fields) -> Layout | None:
    """Find the prompt, the numbered answers, and which of them is preferred."""
    if "messages" in fields.common and _have(fields.records, "messages", "author", "content"):
        return _candidates_of_chat(fields)
    group = _answers(fields)
    prompt = _turns(fields) or _prompt_text(fields)
    if not group or prompt is None or {*map(plain, fields.common)} >= {"chosen", "rejected"}:
        return None
    names, preferred = list(group.values()), _preferred(fields, group)
    if len(names) == 2:
        margin = _margin(fields)
        _tell_candidates(fields, names)

        def two(record: Record) -> Iterable[Made]:
            yield choice(prompt(record), [record[name] for name in names], preferred(record), margin(record))

        return fields.layout(two)
    fields.words.append(
        "the preferred answer is taken for chosen, and each other one for rejected, in a row of its own"
    )

    def several(record: Record) -> Iterable[Made]:
        best = names[preferred(record)]
        for name in names:
            if name != best:
                yield pair(prompt(record), record[best], record[name])

    return fields.layout(several)


def _candidates_of_chat(fields: Fields) -> Layout | None:
    """Find two numbered answers of chat rows: beside the messages, or inside the last one."""
    fields.used += ["messages", *(name for name in fields.all if name == "context")]
    group = _answers(fields)
    if len(group) == 2:
        names, preferred, margin = list(group.values()), _preferred(fields, group), _margin(fields)
        _tell_candidates(fields, names)

        def beside(record: Record) -> Iterable[Made]:
            made = choice("", [record[name] for name in names], preferred(record), margin(record))
            kept = {name: record[name] for name in record if name in ("messages", "context")}
            yield {**kept, **{name: made[name] for name in made if name != "input_text"}}

        return fields.layout(beside)
    last = Fields([record["messages"][-1] for record in fields.records], fields.faults, fields.kind)
    last.used += ["author", "content"]
    group = _answers(last)
    if len(group) != 2:
        return None
    names, preferred = list(group.values()), _preferred(last, group)
    _tell_candidates(last, names)
    fields.words += last.words

    def inside(record: Record) -> Iterable[Made]:
        *turns, said = record["messages"]
        message = {"author": said["author"], "content": said["content"]}
        made = choice("", [said[name] for name in names], preferred(said))
        message |= {name: made[name] for name in made if name != "input_text"}
        yield {**record, "messages": [*turns, message]}

    return fields.layout(inside) if last.layout(inside) else None


def _tell_candidates(fields: Fields, names: Sequence[str]) -> None:
    for name, meaning in zip(names, ("candidate_0", "candidate_1"), strict=True):
        fields.words += [f"{name} is taken for {meaning}"] if name != meaning else []


def _answers(fields: Fields) -> dict[str, str]:
    """Return the fields of the numbered answers by their numbers or letters; none where it is not clear which these are."""
    names = [name for name in fields.common if name not in fields.used]
    groups = [group for group in _numbered(names).values() if all(fields.hold(name, str) for name in group.values())]
    if len(groups) != 1:
        return {}
    fields.used += groups[0].values()
    return groups[0]


def _preferred(fields: Fields, group: Mapping[str, str]) -> Callable[[Record], int]:
    """Return what gets the place of the preferred answer, and leaves out a row that prefers none.

    Raises:
        UnclearError: If that cannot be told from the names and the values together.
    """
    names = list(group.values())
    others = [name for name in fields.common if name not in names]
    labels = [name for name in others if plain(name) in _LABELS or name == closest_field("choice", others)]
    if len(labels) != 1:
        raise UnclearError(
            f"nothing in a row says which of {_listed(names)} is preferred"
            if not labels
            else f"{_listed(labels)} may all say which of {_listed(names)} is preferred"
        )
    [label] = labels
    values = {record[label] if isinstance(record[label], Hashable) else None for record in fields.records}
    places = _places(values - _NEITHER, group)
    if names == ["candidate_0", "candidate_1"] and label == "choice" and values <= {"0", "1"}:
        places = {"0": 0, "1": 1}  # our own fields, from a table of text
    if not values - _NEITHER <= places.keys():
        shown = ", ".join(shorten(value) for value in sorted(map(ascii, values))[:5])
        raise UnclearError(
            f"{printable(label)} holds {shown}, and the answers are {_listed(names)}: which value stands for which cannot "
            "be told"
        )
    fields.words.append(", ".join(f"{label} {value!r} is taken for {names[place]}" for value, place in places.items()))
    value = fields.take(label)

    def preferred(record: Record) -> int:
        if value(record) in _NEITHER:
            raise LeftOutError(TIES)
        return places[value(record)]

    return preferred


def _places(values: Collection[Any], group: Mapping[str, str]) -> dict[Any, int]:
    """Return what the values of a label stand for, as places among the answers; nothing where that is not clear."""
    names, numbers = list(group.values()), list(group)
    readings: list[list[Any]] = [names]
    if not numbers[0].isdigit():
        readings += [numbers, [letter.swapcase() for letter in numbers]]
    elif not any(isinstance(value, bool) for value in values):
        # Whether values count from 0 or from 1 is told by the lowest or the highest of them alone: 1 may be either.
        from_0, from_1 = list(range(len(names))), list(range(1, len(names) + 1))
        for counted, proof in ((from_0, 0), (from_1, len(names))):
            for reading in (counted, list(map(str, counted))):
                # Names from 1 with values from 0 may mean anything.
                if {proof, str(proof)} & {*values} and (numbers[0] == "0" or counted is from_1):
                    readings.append(reading)
    for reading in readings:
        if values and set(values) <= set(reading):
            return {value: place for place, value in enumerate(reading)}
    return {}


def _prompt_turns(fields: Fields) -> Layout | None:
    """Take the messages of a conversation for the prompt, up to the last of the user."""
    turns = _turns(fields)
    if turns is None:
        return None
    if any(turns(record)[-1]["role"] == "assistant" for record in fields.records):
        fields.words.append("a last message that is an answer is left out")

    def rows(record: Record) -> Iterable[Made]:
        said = turns(record)
        yield {"prompt": said[:-1] if said[-1]["role"] == "assistant" else said}

    return fields.layout(rows, but=_NO_PROMPT)


def _prompt(fields: Fields) -> Layout | None:
    """Find the prompt by its name."""
    prompt = _prompt_text(fields)
    if prompt is None:
        return None
    return fields.layout(lambda record: [{"prompt": prompt(record)}], but=_NO_PROMPT)


def _shown_dialogues(fields: Fields) -> Layout | None:
    """Take whole conversations of `from` and `value` for demonstrations."""
    if "conversations" not in fields.common or not _have(fields.records, "conversations", "from", "value"):
        return None
    turns = fields.take("conversations", "messages")
    return fields.layout(lambda record: [{"messages": _shared_turns(turns(record))}])


def _shown(fields: Fields) -> Layout | None:
    """Take a prompt with one answer, by whatever names, for a demonstration."""
    found = _prompt_and_answer(fields)
    return None if found is None else fields.layout(lambda record: [found(record)])


def _prompt_and_answer(fields: Fields) -> Get | None:
    """Return what gets a prompt with its completion; None where it is not clear which fields these are."""
    text = _prompt_text(fields)
    answers = fields.texts(("output_text", "completion", *SYNONYMS["completion"]))
    if text is None or len(answers) != 1:
        return None
    answer = fields.take(answers[0], "completion")
    return lambda record: {"prompt": text(record), "completion": answer(record)}


def _judged(fields: Fields) -> Layout | None:
    """Take a prompt with one answer, and what says how good that is, for feedback."""
    found = _prompt_and_answer(fields)
    if found is None:
        return None
    liked = [name for name in fields.common if plain(name) in _LIKED and fields.hold(name, bool, int, str)]
    rated = [name for name in fields.common if plain(name) in _RATINGS and all(map(_is_number, fields.values(name)))]
    if len(liked) == 1 and (places := _likes({*fields.values(liked[0])})):
        label = fields.take(liked[0], "label")
        return fields.layout(lambda record: [{**found(record), "label": places[label(record)]}], but=liked)
    if not liked and len(rated) == 1:
        rating = fields.take(rated[0], "rating")
        return fields.layout(lambda record: [{**found(record), "rating": float(rating(record))}])
    return None


def _is_number(value: object) -> bool:
    """Say whether a value is a number, or a text that is one, as a table of text has it."""
    return type(value) in (int, float) or (isinstance(value, str) and bool(_NUMBER.fullmatch(value)))


def _likes(values: Collection[Any]) -> dict[Any, bool]:
    """Return which of the values of a label are positive; nothing where that is not clear."""
    for yes, no in ((True, False), ("1", "0")):
        # 1 and 0 stand for true and false only where there is nothing else, and both.
        if values == {yes, no} or all(type(value) is bool for value in values):
            return {yes: True, no: False}
    meanings = {value: plain(str(value)) for value in values}
    found = {value: liked for liked, names in _LIKES.items() for value, name in meanings.items() if name in names}
    return found if found.keys() == set(values) else {}


#: By what the rows are to be; the first that makes good rows of them is taken.
BY_NAMES: dict[Kind, tuple[Callable[[Fields], Layout | None], ...]] = {
    "preference": (_without_extras, _with_authors, _split_conversations, _pairs, _candidates),
    "feedback": (_without_extras, _judged),
    "prompt": (_without_extras, _with_authors, _prompt_turns, _prompt),
    "demonstration": (_without_extras, _shown_dialogues, _shown),
}
