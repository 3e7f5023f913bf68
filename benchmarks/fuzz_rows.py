"""Does reading rows hold up? Rows of every format, written in many ways and then damaged, by the seed.

    python benchmarks/fuzz_rows.py --lines 1000000

For every line: it is accepted, and its canonical line holds what the line holds, by a conversion written here for the
purpose; or it is refused with a known code and its own line number. Never an exception. Whole blocks are read both
ways: where the fast way returns rows they are those of the careful way, which finds no problem; and blocks as
ordinary writers write them are read the fast way. Ends with an error at the first thing that is otherwise.
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from rlhf_tuning.data.batch import Batch
from rlhf_tuning.data.block import read_block
from rlhf_tuning.data.formats import FEEDBACK_FORMATS, FORMATS, parse_line
from rlhf_tuning.data.problems import CODES, Fault, Problem, Problems
from rlhf_tuning.data.reader import FileReader, FirstRow
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.sources import Source

Record = dict[str, Any]

FORMAT = {row_format.name: row_format for row_format in FORMATS}
FORMAT |= {f"feedback {row_format.name}": row_format for row_format in FEEDBACK_FORMATS}

#: Every format with every kind of row that it has.
SHAPES: tuple[tuple[str, Kind], ...] = tuple((name, kind) for name in FORMAT for kind in FORMAT[name].shapes)

_WORDS = [
    *("a", "text", "Où ?", "漢字", "😀", '"', "\\", "/", "\n", "\t", "\r", " ", "\u00a0", "\u3000", "\u2028", "\x7f"),
    *("\ufffe", "\ufeff", "\\u0041", "\\n", "}\n{", '"}', "{", "C:\\users", "\\usepackage", "<b>", "é" * 40, "x" * 40),
]
_RARE_WORDS = ["\x01", "\x0b", "\x1f", "\x08", "\x0c", "\x85"]
#: What no row is to hold in some place.
BAD_VALUES: list[Any] = [
    *("", " \t", "\u3000", "a\0b", "\ud800", None, True, False, 0, 1, -1, 2, 1.0, 10**30, 1e300, [], {}, ["a"]),
    *({"a": 1}, [{}], [None], "user", "assistant", "system", float("nan"), [{"author": "assistant", "content": "a"}]),
    *([{"role": "system", "content": "a"}], [{"role": "assistant", "content": "a"}] * 2, {"parts": [{"text": "a"}]}),
]
_TOKENS = [
    *(
        b'"',
        b"\\",
        b"\\\\",
        b"/",
        b"\\/",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b" ",
        b"\t",
        b"\r",
        b"\n",
        b"\r\n",
        b"\0",
    ),
    *(
        b"\\u0022",
        b"\\ud800",
        b"\\udc00",
        b"\\ud83d\\ude00",
        b"\\u0000",
        b"\\u0020",
        b"\\u003A",
        b"\\u005c",
        b"\\u001f",
    ),
    *(
        b"\\u12",
        b"\\u",
        b"\\x",
        b"\\u000a",
        b"\x7f",
        b"\x0b",
        b"\x0c",
        b"\x1f",
        b"\xef\xbb\xbf",
        b"\xef\xbf\xbe",
        b"\x80",
    ),
    *(
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc3",
        b"\xe2\x80\xa8",
        b"\xc2\xa0",
        b"\xe3\x80\x80",
        b"\xf0\x9f",
    ),
    *(b"}\n{", b"}{", b"} {", b"}\r{", b"-0", b"0.0", b"1e0", b"1.0", b"01", b"true", b"null", b"NaN", b"-", b"1e999"),
    *(b'"label": true, ', b'"label": 1, ', b'"rating": 4, ', b'"user": "u", ', b'"source": null, '),
    *(b'"margin": 0.5, ', b'"margin": -1, ', b'"completions": [], ', b'"score": 1, ', b'{"text": "a"}, '),
    *(b'"choice": 1, ', b'"input_text": "a", ', b'"": 1, ', b', "context": "c"', b', "context": 1e999', b'""', b'"a"'),
    *(
        b'"cho\\u0069ce": 0, ',
        b'"prompt": "a", ',
        b'"author": "user", ',
        b'"role": "user", ',
        b'"\\u0022": 1, ',
        b"[" * 2000,
    ),
]


class Expected(NamedTuple):
    """What the careful way is to find in a block: good rows with their lines, and codes with theirs."""

    rows: list[tuple[int, bytes, Row]]
    problems: list[tuple[int, str]]


class AllProblems(Problems):
    """Keeps every problem, not only the first of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Problem] = []

    def add(self, problem: Problem, *, bad_row: int = 0) -> None:
        """Keep a problem."""
        self.all.append(problem)


