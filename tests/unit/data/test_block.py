r"""The fast path against the careful one: it may give up on any block, but what it returns must be right."""

import json
import random
import re
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from benchmarks.fuzz_rows import FORMAT, SHAPES, Record, canonical, careful, difference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_tuning.data import block as block_module
from rlhf_tuning.data.batch import Batch
from rlhf_tuning.data.block import read_block
from rlhf_tuning.data.rows import Kind

pytestmark = pytest.mark.skipif(not block_module.is_fast(), reason="installed without a C compiler: no fast path")

Shape = tuple[str, Kind]

INSTRUCTIONS = ["", "Be brief.", 'Say "so":\n\\ é漢\t']
NASTY = [
    *(
        '"',
        "\\",
        "/",
        "\\u0041",
        "\\n",
        "\\\\",
        "}\n{",
        '"}\n{"',
        '": 0, "',
        "\u00a0",
        "\u3000",
        "\u2028",
        "\x7f",
        "😀",
    ),
    *(
        "\ufffe",
        "\ufeff",
        "\u0085",
        "\ud7ff\ue000",
        "C:\\users",
        "\\usepackage",
        "\r\n",
        "\t",
        " ",
        "漢字" * 30,
        "null",
    ),
]


def examples(count: int) -> settings:
    """Always the same examples, so that a failure is one of the change at hand."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


characters = st.characters(codec="utf-8", exclude_characters="\0")
printable = characters.filter(lambda character: unicodedata.category(character) != "Cc")


def texts_of(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pieces = st.one_of(st.sampled_from(NASTY), st.text(alphabet, max_size=8), st.sampled_from(["a", "A text."]))
    return st.lists(pieces, min_size=1, max_size=3).map("".join).filter(lambda text: bool(text.strip()))


def records(shape: Shape, texts: st.SearchStrategy[str]) -> st.SearchStrategy[Record]:
    """Make good rows of a format and kind."""
    name, kind = shape
    answers = st.tuples(texts, texts).filter(lambda pair: pair[0] != pair[1])
    if name in ("vertex_text", "trl_standard"):
        prompts: st.SearchStrategy[Record] = st.fixed_dictionaries(
            {"input_text" if name == "vertex_text" else "prompt": texts}
        )
    elif name == "trl_conversational":
        prompts = st.builds(
            lambda system, turns: {"prompt": [*system, *turns]},
            st.lists(st.fixed_dictionaries({"role": st.just("system"), "content": texts}), max_size=1),
            conversations("role", texts),
        )
    else:
        contexts = st.one_of(texts, st.sampled_from(["", " ", "\u3000"]))
        prompts = st.fixed_dictionaries({"messages": conversations("author", texts)}, optional={"context": contexts})
    if kind == "prompt":
        return prompts
    return st.builds(lambda *parts: judged(name, *parts), prompts, answers, st.sampled_from([0, 1]))


def conversations(key: str, texts: st.SearchStrategy[str]) -> st.SearchStrategy[list[Record]]:
    roles = st.lists(st.sampled_from(["user", "assistant"]), max_size=2)
    return st.tuples(st.sampled_from([True, False]), roles, st.lists(texts, min_size=4, max_size=4)).map(
        lambda made: [
            {key: role, "content": text}
            for role, text in zip(["user", *made[1], "user"] if made[0] else ["user"], made[2], strict=False)
        ]
    )


def judged(name: str, record: Record, answers: tuple[str, str], choice: int) -> Record:
    if name == "trl_standard":
        return {**record, "chosen": answers[0], "rejected": answers[1]}
    if name == "trl_conversational":
        chosen, rejected = ([{"role": "assistant", "content": answer}] for answer in answers)
        return {**record, "chosen": chosen, "rejected": rejected}
    candidates = {"candidate_0": answers[0], "candidate_1": answers[1], "choice": choice}
    if name == "vertex_chat":
        return {**record, **candidates}
    if name == "vertex_chat_inline":
        return {**record, "messages": [*record["messages"][:-1], {**record["messages"][-1], **candidates}]}
    return {**record, **candidates}


class Written(NamedTuple):
    """A block of good rows, and what it was made of."""

    shape: Shape
    records: list[Record]
    block: bytes


@st.composite
def written(draw: st.DrawFn, *, strange: bool, most: int = 4) -> Written:
    """Write good rows in one of many ways; in strange ways too, or only as programs do."""
    shape = draw(st.sampled_from(SHAPES))
    rows = draw(st.lists(records(shape, texts_of(characters if strange else printable)), min_size=1, max_size=most))
    ascii_only = draw(st.booleans())
    separators = draw(st.sampled_from([(", ", ": "), (",", ":"), *([(" ,\t", " :  "), (",\r", ":\r")] * strange)]))
    slashes = draw(st.booleans())
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    spaces = st.sampled_from([b"", b"", b" ", b"\t", b"\r"]) if strange else st.just(b"")
    block = b""
    for row in rows:
        if strange and draw(st.booleans()):
            row = shuffled(row, draw(st.randoms(use_true_random=False)))
        text = json.dumps(row, ensure_ascii=ascii_only, separators=separators)
        block += draw(spaces) + (text.replace("/", "\\/") if slashes else text).encode() + draw(spaces) + end
    return Written(shape, rows, block)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(item, order) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: shuffled(value[key], order) for key in order.sample(list(value), len(value))}


def read_both_ways(block: bytes, shape: Shape, instruction: str = "", first_line: int = 1) -> Batch | None:
    """Read a block fast, check it against the careful path in both modes, and return what the fast path returned."""
    name, kind = shape
    fast = read_block(block, first_line, FORMAT[name], kind, instruction=instruction)
    if fast is None:
        return None
    modes: list[tuple[Kind, ...]] = [(kind,), ("prompt", "preference")]
    for accepts in modes:
        batches, problems, control_characters = careful(block, first_line, kind, accepts, instruction)
        assert not problems
        assert not control_characters
        [batch] = batches
        assert not difference(fast, batch)
    return fast


@examples(120)
@given(written(strange=True), st.sampled_from(INSTRUCTIONS), st.sampled_from([1, 2, 10**9]))
def test_good_rows_written_in_any_way_are_read_as_the_careful_path_reads_them_or_not_at_all(
    made: Written, instruction: str, first_line: int
) -> None:
    read_both_ways(made.block, made.shape, instruction, first_line)
    batches, problems, _ = careful(made.block, first_line, made.shape[1], (made.shape[1],), instruction)
    assert not problems
    rows = [json.loads(batch.line(index)) for batch in batches for index in range(len(batch))]
    assert rows == [canonical(record, instruction) for record in made.records]


@examples(120)
@given(written(strange=False), st.sampled_from(INSTRUCTIONS))
def test_rows_as_programs_write_them_are_read_fast(made: Written, instruction: str) -> None:
    batch = read_both_ways(made.block, made.shape, instruction, 7)
    assert batch is not None
    assert batch.line_numbers.tolist() == list(range(7, 7 + len(made.records)))
    rows = [json.loads(batch.line(index)) for index in range(len(batch))]
    assert rows == [canonical(record, instruction) for record in made.records]


TOKENS = [
    *(
        b'"',
        b"\\",
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
        b"\x0b",
        b"\x7f",
        b"/",
    ),
    *(b"\\u0022", b"\\u0020", b"\\u003a", b"\\u002C", b"\\u007B", b"\\u007d", b"\\u0030", b"\\u0031", b"\\u002d"),
    *(
        b"\\u005c",
        b"\\u000a",
        b"\\u0000",
        b"\\u001f",
        b"\\ud800",
        b"\\udc00",
        b"\\ud83d\\ude00",
        b"\\u12",
        b"\\x",
        b"\\/",
    ),
    *(
        b"\xef\xbb\xbf",
        b"\xef\xbf\xbe",
        b"\x80",
        b"\xc3",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf0\x9f",
    ),
    *(
        b"\xc2\xa0",
        b"\xe3\x80\x80",
        b"\xe2\x80\xa8",
        b"}\n{",
        b"}{",
        b"},\n{",
        b"}\r{",
        b"-0",
        b"0.0",
        b"1e0",
        b"01",
        b"2",
    ),
    *(b"true", b"null", b"NaN", b"1e999", b'""', b'" "', b"[]", b"{}", b'"choice": 1, ', b'"input_text": "a", '),
    *(
        b'"cho\\u0069ce": 0, ',
        b'"author": "user", ',
        b', "context": 1',
        b', "context": "c"',
        b'"": 1, ',
        b'"prompt": 1, ',
    ),
]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[Shape, bytes]:
    """Write good rows and change a few bytes."""
    made = draw(written(strange=draw(st.integers(0, 3)) == 0, most=3))
    block = made.block
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        start = draw(st.integers(0, len(block)))
        end = min(len(block), start + draw(st.sampled_from([0, 1, 2, 5, 20])))
        token = draw(st.sampled_from(TOKENS))
        other = draw(st.integers(0, len(block)))
        lines = block.splitlines(keepends=True)
        block = draw(
            st.sampled_from(
                [
                    block[:start] + token + block[start:],
                    block[:start] + token + block[end:],
                    block[:start] + block[end:],
                    block[:start] + bytes([other % 256]) + block[start + 1 :],
                    block[:start]
                    + b"".join(b"\\u%04x" % byte for byte in block[start : start + 1])
                    + block[start + 1 :],
                    block[:other] + block[start:end] + block[other:],
                    b"".join(lines[::-1]),
                    b"".join([*lines, *lines[:1]]),
                    block.replace(b'": ', b'": ' + token, 1 + other % 3),
                    block.replace(b'{"', b'{%b"' % token, 1),
                    block.replace(b'"}', b'"%b}' % token, 1),
                    block.replace(b"\n", b"", 1),
                    re.sub(rb'("\w+"):', rb"\1:1,\1:", block, count=1 + other % 3),
                    block.replace(b"A text.", b"A %btext." % token),
                    block.replace(b"A text.", b"A %btext." % token, 1),
                ]
            )
        )
    return made.shape, block if block.endswith(b"\n") else block + b"\n"


@examples(300)
@given(damaged(), st.sampled_from(INSTRUCTIONS))
def test_damaged_rows_are_not_read_fast_unless_they_are_still_good(made: tuple[Shape, bytes], instruction: str) -> None:
    shape, block = made
    read_both_ways(block, shape, instruction)


CHAT = b'{"messages": [{"author": "user", "content": "a"}], "context": %b}'
TEXT = b'{"input_text": %b}'
CHOICE = b'{"input_text": "a", "candidate_0": "b", "candidate_1": "c", "choice": %b}'
INLINE = b'{"messages": [%b{"author": "user", "content": "a", "candidate_0": "b", "candidate_1": "c", "choice": 0}]}'
TURNS = b'{"prompt": [%b]}'
TRL = b'{"prompt": [{"role": "user", "content": "a"}], "chosen": [%b], "rejected": [{"role": "assistant", "content": "c"}]}'
_TEXT: Shape = ("vertex_text", "prompt")
_CHOICE: Shape = ("vertex_text", "preference")
_CHAT: Shape = ("vertex_chat", "prompt")
_INLINE: Shape = ("vertex_chat_inline", "preference")
_TURNS: Shape = ("trl_conversational", "prompt")
_TRL: Shape = ("trl_conversational", "preference")
_STANDARD: Shape = ("trl_standard", "prompt")

#: No UTF-8: lone, cut off, too long, surrogates, beyond Unicode, and next to what is fine.
NO_UTF8 = [
    *(b"\x80", b"\xc3", b"\xc3a\xa9", b"\xe6\xbc", b"\xf0\x9f \x98\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80"),
    *(b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80\x80", b"\xf5", b"\xf8\x88\x80\x80\x80", b"\xff", b"\xc3\\u00a9\xa9"),
    *("漢".encode() + b"\xc3", "é".encode() + b"\xa9", b"\xc3" + b"a" * 500 + b"\xa9"),
]
BAD: list[tuple[Shape, bytes]] = [
    *((_TEXT, TEXT % (text % broken)) for broken in NO_UTF8 for text in (b'"%b"', b'"aa%baa"')),
    # What is no string, and strings that are blank or broken.
    *(
        (_TEXT, TEXT % value)
        for value in (
            *(b"1", b"null", b"true", b"[]", b"{}", b'["a"]', b'{"a": "b"}', b"1e999", b"NaN", b"-", b"9" * 5000, b""),
            *(b'""', b'" "', b'" \\t"', b'"\\n"', b'"\\u0020"', b'"\\u00a0"', b'"\\u3000\\u2028"', b'"\\u0085"'),
            *('"\u00a0"'.encode(), '" \u3000"'.encode(), '"\u2028"'.encode(), '"\u0085"'.encode()),
            *(b'"\\u0000"', b'"a\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\u0041"', b'"\\ud83d"'),
            *(b'"\\x"', b'"\\u12"', b'"\\u12\\u0061b"', b'"\\u+123"', b'"\\u 123"', b'"\\U0041"', b"'a'", b'"\\'),
            *(b'"a\tb"', b'"a\rb"', b'"a\nb"', b'"a\r\nb"', b'"a\0b"', b'"a\x1fb"', b'"}\n{"', b'"a" "b"', b'"a"1'),
            *(b"[" * 500 + b"]" * 500, b"[" * 50_000, b'{"a":' * 50_000),
        )
    ),
    # Keys: twice, unknown, missing.
    *(
        (_TEXT, line)
        for line in (
            *(b'{"input_text": "a", "input_text": "b"}', b'{"input_text": 1, "input_text": "b"}'),
            *(b'{"input_text": "a", "input\\u005ftext": "b"}', b'{"input\\u005ftext": {}, "input_text": "b"}'),
            *(b'{"input_text": "a", "": 1}', b'{"input_text": "a", "x": 1}', b"{}", b"[]", b'"a"', b"null", b'["a"]'),
            *(b'{"Input_text": "a"}', b'{"input_text ": "a"}', b'{"input_text": "a",}', b"{input_text: 1}"),
        )
    ),
    (_CHOICE, CHOICE.replace(b'"choice"', b'"choice": 1, "choice"') % b"0"),
    (_CHOICE, CHOICE.replace(b'"candidate_1"', b'"candidate_1": 1, "candidate_1"') % b"0"),
    (_CHAT, CHAT.replace(b'"author"', b'"author": "user", "author"') % b'""'),
    (_CHAT, CHAT.replace(b'"context"', b'"context": 1, "context"') % b'"c"'),
    (_CHAT, CHAT.replace(b'"messages"', b'"messages": [], "messages"') % b'"c"'),
    # Escapes where JSON has none.
    *(
        (_TEXT, (TEXT % b'"a"').replace(old, new, 1))
        for old, new in (
            *((b" ", b"\\u0020"), (b"{", b"\\u007b"), (b"{", b"{\\u0020"), (b":", b"\\u003a"), (b":", b"\\u003A")),
            *(
                (b"}", b"\\u007D"),
                (b"}", b"\\u0020}"),
                (b'"', b"\\u0022"),
                (b'"', b'\\"'),
                (b" ", b"\\/"),
                (b" ", b"\\n"),
            ),
        )
    ),
    (_CHAT, (CHAT % b'"c"').replace(b",", b"\\u002c", 1)),
    (_CHAT, (CHAT % b'"c"').replace(b"[", b"\\u005B", 1)),
    (_CHAT, (CHAT % b'"c"').replace(b"]", b"\\u005d", 1)),
    # Choices.
    *(
        (_CHOICE, CHOICE % value)
        for value in (
            *(
                b"2",
                b"-1",
                b"1.0",
                b"0.0",
                b"-0.0",
                b"1e0",
                b"10e-1",
                b"0e9",
                b"01",
                b"00",
                b"+1",
                b"1.",
                b".1",
                b"0x1",
            ),
            *(
                b'"1"',
                b"true",
                b"false",
                b"null",
                b"[]",
                b"[0]",
                b"",
                b"\\u0031",
                b"-\\u0030",
                b"\\u002d0",
                b"1e999",
                b"0 0",
            ),
            *(b"9" * 5000, b"18446744073709551616", b"18446744073709551617", b"4294967296", b"- 0", b"-", b"Infinity"),
        )
    ),
    (_CHOICE, (CHOICE % b"0").replace(b'"c"', b'"b"')),
    (_CHOICE, (CHOICE % b"0").replace(b'"c"', b'"\\u0062"')),
    # Conversations.
    *(
        (_CHAT, CHAT % value)
        for value in (b"1", b"null", b"1e999", b"9" * 5000, b"[]", b"{}", b"[" * 50_000, b'"\\u0000"')
    ),
    (_CHAT, b'{"messages": []}'),
    (_CHAT, b'{"messages": [{"author": "user", "content": "a"}, {"author": "assistant", "content": "a"}]}'),
    (_CHAT, b'{"messages": [{"author": "assistant", "content": "a"}, {"author": "user", "content": "a"}]}'),
    (_CHAT, b'{"messages": [{"author": "system", "content": "a"}, {"author": "user", "content": "a"}]}'),
    (_CHAT, b'{"messages": [["user", "a"]]}'),
    (_CHAT, b'{"messages": [{"author": "User", "content": "a"}]}'),
    (_CHAT, b'{"messages": {"author": "user", "content": "a"}}'),
    (_CHAT, b'{"messages": [{"author": "user", "content": "a"}, null]}'),
    (_INLINE, INLINE % b'{"author": "user", "content": "a", "candidate_0": "b"}, '),
    (_INLINE, INLINE % b'{"author": "user", "content": "a", "choice": 0}, '),
    (_INLINE, b'{"messages": [{"author": "user", "content": "a"}]}'),
    (_INLINE, b'{"messages": []}'),
    (_TURNS, TURNS % b""),
    (_TURNS, TURNS % b'{"role": "system", "content": "a"}'),
    (_TURNS, TURNS % b'{"role": "user", "content": "a"}, {"role": "system", "content": "a"}'),
    (_TURNS, TURNS % (b'{"role": "system", "content": "a"}, ' * 2 + b'{"role": "user", "content": "a"}')),
    (
        _TURNS,
        TURNS
        % b'{"role": "user", "content": "a"}, {"role": "system", "content": "a"}, {"role": "user", "content": "b"}',
    ),
    *((_TRL, TRL % value) for value in (b"", b'"b"', b'{"role": "user", "content": "b"}')),
    (_TRL, TRL % b'{"role": "assistant", "content": "b"}, {"role": "assistant", "content": "b"}'),
    (_TRL, TRL % b'{"role": "assistant", "content": "c"}'),
]
GOOD_BESIDE = {
    _TEXT: TEXT % b'"good"',
    _CHOICE: CHOICE % b"1",
    _CHAT: CHAT % b'"good"',
    _INLINE: INLINE % b"",
    _TURNS: TURNS % b'{"role": "user", "content": "a"}',
    _TRL: TRL % b'{"role": "assistant", "content": "b"}',
    _STANDARD: b'{"prompt": "good"}',
}


@pytest.mark.parametrize(
    ("shape", "line"), BAD, ids=lambda value: ascii(value)[2:60] if isinstance(value, bytes) else ""
)
def test_a_bad_row_among_good_ones_is_not_read_fast(shape: Shape, line: bytes) -> None:
    good = GOOD_BESIDE[shape] + b"\n"
    name, kind = shape
    for block in (line + b"\n", good + line + b"\n", good + line + b"\r\n" + good):
        for instruction in INSTRUCTIONS[:2]:
            _, problems, _ = careful(block, 1, kind, (kind,), instruction)
            assert problems
            assert read_block(block, 1, FORMAT[name], kind, instruction=instruction) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_another_format_or_kind_are_not_read_fast(shape: Shape) -> None:
    name, kind = shape
    mine = [(other, line) for other, line in GOOD_BESIDE.items() if other != shape]
    assert len(mine) >= 6
    for _, line in mine:
        assert read_block(line + b"\n", 1, FORMAT[name], kind, instruction="") is None


A, B = TEXT % b'"a"', TEXT % b'"b"'


@pytest.mark.parametrize(
    "block",
    [
        *(
            b"",
            b"\n",
            b"\r\n",
            b" \n",
            b"\n\n",
            A,
            A + b"\n" + B,
            A + b"\n\n",
            b"\n" + A + b"\n",
            A + b"\n\n" + B + b"\n",
        ),
        *(A + b"\n \n" + B + b"\n", A + b"\n\r\n" + B + b"\n", A + B + b"\n", A + B + b"\n\n", A + b" " + B + b"\n"),
        *(
            A + b"\r" + B + b"\n",
            A + b"," + B + b"\n",
            A + b",\n" + B + b"\n",
            A[:-1] + b"\n}\n",
            b"{\n" + A[1:] + b"\n",
        ),
        *(A.replace(b" ", b"\n") + b"\n", A.replace(b" ", b"\r\n") + b"\n", A.replace(b" ", b"\n") + B + b"\n"),
        *(
            A + b"\n" + b"\xef\xbb\xbf" + B + b"\n",
            b"\xef\xbb\xbf" + A + b"\n",
            A + b"\x0c\n",
            A + b"\0\n",
            b"\0" + A + b"\n",
        ),
        *(A + b"\n" + B[:-1] + b"\n", b"[" + A + b"]\n", A + b"}\n", A + b"\n]\n", A + b"\n#\n", A + b"\r\r\n\n"),
        *(b'{"messages": [{"author": "user", "content": "a"}\n{"author": "user", "content": "a"}]}\n' + A,),
    ],
)
def test_a_block_that_is_not_one_row_a_line_is_not_read_fast(block: bytes) -> None:
    assert read_block(block, 1, FORMAT["vertex_text"], "prompt", instruction="") is None


@pytest.mark.parametrize(
    "joins",
    [(b"\n", b""), (b",\n", b""), (b"\n,", b""), (b",\r\n", b""), (b", \n ", b""), (b",", b"\n"), (b",", b"\r\n")],
)
def test_a_conversation_over_two_lines_is_not_read_fast_however_many_rows_share_a_line(
    joins: tuple[bytes, bytes],
) -> None:
    turn = b'{"author": "user", "content": "a"}'
    over_two = b'{"messages": [%b%b%b%b]}' % (turn, joins[0], turn, joins[1])
    one = b'{"messages": [%b]}' % turn
    for lines in ([over_two], [over_two + one], [one + over_two], [one + one, over_two], [over_two, one * 2]):
        block = b"".join(line + b"\n" for line in lines)
        assert read_block(block, 1, FORMAT["vertex_chat"], "prompt", instruction="") is None


@pytest.mark.parametrize(
    "text",
    [
        *NASTY[:9],
        *(
            "x\u2028",
            "\ufeff",
            "\ufffe",
            "\x7f",
            "é" * 5000,
            "a" * 5000 + "é",
            "\U0010ffff\ud7ff\ue000",
            "\\" * 99,
            '\\"' * 99,
        ),
        *("\\\\u0041", "\\u0020", "\\ud800", "\\u12", "\\/", "\x08\x0c", "<a href='b'>&", "[{}]:,0123456789- "),
    ],
)
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_a_text_that_only_looks_odd_is_read_fast(text: str, ensure_ascii: bool) -> None:
    row = {"input_text": text + "a", "candidate_0": text + "b", "candidate_1": text + "c", "choice": 1}
    block = json.dumps(row, ensure_ascii=ensure_ascii).encode() + b"\n"
    for odd in (block, block.replace(b"/", b"\\/"), block.replace(b"<", b"\\u003C").replace(b"&", b"\\u0026")):
        batch = read_both_ways(odd * 3, _CHOICE)
        assert batch is not None
        assert [json.loads(batch.line(index))["chosen"] for index in range(3)] == [text + "c"] * 3


@pytest.mark.parametrize("line", [CHOICE % b"-0", (CHOICE % b"1").replace(b'"cho', b'"c\\u0068o')])
def test_an_odd_way_to_write_a_good_row_is_left_to_the_careful_path(line: bytes) -> None:
    block = line + b"\n"
    assert read_block(block, 1, FORMAT["vertex_text"], "preference", instruction="") is None
    batches, problems, _ = careful(block, 1, "preference", ("preference",), "")
    assert (len(batches), problems) == (1, [])


def test_blanks_are_those_of_python() -> None:
    for code in (*range(0x3100), 0xD7FF, 0xFEFF, 0x1F600):
        text = chr(code)
        block = TEXT % json.dumps(text).encode() + b"\n"
        fast = read_block(block, 1, FORMAT["vertex_text"], "prompt", instruction="")
        assert (fast is not None) == (bool(text.strip()) and (code >= 0x20 or text == "\b")), hex(code)


@pytest.mark.parametrize("odd", ["é", '"', "\n", "漢", "😀"])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_hashes_and_texts_are_right_at_every_length(odd: str, ensure_ascii: bool) -> None:
    block = b""
    for size in (*range(1, 100), 1000):
        for text in ("a" * size, "a" * (size - 1) + odd, odd + "a" * (size - 1), odd * size):
            row = {"input_text": text + "a", "candidate_0": text + "b", "candidate_1": "c", "choice": 0}
            block += json.dumps(row, ensure_ascii=ensure_ascii).encode() + b"\n"
    assert read_both_ways(block, _CHOICE) is not None


def test_a_block_cut_anywhere_is_not_read_past_its_end() -> None:
    whole = TURNS % '{"role": "user", "content": "é漢😀\\ud83d\\ude00\\\\"}'.encode() + b"\n"
    assert read_both_ways(whole, _TURNS) is not None
    for end in range(len(whole)):
        assert read_block(whole[:end], 1, FORMAT["trl_conversational"], "prompt", instruction="") is None


@pytest.mark.parametrize(("turns", "fast"), [(511, True), (513, False)])
def test_a_very_long_conversation_is_left_to_the_careful_path(turns: int, fast: bool) -> None:
    block = TURNS % b", ".join([b'{"role": "user", "content": "a"}'] * turns) + b"\n"
    assert (read_both_ways(block, _TURNS) is not None) is fast


def test_without_the_library_every_block_is_left_to_the_careful_path_and_the_person_is_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for cached in (block_module._read_rows, block_module.tell_if_slow):
        cached.cache_clear()
    monkeypatch.setattr(block_module, "LIBRARY", tmp_path / "none.so")
    try:
        assert read_block(A + b"\n", 1, FORMAT["vertex_text"], "prompt", instruction="") is None
        block_module.tell_if_slow()
        block_module.tell_if_slow()
        assert capsys.readouterr().out.count("without a C compiler") == 1
    finally:
        for cached in (block_module._read_rows, block_module.tell_if_slow):
            cached.cache_clear()


@pytest.mark.parametrize("text", ["\x01", "\x0b", "\x1f", "a\x1f\\u001f"])
def test_control_characters_are_left_to_the_careful_path_which_counts_them(text: str) -> None:
    block = TEXT % json.dumps("a" + text).encode() + b"\n"
    assert read_block(block, 1, FORMAT["vertex_text"], "prompt", instruction="") is None
    batches, problems, control_characters = careful(block, 1, "prompt", ("prompt",), "")
    assert (len(batches), problems, control_characters) == (1, [], [1])


def test_a_broken_character_is_found_in_mostly_ascii_and_in_mostly_other_text() -> None:
    for around in ("a" * 400, "é" * 400, "a漢" * 200):
        before, after = around[:200].encode(), around[200:].encode()
        for broken in NO_UTF8:
            assert read_both_ways(TEXT % (b'"%b%b%b"' % (before, broken, after)) + b"\n", _TEXT) is None
        assert read_both_ways(TEXT % (b'"%b%b"' % (before, after)) + b"\n", _TEXT) is not None
