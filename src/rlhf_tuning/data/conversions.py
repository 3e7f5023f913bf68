"""What the rows of another make are taken for: those of well-known datasets, and those that are nearly ours.

What a value stands for is never guessed: names and labels are read together, and where they do not agree there is no
conversion. A program stops at the first row that it was not made for.

To add rows of another make: a function, a line in `CONVERSIONS`, and its rows in the test.
"""

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_tuning.data.fields import PREFERENCE_FIELDS
from rlhf_tuning.data.nearest import SYNONYMS, closest_field, plain
from rlhf_tuning.data.problems import Fault, shorten
from rlhf_tuning.data.rows import Kind

Record = Mapping[str, Any]

#: Fields that hold a conversation.
_TURNS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
_SYSTEM = {"system", "system_prompt", "system_message", "context"}
#: Fields that name the preferred one of several answers.
_LABELS = (
    *("choice", "label", "labels", "preference", "preferred", "winner", "better", "best", "selected", "chosen"),
    *("chosen_index", "chosen_id", "better_response", "better_response_id", "preferred_response", "preferred_index"),
)
_ANSWERS = ("output", "response", "completion", "answer")
#: What may be left out of rows that are taken for prompts alone.
_NO_PROMPT = {*_ANSWERS, *_LABELS} - {"chosen", *SYNONYMS["chosen"]}
_TIES = "they prefer neither answer"
#: Never left out: a row without them may mean something else.
_MEANT = frozenset(
    {*_TURNS, *_SYSTEM, *_LABELS, *_ANSWERS, "history", "answers", "responses", "completions"}
    | {"weight"}  # 0 says that an answer is not to be learnt
    | {name for field in ("prompt", "chosen", "rejected") for name in (field, *SYNONYMS[field])}
)

_NAME = re.compile(r"\w[\w .-]{0,79}")
_NUMBERED = re.compile(r"(?P<stem>.*?[A-Za-z])(?:[_ -]?(?P<number>\d+)|[_ -](?P<letter>[ABab]))")


@dataclass(frozen=True)
class Conversion:
    """A way to turn each row into one of ours.

    Args:
        taken: What is taken for what, in words.
        row: The new row, a Python expression of `row`.
        clauses: What follows `for row in ...`: more loops, or a condition.
        left_out: Which rows the condition leaves out, in words.
        spares_others: Whether rows that need no mending stay as they are.
    """

    taken: str
    row: str
    clauses: str = ""
    left_out: str = ""
    spares_others: bool = False

    @property
    def program(self) -> str:
        """Return the program, which reads rows from its standard input and prints the new ones."""
        modules = "json, re, sys" if "re." in self.row + self.clauses else "json, sys"
        return (
            f"import {modules}; [print(json.dumps({self.row})) for line in sys.stdin.buffer if line.strip() "
            f"for row in [json.loads(line)]{self.clauses}]"
        )


def _quoted(name: str) -> str:
    """Return a field's name as Python reads it; `_NAME` lets no quote nor backslash pass."""
    return f'"{ascii(name)[1:-1]}"'


def _listed(names: Iterable[str]) -> str:
    *first, last = (shorten(ascii(name)[1:-1]) for name in names)
    return f"{', '.join(first)} and {last}" if first else last


class UnclearError(Exception):
    """What a row means cannot be told, and why; nobody but us sees this one."""