def careful(
    block: bytes, first_line: int, kind: Kind, accepts: tuple[Kind, ...], instruction: str
) -> tuple[list[Batch], list[Problem], list[int]]:
    """Read a block from the middle of a file line by line.

    Returns:
        The good rows, the problems, and the lines of good rows with control characters.
    """
    problems = AllProblems()
    source = Source(name="rows.jsonl", open=lambda: BytesIO(b""))
    first = FirstRow(kind, "rows.jsonl:1")
    reader = FileReader(
        source, parameter="dataset", accepts=accepts, instruction=instruction, problems=problems, first=first
    )
    reader._line = first_line - 1
    return list(reader._read_lines(block)), problems.all, reader.control_characters


def difference(one: Batch, other: Batch) -> str:
    """Return the name of the first field in which two batches differ, or nothing."""
    for field in ("kind", "format", "encoded"):
        if getattr(one, field) != getattr(other, field):
            return field
    for field in ("ends", "line_numbers", "row_hashes", "hashes", "sizes", "first_chosen"):
        ours, theirs = getattr(one, field), getattr(other, field)
        if ours.dtype != theirs.dtype or not np.array_equal(ours, theirs):
            return field
    return ""


def canonical(record: Mapping[str, Any], instruction: str) -> Record:
    """Return the canonical row of a good record of any format."""
    prompt = _conversation(record, instruction)
    judged = {name: record[name] for name in ("label", "rating") if name in record}
    if judged:
        shown = record.get("output_text", record.get("completion"))
        answer = shown[0]["content"] if isinstance(shown, list) else shown or prompt.pop()["content"]
        return {"prompt": prompt, "answer": answer, **judged}
    preference: Record = {}
    last = record["messages"][-1] if "messages" in record else record
    pair = record if "choice" in record else last
    if "choice" in pair:
        candidates = [pair["candidate_0"], pair["candidate_1"]]
        preference = {"chosen": candidates[pair["choice"]], "rejected": candidates[1 - pair["choice"]]}
    elif "chosen" in record:
        answers = [record["chosen"], record["rejected"]]
        texts = [answer if isinstance(answer, str) else answer[0]["content"] for answer in answers]
        preference = dict(zip(("chosen", "rejected"), texts, strict=True))
    elif "completions" in record:
        worse, better = sorted(record["completions"], key=lambda each: each["score"])
        preference = {"chosen": _parts_text(better["completion"]), "rejected": _parts_text(worse["completion"])}
    if "margin" in record:
        preference["margin"] = record["margin"]
    return {"prompt": prompt, **preference}


def _conversation(record: Mapping[str, Any], instruction: str) -> list[dict[str, str]]:
    """Return what is said in a record, with its system turn."""
    if "contents" in record:
        roles = {"user": "user", "model": "assistant"}
        turns = [{"role": roles[turn["role"]], "content": _parts_text(turn)} for turn in record["contents"]]
        given = [record[name] for name in ("systemInstruction", "system_instruction") if name in record]
        system = _parts_text(given[0]) if given else instruction
    elif "input_text" in record or isinstance(record.get("prompt"), str):
        text = record.get("input_text", record.get("prompt"))
        return [{"role": "user", "content": f"{instruction}\n\n{text}" if instruction else text}]
    else:
        turns = [
            {"role": turn.get("author", turn.get("role")).replace("model", "assistant"), "content": turn["content"]}
            for turn in record.get("messages", record.get("prompt", []))
        ]
        system = record.get("context", instruction if turns[0]["role"] != "system" else "")
    return [{"role": "system", "content": system}, *turns] if system.strip() else turns


