r"""The fast path against the careful one: it may give up on any block, but what it returns must be right."""

import json
from pathlib import Path

import pytest
from benchmarks.fuzz_rows import FORMAT, SHAPES, careful, difference

from rlhf_tuning.data import block as block_module
from rlhf_tuning.data.batch import Batch
from rlhf_tuning.data.block import read_block
from rlhf_tuning.data.rows import Kind

pytestmark = pytest.mark.skipif(not block_module.is_fast(), reason="installed without a C compiler: no fast path")

Shape = tuple[str, Kind]

INSTRUCTIONS = ["", "Be brief."]
ODD = ['"', "\\", "/", "\\u0041", "\\n", "\\\\", "}\n{", '"}\n{"', '": 0, "']


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
    # The same but for white space around it.
    *(
        (_CHOICE, (CHOICE % b"1").replace(b'"c"', b'"%b"' % text))
        for text in (
            b"b ",
            b" b",
            b"\\t b\\r\\n",
            b"\\u00a0b\\u3000",
            "\u2028b\u2003".encode(),
            b"\\u0085b\\f",
            b"b\\u000b",
        )
    ),
    (_CHOICE, (CHOICE % b"0").replace(b'"b"', b'"\\\\"').replace(b'"c"', b'"\\\\\\n"')),
    (_TRL, TRL.replace(b'"c"', b'"b\\n"') % b'{"role": "assistant", "content": "b"}'),
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
        for instruction in INSTRUCTIONS:
            _, problems, _ = careful(block, 1, kind, (kind,), instruction)
            assert problems
            assert read_block(block, 1, FORMAT[name], kind, instruction=instruction) is None


@pytest.mark.parametrize("text", [b"b\\\\n", b"b\\\\\\\\t", b"b n", b"nb", b"\\/b", b"b\\b"])
def test_a_letter_that_is_no_white_space_tells_two_candidates_apart(text: bytes) -> None:
    line = (CHOICE % b"0").replace(b'"c"', b'"%b"' % text)
    assert read_both_ways(line + b"\n", _CHOICE) is not None


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
        *ODD,
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


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_every_character_is_read_as_the_careful_path_reads_it(ensure_ascii: bool) -> None:
    codes = [*range(0x20, 0xD800), *range(0xE000, 0x10400), 0x1F600, 0x10FFFF]
    texts = ["".join(map(chr, codes[start : start + 64])) for start in range(0, len(codes), 64)]
    block = b"".join(json.dumps({"input_text": text}, ensure_ascii=ensure_ascii).encode() + b"\n" for text in texts)
    batch = read_both_ways(block, _TEXT)
    assert batch is not None
    assert [json.loads(batch.line(row))["prompt"][0]["content"] for row in range(len(batch))] == texts


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