class Fields:
    """The fields of bad rows, and which of them have been found a use for.

    Args:
        records: The rows.
        faults: What is wrong with them.
        variable: What a row is called in expressions.
    """

    def __init__(self, records: Sequence[Record], faults: Sequence[Fault], variable: str = "row") -> None:
        self.records, self.faults, self._variable = records, faults, variable
        self.common = [name for name in records[0] if all(name in record for record in records)]
        self.all = list(dict.fromkeys(name for record in records for name in record))
        self.used: list[str] = []
        self.words: list[str] = []

    def texts(self, names: Collection[str], *alike: str) -> list[str]:
        """Return the fields of these names that hold a text in every row; where there is none, one that is spelt alike."""
        found = [name for name in self.common if plain(name) in names]
        found = found or [name for field in alike if (name := closest_field(field, self.common))][:1]
        return [name for name in found if self.hold(name, str)]

    def hold(self, name: str, kind: type) -> bool:
        """Say whether a field holds values of one type in every row that has it."""
        return all(isinstance(record[name], kind) for record in self.records if name in record)

    def take(self, name: str, meaning: str = "") -> str:
        """Note that a field is used, and for what; return the expression of its value."""
        self.used.append(name)
        if meaning and plain(name) != meaning:
            self.words.append(f"{name} is taken for {meaning}")
        return self.of(name)

    def of(self, name: str) -> str:
        """Return the expression of a field's value."""
        return f"{self._variable}[{_quoted(name)}]"

    def conversion(
        self, row: str, *, but: Collection[str] = (), clauses: str = "", left_out: str = ""
    ) -> Conversion | None:
        """Return the conversion to a row made of the fields used; None where another one may mean something.

        Args:
            row: The expression.
            but: Names with a meaning that may be left out all the same.
            clauses: As of the conversion.
            left_out: Likewise.
        """
        left = [name for name in self.all if name not in self.used]
        if not all(map(_NAME.fullmatch, (*self.used, *left))):
            return None
        texts = [name for name in left if self.hold(name, str)]
        if any(plain(name) in _MEANT and plain(name) not in but for name in left) or _numbered(texts):
            return None
        words = [*self.words, *([f"{_listed(left)} {'is' if len(left) == 1 else 'are'} left out"] if left else [])]
        return Conversion("; ".join(words) or "the fields are put where they belong", row, clauses, left_out)


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


def _prompt_text(fields: Fields) -> str:
    """Return the expression of a prompt that is one text; empty where it is not clear which field that is."""
    names = fields.texts(("prompt", *SYNONYMS["prompt"]), "prompt", "input_text")
    if [plain(name) for name in names] == ["instruction"]:
        names += fields.texts(("context",))  # Dolly: what the instruction is about
    if sorted(map(plain, names)) in (["input", "instruction"], ["context", "instruction"]):
        names.sort(key=lambda name: plain(name) != "instruction")
        texts = ", ".join(map(fields.of, names))
        fields.used += names
        fields.words.append(f"{_listed(names)} together are taken for prompt")
        return f'"\\n\\n".join(filter(str.strip, ({texts})))'
    if len(names) != 1:
        return ""
    return fields.take(names[0], "" if plain(names[0]) == "input_text" else "prompt")


def _system(fields: Fields) -> str:
    """Return the expression of a system prompt that stands in a field of its own; empty where there is none."""
    known = _SYSTEM if "input_text" in fields.all else _SYSTEM - {"context"}  # elsewhere it may be a part of the prompt
    names = [name for name in fields.all if plain(name) in known]
    if len(names) != 1 or not all(isinstance(record.get(names[0]), str | None) for record in fields.records):
        return ""
    value = fields.take(names[0], "the system turn")
    return value if names[0] in fields.common else f"row.get({_quoted(names[0])})"


def _turns(fields: Fields, meaning: str = "prompt") -> str:
    """Return the expression of a prompt in messages, as our formats with `role` have them; empty where there are none."""
    for name in fields.common:
        if plain(name) in ("prompt", "context", *_TURNS) and _have(fields.records, name, "role", "content"):
            return fields.take(name, "prompt")
        if plain(name) in ("prompt", *_TURNS) and _have(fields.records, name, "from", "value"):
            roles = '{"system": "system", "human": "user", "gpt": "assistant"}'
            turns = fields.take(name, meaning)
            return f'[{{"role": {roles}[turn["from"]], "content": turn["value"]}} for turn in {turns}]'
    system = _system(fields)
    text = _prompt_text(fields) if system else ""
    if not text:
        return ""
    # Datasets with such a field have rows in which it is empty; those have no system turn.
    return (
        f'[{{"role": role, "content": text}} for role, text in (("system", {system}), ("user", {text})) '
        'if role == "user" or text and text.strip()]'
    )


