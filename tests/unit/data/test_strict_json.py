import pytest

from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.strict_json import decode_object


@pytest.mark.parametrize(
    ("raw", "code", "found"),
    [
        (b'{"a": 1', "invalid_json", "column 8"),
        (b"{'a': 1}", "invalid_json", "column 2"),
        (b'{"a": 1} {"b": 2}', "invalid_json", "Extra data at column 10"),
        (b'{"a": "\x01"}', "invalid_json", "control character at column 8"),
        (b'{"a": "\x00"}', "invalid_json", "control character at column 8"),
        (b'\xef\xbb\xbf{"a": 1}', "invalid_json", "column 1"),
        (b"[" * 100_000, "invalid_json", "nesting too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid_json", "4300 digits"),
        (b'{"a": "\xff"}', "invalid_utf8", "byte 0xff at byte 8"),
        (b'{"a": "\xed\xa0\x80"}', "invalid_utf8", "byte 0xed at byte 8"),
        (b"\xff\xfe{\x00}\x00", "invalid_utf8", "byte 0xff at byte 1"),
        (b'{"a": 1, "b": 2, "a": 3}', "duplicate_key", "it twice"),
        (b'{"a": {"b": 2, "b": 2}}', "duplicate_key", "it twice"),
        (b'{"a": NaN}', "not_a_number", "NaN"),
        (b'{"a": -Infinity}', "not_a_number", "-Infinity"),
        (b'[{"a": 1}]', "not_an_object", "an array of 1"),
        (b'"a"', "not_an_object", '"a" (a string)'),
        (b"null", "not_an_object", "null"),
    ],
)
def test_refuses_a_line_that_is_not_one_strict_json_object(raw: bytes, code: str, found: str) -> None:
    faults: list[Fault] = []
    assert decode_object(raw, faults) is None
    assert [fault.code for fault in faults] == [code]
    assert found in faults[0].found
    assert "\n" not in faults[0].found
    assert len(faults[0].found) < 200


def test_names_the_key_that_stands_twice() -> None:
    faults: list[Fault] = []
    decode_object(b'{"a": 1, "b": 2, "b": 3}', faults)
    assert faults[0].field == "b"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"  \n"])
def test_reads_one_object_whatever_ends_its_line(end: bytes) -> None:
    faults: list[Fault] = []
    assert decode_object('{"a": "é", "__proto__": {"x": [1, true]}}'.encode() + end, faults) == {
        "a": "é",
        "__proto__": {"x": [1, True]},
    }
    assert faults == []


def test_text_that_is_no_utf_8_comes_with_the_way_to_convert_it() -> None:
    faults: list[Fault] = []
    assert decode_object(b'{"a": "caf\xe9"}', faults) is None