def _parts_text(content: Mapping[str, Any]) -> str:
    return "".join(part["text"] for part in content["parts"])


class Maker:
    """Makes rows, lines and blocks, all by one source of randomness."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self, *, rare: bool = False) -> str:
        """Return a text that is not blank."""
        words = _WORDS + _RARE_WORDS if rare else _WORDS
        text = "".join(self.random.choices(words, k=self.random.randrange(1, 5)))
        return text if text.strip() else text + "b"

    def record(self, shape: tuple[str, Kind], *, rare: bool = False) -> Record:
        """Return a good row of a format and kind."""
        name, kind = shape
        pick = self.random.random

        def text() -> str:
            return self.text(rare=rare)

        answers = [text(), text()]
        if answers[0].strip() == answers[1].strip():
            answers[1] += "c"
        choices: Record = {"candidate_0": answers[0], "candidate_1": answers[1], "choice": self.random.randrange(2)}
        preference = kind == "preference"
        if kind == "feedback":
            return self._feedback(name.removeprefix("feedback "), text)
        if name == "gemini_preferences":
            return self._gemini(answers, text, preference=preference)
        if name == "vertex_text":
            return {"input_text": text(), **(choices if preference else {})}
        if name == "trl_standard":
            return {"prompt": text(), **(dict(zip(("chosen", "rejected"), answers, strict=True)) if preference else {})}
        key = "role" if name == "trl_conversational" else "author"
        roles = ["user", *self.random.choices(["user", "assistant"], k=self.random.randrange(3)), "user"]
        turns: list[Record] = [{key: role, "content": text()} for role in (roles if pick() < 0.5 else roles[:1])]
        if name == "trl_conversational":
            if pick() < 0.3:
                turns.insert(0, {"role": "system", "content": text()})
            judged = [[{"role": "assistant", "content": answer}] for answer in answers]
            return {"prompt": turns, **(dict(zip(("chosen", "rejected"), judged, strict=True)) if preference else {})}
        record: Record = {"messages": turns}
        if pick() < 0.4:
            record["context"] = self.random.choice(["", " \t", "\u3000", text(), text(), text()])
        if preference:
            (turns[-1] if name == "vertex_chat_inline" else record).update(choices)
        return record

    def _gemini(self, answers: list[str], text: Callable[[], str], *, preference: bool) -> Record:
        def content(role: str, *texts: str) -> Record:
            return {"role": role, "parts": [{"text": part} for part in texts]}

        pick = self.random
        roles = ["user", *pick.choices(["user", "model"], k=pick.randrange(3)), "user"]
        record: Record = {"contents": [content(role, text()) for role in (roles if pick.random() < 0.5 else roles[:1])]}
        if pick.random() < 0.3:
            system = {"parts": [{"text": text()}, {"text": ""}], **({"role": "system"} if pick.random() < 0.5 else {})}
            record = {pick.choice(["systemInstruction", "system_instruction"]): system, **record}
        if preference:
            scores = pick.choice([(0, 1), (1, 0), (1.0, 0.0), (-2.5, 3)])
            record["completions"] = [
                {"score": score, "completion": content("model", answer)}
                for score, answer in zip(scores, answers, strict=True)
            ]
        return record

    def _feedback(self, name: str, text: Callable[[], str]) -> Record:
        pick = self.random
        turns = [(role, text()) for _ in range(pick.choice([1, 1, 2])) for role in ("user", "assistant")]
        first, last = turns[0][1], turns[-1][1]
        messages = [{"role": role, "content": said} for role, said in turns]
        record: Record = {
            "tuning_text": {"input_text": first, "output_text": last},
            "prompt_completion": {"prompt": first, "completion": last},
            "chat_messages": {"messages": messages},
            "tuning_chat": {"messages": [{"author": role, "content": said} for role, said in turns]},
            "gemini_contents": {
                "contents": [
                    {"role": role.replace("assistant", "model"), "parts": [{"text": said}]} for role, said in turns
                ]
            },
        }[name]
        if name == "prompt_completion" and pick.random() < 0.5:
            record = {"prompt": messages[:-1], "completion": messages[-1:]}
        if name == "tuning_chat" and pick.random() < 0.4:
            record["context"] = pick.choice(["", text()])
        record |= pick.choice([{"label": True}, {"label": False}, {"rating": 4}, {"rating": -0.5}])
        return record | pick.choice([{}, {}, {"user": text()}, {"source": text(), "user": ""}])

    def ordinary(self) -> dict[str, Any]:
        """Return how a program writes its lines."""
        return {
            "ensure_ascii": self.random.random() < 0.5,
            "separators": self.random.choice([(", ", ": "), (",", ":")]),
            "slashes": self.random.random() < 0.2,
            "end": self.random.choice([b"\n", b"\n", b"\r\n"]),
        }

    def shuffled(self, value: Any) -> Any:
        """Return a value with the keys of every object in another order."""
        if isinstance(value, list):
            return [self.shuffled(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {key: self.shuffled(value[key]) for key in self.random.sample(list(value), len(value))}

    def damaged_record(self, record: Record) -> Record:
        """Return a record with one thing in it changed, which may make it a bad row."""
        copied: Record = json.loads(json.dumps(record))
        objects = [copied, *(item for value in copied.values() if isinstance(value, list) for item in value)]
        target = self.random.choice(objects)
        key = self.random.choice(list(target))
        match self.random.randrange(5):
            case 0:
                target[key] = self.random.choice(BAD_VALUES)
            case 1:
                del target[key]
            case 2:
                target[self.random.choice(["extra", "choice", "context", "candidate_0", "chosen"])] = self.text()
            case 3:
                target[key] = target[self.random.choice(list(target))]
            case _:
                target[key + " "] = target.pop(key)
        return copied

    def damaged(self, data: bytes) -> bytes:
        """Return bytes with one thing in them changed."""
        pick = self.random
        start = pick.randrange(len(data) + 1)
        end = min(len(data), start + pick.choice([1, 1, 2, 6, 20]))
        match pick.randrange(10):
            case 0:
                return data[:start] + bytes([pick.randrange(256)]) + data[start + 1 :]
            case 1:
                return data[:start] + data[end:]
            case 2:
                return data[:end] + data[start:]
            case 3:
                return data[:start] + pick.choice(_TOKENS) + data[end:]
            case 4:  # a character as an escape, in a string or not
                return (
                    data[:start] + b"".join(b"\\u%04x" % byte for byte in data[start : start + 1]) + data[start + 1 :]
                )
            case 5:  # before a key or a value
                places = [place for place, byte in enumerate(data) if byte in b'"{[:,']
                start = pick.choice(places) + pick.randrange(2) if places else 0
                return data[:start] + pick.choice(_TOKENS) + data[start:]
            case 6:
                old = pick.choice([b'": 0', b'": 1', b'": "', b"[{", b"}]", b'"user"', b"\\", b'"}'])
                new = pick.choice([b'": ' + pick.choice(_TOKENS), pick.choice(_TOKENS), old + b" ", b" " + old])
                return data.replace(old, new, 1)
            case 7:  # a part of it once more
                other = pick.randrange(len(data) + 1)
                return data[:other] + data[start:end] + data[other:]
            case 8:  # inside a text
                word = pick.choice([b"text", b"xxxx"])
                return data.replace(word, word[:2] + pick.choice(_TOKENS) + word[2:], 1)
            case _:
                return data[:start] + pick.choice(_TOKENS) + data[start:]


def write(record: Mapping[str, Any], *, ensure_ascii: bool, separators: tuple[str, str], slashes: bool) -> bytes:
    """Return a record as one line without its end."""
    text = json.dumps(record, ensure_ascii=ensure_ascii, separators=separators)
    return (text.replace("/", "\\/") if slashes else text).encode("utf-8", "surrogatepass")


class Fuzzer:
    """Makes blocks, checks them, and counts."""

    def __init__(self, seed: int) -> None:
        self.make = Maker(seed)
        self.lines = self.accepted = self.refused = self.blocks = self.fast = self.damaged_fast = 0
        self.codes: Counter[str] = Counter()

    def good_block(self) -> None:
        """Check a block of good rows, as an ordinary program writes them or in a stranger way."""
        make, pick = self.make, self.make.random
        shape, instruction = pick.choice(SHAPES), pick.choice(["", 'Say "so",\nbriefly: \\ é'])
        strange, written = pick.random() < 0.3, make.ordinary()
        end = written.pop("end")
        records = [make.record(shape, rare=strange) for _ in range(pick.choice([1, 2, 10, 40]))]
        if margins := shape[1] == "preference" and shape[0] != "vertex_chat_inline" and pick.random() < 0.2:
            for record in records[:: pick.choice([1, 2])]:
                record["margin"] = pick.choice([0, 0.5, 1, 1 / 3, 10])
        if strange:
            records = make.shuffled(records)
        lines = [write(record, **written) for record in records]
        if strange and pick.random() < 0.5:
            lines = [pick.choice([b"", b" ", b"\t"]) + line + pick.choice([b"", b" ", b"\r"]) for line in lines]
        batch = self._check(b"".join(line + end for line in lines), shape, instruction)
        fast = FORMAT[shape[0]].shapes[shape[1]] is not None and not margins
        if fast and not strange and batch is None:
            raise AssertionError(f"not read fast: {lines!r}")
        read, _, _ = careful(b"\n".join(lines), 1, shape[1], (shape[1],), instruction)
        rows = [json.loads(batch.line(index)) for batch in read for index in range(len(batch))]
        expected = [canonical(record, instruction) for record in records]
        if rows != expected:
            raise AssertionError(f"read {rows!r}\ninstead of {expected!r}")

    def damaged_block(self) -> None:
        """Check a block with a damaged row or several."""
        make, pick = self.make, self.make.random
        shape, instruction = pick.choice(SHAPES), pick.choice(["", 'Say "so",\nbriefly: \\ é'])
        written = make.ordinary()
        end = written.pop("end")
        records = [make.record(shape) for _ in range(pick.choice([1, 1, 2, 4]))]
        place = pick.randrange(len(records))
        if changed := pick.random() < 0.4:
            records[place] = make.damaged_record(records[place])
        elif pick.random() < 0.05:
            records[place] = make.record(pick.choice(SHAPES))
        lines = [write(record, **written) for record in records]
        if pick.random() < (0.2 if changed else 0.9):
            lines[place] = make.damaged(lines[place])
        if pick.random() < 0.05:
            lines.insert(place, pick.choice([b"", b" ", b"\r", lines[place]]))
        block = b"".join(line + end for line in lines)
        while pick.random() < 0.1:
            block = make.damaged(block)
        if not block.endswith(b"\n"):
            block += b"\n"
        self.damaged_fast += self._check(block, shape, instruction) is not None

    def _check(self, block: bytes, shape: tuple[str, Kind], instruction: str) -> Batch | None:
        """Read a block both ways, and every line by itself; return what the fast way made of it."""
        try:
            return self._compare(block, shape, instruction)
        except Exception as error:
            raise AssertionError(f"{shape}, instruction {instruction!r}: {error}\nin the block {block!r}") from error

    def _compare(self, block: bytes, shape: tuple[str, Kind], instruction: str) -> Batch | None:
        (name, kind), pick = shape, self.make.random
        alone = kind == "feedback" or pick.random() < 0.7
        accepts: tuple[Kind, ...] = (kind,) if alone else ("prompt", "preference")
        first_line = pick.choice([1, 2, 1_000_000])
        expected = self._expected(block, first_line, kind, accepts, instruction)
        batches, problems, controls = careful(block, first_line, kind, accepts, instruction)
        found = [(problem.line, problem.code) for problem in problems]
        assert found == expected.problems, f"problems {found} instead of {expected.problems}"
        numbers = [int(number) for batch in batches for number in batch.line_numbers]
        assert numbers == [line for line, _, _ in expected.rows], f"rows at {numbers}"
        rows = [json.loads(batch.line(index)) for batch in batches for index in range(len(batch))]
        for row, (line, raw, _) in zip(rows, expected.rows, strict=True):
            meant = canonical(json.loads(raw), instruction)
            assert row == meant, f"line {line} became {row} instead of {meant}"
        fast = read_block(block, first_line, FORMAT[name], kind, instruction=instruction)
        if fast is not None:
            assert not problems, f"the fast way did not see {found}"
            assert not controls, f"the fast way did not see control characters in {controls}"
            assert len(batches) == 1, f"{len(batches)} batches"
            assert not (field := difference(fast, batches[0])), f"the fast way has another {field}"
        self.blocks += 1
        self.fast += fast is not None
        return fast

    def _expected(
        self, block: bytes, first_line: int, kind: Kind, accepts: tuple[Kind, ...], instruction: str
    ) -> Expected:
        """Return what each line is by itself, and count it."""
        expected = Expected([], [])
        blank: list[int] = []
        for number, raw in enumerate(block.split(b"\n")[:-1], first_line):
            self.lines += 1
            if not raw.strip():
                blank.append(number)
                continue
            expected.problems.extend((line, "blank_line") for line in blank)
            blank.clear()
            faults: list[Fault] = []
            parsed = parse_line(raw, accepts=accepts, instruction=instruction, faults=faults)
            codes = [fault.code for fault in faults]
            if parsed is not None and parsed[1].kind != kind:
                codes.append("mixed_rows")
            assert (parsed is None) == bool(faults), f"line {number} is both good and bad, or neither"
            assert CODES.keys() >= set(codes), f"unknown codes in {codes}"
            if parsed is not None and not codes:
                expected.rows.append((number, raw, parsed[1]))
                self.accepted += 1
                continue
            expected.problems.extend((number, code) for code in codes)
            self.refused += 1
            self.codes.update(set(codes))
        return expected

    def table(self) -> list[str]:
        """Return the counts, in lines."""
        return [
            f"{self.lines:,} lines: {self.accepted:,} accepted, {self.refused:,} refused, "
            f"{self.lines - self.accepted - self.refused:,} blank",
            f"{self.blocks:,} blocks: {self.fast:,} read the fast way, {self.damaged_fast:,} of them damaged ones",
            *(f"  {code}: {self.codes[code]:,}" for code in CODES if self.codes[code]),
        ]


def fuzz(lines: int, seed: int = 0, *, progress_lines: int = 50_000) -> Fuzzer:
    """Check at least so many lines, and return what was counted.

    Raises:
        AssertionError: At the first thing that is wrong, with the block in which it was found.
    """
    fuzzer, started, reported = Fuzzer(seed), time.monotonic(), 0
    while fuzzer.lines < lines:
        if fuzzer.make.random.random() < 0.15:
            fuzzer.good_block()
        else:
            fuzzer.damaged_block()
        if fuzzer.lines - reported >= progress_lines:
            reported = fuzzer.lines
            print(f"{fuzzer.lines:,} lines, {time.monotonic() - started:.0f} s", flush=True)
    return fuzzer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("\n".join(fuzz(options.lines, options.seed).table()))


if __name__ == "__main__":
    main()