def _have(records: Sequence[Record], field: str, *keys: str) -> bool:
    """Say whether a field is an array of objects with some keys in all rows."""
    return all(
        isinstance(record[field], list)
        and record[field]
        and all(isinstance(turn, dict) and all(key in turn for key in keys) for turn in record[field])
        for record in records
    )


def from_zero(field: str) -> Conversion:
    """Count the candidates from 0 where every row counts them from 1, so that good rows are meant otherwise too."""
    taken = "choice 1 is taken for candidate_0, and 2 for candidate_1"
    # Rows of another format may stand between them.
    if "[" not in field:
        row = '{**row, "choice": {1: 0, 2: 1}[row["choice"]]} if "choice" in row else row'
    else:
        last = '{**row["messages"][-1], "choice": {1: 0, 2: 1}[row["messages"][-1]["choice"]]}'
        chosen = '"choice" in row.get("messages", [{}])[-1]'
        row = f'{{**row, "messages": [*row["messages"][:-1], {last}]}} if {chosen} else row'
    return Conversion(taken, row, spares_others=True)


def _without_extras(fields: Fields) -> Conversion | None:
    """Leave out the fields that alone make bad rows of good ones."""
    extra = sorted({fault.field.rpartition(".")[2] for fault in fields.faults})
    if {fault.code for fault in fields.faults} != {"extra_field"} or not all(map(_NAME.fullmatch, extra)):
        return None
    if {plain(name) for name in extra} & _MEANT or any(name.startswith("candidate_") for name in extra):
        return None
    taken = f"{_listed(extra)} {'is' if len(extra) == 1 else 'are'} left out"
    names = f"({', '.join(map(_quoted, extra))},)"
    if not any("." in fault.field for fault in fields.faults):
        return Conversion(taken, f"{{name: row[name] for name in row if name not in {names}}}", spares_others=True)
    kept = f"{{name: found[name] for name in found if name not in {names}}}"
    return Conversion(taken, f"json.loads(line, object_hook=lambda found: {kept})", spares_others=True)


def _with_authors(fields: Fields) -> Conversion | None:
    """Call those who speak in messages by the field that chat rows have for it."""
    if "messages" not in fields.common or not _have(fields.records, "messages", "role", "content"):
        return None
    if not all({*record} <= {"messages", "context", *PREFERENCE_FIELDS} for record in fields.records):
        return None
    author = '{"author" if name == "role" else name: turn[name] for name in turn}'
    return Conversion(
        "role is taken for author", f'{{**row, "messages": [{author} for turn in row["messages"]]}}', spares_others=True
    )


def _split_conversations(fields: Fields) -> Conversion | None:
    """Take the prompt from answers that are whole conversations, as on many datasets of the Hugging Face hub."""
    if not all(
        name in fields.common and _have(fields.records, name, "role", "content") for name in ("chosen", "rejected")
    ):
        return None
    chosen, rejected = fields.take("chosen"), fields.take("rejected")
    fields.words.append(
        "what chosen and rejected have in common is taken for prompt, and their last messages for the answers"
    )
    repeated = [
        name
        for name in ("prompt", "messages")
        if all(_repeats(record, name) for record in fields.records if name in record)
    ]
    return fields.conversion(
        f'{{"prompt": {chosen}[:-1], "chosen": {chosen}[-1:], "rejected": {rejected}[-1:]}}',
        but=repeated,
        clauses=f" if {chosen}[:-1] == {rejected}[:-1]",
        left_out="their answers end different conversations",
    )


def _repeats(record: Record, name: str) -> bool:
    """Say whether a field holds what stands in `chosen` too."""
    turns = record["chosen"]
    return record[name] in (turns, turns[:-1], *(turn["content"] for turn in turns[:-1]))


def _dialogues(fields: Fields) -> Conversion | None:
    """Take the turns from answers that are whole dialogues in one text, as HH-RLHF has them."""
    if not all(
        name in fields.common
        and fields.hold(name, str)
        and all(record[name].lstrip().startswith("Human:") for record in fields.records)
        for name in ("chosen", "rejected")
    ):
        return None
    sides = f"({fields.take('chosen')}, {fields.take('rejected')})"
    fields.words.append("what stands behind Human: and Assistant: is taken for a turn, and the last one for the answer")
    turns = '[{"role": {"Human": "user", "Assistant": "assistant"}[who], "content": text.strip()} for who, text in '
    turns += "zip(parts[1::2], parts[2::2])]"
    parts = r're.split(r"(?:^|\n\n)(Human|Assistant):", side)'
    return fields.conversion(
        '{"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}',
        clauses=f" for chosen, rejected in [[{turns} for side in {sides} for parts in [{parts}]]] "
        "if chosen[:-1] == rejected[:-1]",
        left_out="their answers end different conversations",
    )


def _openai_pairs(fields: Fields) -> Conversion | None:
    """Read preferences as OpenAI's fine-tuning takes them."""
    if not all(name in fields.common for name in ("input", "preferred_output", "non_preferred_output")):
        return None
    if not fields.hold("input", dict):
        return None
    prompt, chosen = fields.take("input"), fields.take("preferred_output", "chosen")
    rejected = fields.take("non_preferred_output", "rejected")
    fields.words.insert(0, "input.messages is taken for prompt")
    return fields.conversion(f'{{"prompt": {prompt}["messages"], "chosen": {chosen}, "rejected": {rejected}}}')


def _ranked(fields: Fields) -> Conversion | None:
    """Read a prompt with ranked answers, as Nectar has them: the first is preferred to each of the others."""
    if "answers" not in fields.common or not _have(fields.records, "answers", "answer", "rank"):
        return None
    prompt, answers = _prompt_text(fields), fields.take("answers")
    if not prompt:
        return None
    fields.words.append(
        "the answer of the lowest rank is taken for chosen, and each other one for rejected, in a row of its own"
    )
    return fields.conversion(
        f'{{"prompt": {prompt}, "chosen": best["answer"], "rejected": other["answer"]}}',
        clauses=f' for best in [min({answers}, key=lambda answer: answer["rank"])] '
        f'for other in {answers} if other["rank"] > best["rank"]',
    )


def _summaries(fields: Fields) -> Conversion | None:
    """Read the comparisons of OpenAI's summaries."""
    if not {"info", "summaries", "choice"} <= {*fields.common} or not _have(fields.records, "summaries", "text"):
        return None
    info, summaries, choice = fields.take("info"), fields.take("summaries"), fields.take("choice")
    fields.words.append("info.post is taken for input_text, and the two summaries for candidate_0 and candidate_1")
    first, second = (f'{summaries}[{place}]["text"]' for place in (0, 1))
    return fields.conversion(
        f'{{"input_text": {info}["post"], "candidate_0": {first}, "candidate_1": {second}, "choice": {choice}}}'
    )


def _pairs(fields: Fields) -> Conversion | None:
    """Find the prompt, the preferred answer and the other one by their names."""
    turns = _turns(fields)
    prompt = turns or _prompt_text(fields)
    answers = [_answer(fields, "chosen"), _answer(fields, "rejected")]
    if not prompt or not all(answers):
        return None
    if turns:
        answers = [f'[{{"role": "assistant", "content": {answer}}}]' for answer in answers]
    repeated = [name for name in _ANSWERS if all(record.get(name) == record.get("chosen") for record in fields.records)]
    return fields.conversion(f'{{"prompt": {prompt}, "chosen": {answers[0]}, "rejected": {answers[1]}}}', but=repeated)


def _answer(fields: Fields, field: str) -> str:
    """Return the expression of an answer's text, which may stand in a message; empty where there is none."""
    names = [name for name in fields.common if plain(name) in (field, *SYNONYMS[field])]
    names = names or [name for name in (closest_field(field, fields.common),) if name]
    if len(names) != 1:
        return ""
    [name] = names
    values = [record[name] for record in fields.records]
    for place, key in (("", ""), ("", "content"), ("", "value"), ("[0]", "content"), ("[0]", "value")):
        if all(_is_text(value, place, key) for value in values):
            return fields.take(name, field) + place + (f'["{key}"]' if key else "")
    return ""


def _is_text(value: Any, place: str, key: str) -> bool:
    """Say whether a text stands in a value: under a key, of the only object of an array."""
    if place:
        if not isinstance(value, list) or len(value) != 1:
            return False
        [value] = value
    if key:
        return isinstance(value, dict) and len(value) == 2 and isinstance(value.get(key), str)
    return isinstance(value, str)


def _candidates(fields: Fields) -> Conversion | None:
    """Find the prompt, the numbered answers, and which of them is preferred."""
    if "messages" in fields.common and _have(fields.records, "messages", "author", "content"):
        return _candidates_of_chat(fields)
    group = _answers(fields)
    turns = _turns(fields)
    prompt = turns or _prompt_text(fields)
    if not group or not prompt or {*map(plain, fields.common)} >= {"chosen", "rejected"}:
        return None
    if len(group) == 2 and not turns:
        candidates, condition = _two_candidates(fields, group)
        return fields.conversion(
            f'{{"input_text": {prompt}, {candidates}}}', clauses=condition, left_out=_TIES if condition else ""
        )
    preferred, condition = _preferred(fields, group)
    fields.words.append(
        "the preferred answer is taken for chosen, and each other one for rejected, in a row of its own"
    )
    chosen, rejected = (
        f'[{{"role": "assistant", "content": row[{name}]}}]' if turns else f"row[{name}]" for name in ("best", "other")
    )
    names = f"({', '.join(map(_quoted, group.values()))})"
    return fields.conversion(
        f'{{"prompt": {prompt}, "chosen": {chosen}, "rejected": {rejected}}}',
        clauses=f"{condition} for best in [{names}[{preferred}]] for other in {names} if other != best",
        left_out=_TIES if condition else "",
    )


def _candidates_of_chat(fields: Fields) -> Conversion | None:
    """Find two numbered answers of chat rows: beside the messages, or inside the last one."""
    fields.used += ["messages", *(name for name in fields.all if name == "context")]
    group = _answers(fields)
    if len(group) == 2:
        candidates, condition = _two_candidates(fields, group)
        kept = '**{name: row[name] for name in row if name in ("messages", "context")}'
        return fields.conversion(f"{{{kept}, {candidates}}}", clauses=condition, left_out=_TIES if condition else "")
    last = Fields([record["messages"][-1] for record in fields.records], fields.faults, variable="last")
    last.used += ["author", "content"]
    group = _answers(last)
    if len(group) != 2:
        return None
    candidates, condition = _two_candidates(last, group)
    fields.words += last.words
    message = f'{{"author": last["author"], "content": last["content"], {candidates}}}'
    if condition or last.conversion(message) is None:
        return None
    return fields.conversion(
        f'{{**row, "messages": [*turns, {message}]}}', clauses=' for *turns, last in [row["messages"]]'
    )


def _answers(fields: Fields) -> dict[str, str]:
    """Return the fields of the numbered answers by their numbers or letters; none where it is not clear which these are."""
    names = [name for name in fields.common if name not in fields.used]
    groups = [group for group in _numbered(names).values() if all(fields.hold(name, str) for name in group.values())]
    if len(groups) != 1:
        return {}
    fields.used += groups[0].values()
    return groups[0]


def _two_candidates(fields: Fields, group: Mapping[str, str]) -> tuple[str, str]:
    """Return the fields of our preference with two answers, and the condition of a row that prefers one."""
    preferred, condition = _preferred(fields, group)
    first, second = group.values()
    for name, meaning in ((first, "candidate_0"), (second, "candidate_1")):
        fields.words += [f"{name} is taken for {meaning}"] if name != meaning else []
    return f'"candidate_0": {fields.of(first)}, "candidate_1": {fields.of(second)}, "choice": {preferred}', condition


def _preferred(fields: Fields, group: Mapping[str, str]) -> tuple[str, str]:
    """Return the expression of the preferred answer's place, and the condition of a row that prefers one.

    Raises:
        UnclearError: If that cannot be told from the names and the values together.
    """
    names = list(group.values())
    for name in ("preference_strength", "overall_preference"):  # HelpSteer2 and 3
        if name in fields.common and list(group) == ["1", "2"] and names[0].startswith("response"):
            fields.words.append(f"{name} below 0 is taken for {names[0]}, and above 0 for {names[1]}")
            return f"int({fields.take(name)} > 0)", f" if {fields.of(name)}"
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
    places = {1: 0, 0: 1} if names == ["human_ref_A", "human_ref_B"] else _places(values, group)  # the first: SHP
    if not values <= places.keys():
        shown = ", ".join(shorten(value) for value in sorted(map(ascii, values))[:5])
        raise UnclearError(
            f"{label} holds {shown}, and the answers are {_listed(names)}: which value stands for which cannot be told"
        )
    fields.words.append(", ".join(f"{label} {value!r} is taken for {names[place]}" for value, place in places.items()))
    value = fields.take(label)
    table = "{" + ", ".join(f"{_literal(value)}: {place}" for value, place in places.items()) + "}"
    return f"{table}[{value}]", ""


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
        if set(values) <= set(reading):
            return {value: place for place, value in enumerate(reading)}
    return {}


def _literal(value: object) -> str:
    return _quoted(value) if isinstance(value, str) else repr(value)


def _prompt_turns(fields: Fields) -> Conversion | None:
    """Take the messages of a conversation for the prompt, up to the last of the user."""
    turns = _turns(fields)
    if not turns:
        return None
    last = [record[fields.used[0]][-1] for record in fields.records if isinstance(record[fields.used[0]], list)]
    if not any("assistant" in turn.values() or "gpt" in turn.values() for turn in last):
        return fields.conversion(f'{{"prompt": {turns}}}', but=_NO_PROMPT)
    fields.words.append("a last message that is an answer is left out")
    return fields.conversion(
        '{"prompt": turns[:-1] if turns[-1]["role"] == "assistant" else turns}',
        but=_NO_PROMPT,
        clauses=f" for turns in [{turns}]",
    )


def _prompt(fields: Fields) -> Conversion | None:
    """Find the prompt by its name."""
    prompt = _prompt_text(fields)
    return fields.conversion(f'{{"prompt": {prompt}}}', but=_NO_PROMPT) if prompt else None


def _shown_dialogues(fields: Fields) -> Conversion | None:
    """Take whole conversations of `from` and `value` for demonstrations."""
    if "conversations" not in fields.common or not _have(fields.records, "conversations", "from", "value"):
        return None
    return fields.conversion(f'{{"messages": {_turns(fields, "messages")}}}')


def _shown(fields: Fields) -> Conversion | None:
    """Take a prompt with one answer, by whatever names, for a demonstration."""
    text = _prompt_text(fields)
    answers = fields.texts(("output_text", "completion", *SYNONYMS["completion"]))
    if not text or len(answers) != 1:
        return None
    return fields.conversion(f'{{"prompt": {text}, "completion": {fields.take(answers[0], "completion")}}}')


#: By what the rows are to be; the first that works is told.
CONVERSIONS: dict[Kind, tuple[Callable[[Fields], Conversion | None], ...]] = {
    "preference": (
        _without_extras,
        _with_authors,
        _split_conversations,
        _dialogues,
        _openai_pairs,
        _ranked,
        _summaries,
        _pairs,
        _candidates,
    ),
    "prompt": (_without_extras, _with_authors, _prompt_turns, _prompt),
    "demonstration": (_without_extras, _shown_dialogues, _shown),
    "feedback": (_without_extras,),
}
