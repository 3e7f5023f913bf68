import json
import random

import pytest
from tests.unit.data.reading import read, read_rows

from rlhf_tuning.data.batch import PROMPT
from rlhf_tuning.data.rows import Conversation, Row, encode_prompt, encode_text, prompt_key


def random_text(random_source: random.Random) -> str:
    characters = '"\\\n\r\t/ aé漢😀\x01\x1f\x7f\u2028\u0085'
    return "".join(random_source.choices(characters, k=random_source.randrange(1, 30))) + "."


def random_conversation(random_source: random.Random) -> Conversation:
    turns = [{"role": role, "content": random_text(random_source)} for role in ("system", "user", "assistant", "user")]
    return turns[random_source.randrange(2) : random_source.choice([2, 4])]


@pytest.mark.parametrize("ensure_ascii", [False, True])
@pytest.mark.parametrize("seed", range(50))
def test_a_row_is_written_as_json_would_write_it_and_reads_back_the_same(seed: int, ensure_ascii: bool) -> None:
    random_source = random.Random(seed)
    row = {
        "prompt": random_conversation(random_source),
        "chosen": random_text(random_source),
        "rejected": random_text(random_source) + ".",
    }
    answers = {name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")}
    content = (json.dumps({**row, **answers}, ensure_ascii=ensure_ascii) + "\n").encode()
    # Twice: the first line by the careful path, the second by the fast one.
    lines = [batch.line(0).decode() for batch in read(content * 2, block_bytes=1).batches]
    assert lines == [json.dumps(row, ensure_ascii=False) + "\n"] * 2
    assert encode_prompt(row["prompt"]).decode() == json.dumps(row["prompt"], ensure_ascii=False)  # type: ignore[arg-type]
    assert json.loads(encode_text(str(row["chosen"]))) == row["chosen"]


def test_a_prompt_row_has_the_prompt_alone() -> None:
    [batch] = read_rows([{"input_text": "Où ?"}])
    assert batch.encoded.decode() == '{"prompt": [{"role": "user", "content": "Où ?"}]}\n'


def test_a_row_knows_its_kind() -> None:
    prompt = [{"role": "user", "content": "a"}]
    assert Row(prompt).kind == "prompt"
    assert Row(prompt, "b", "c").kind == "preference"


def test_a_key_tells_conversations_apart_by_role_turn_and_content() -> None:
    conversations: list[Conversation] = [
        [{"role": "user", "content": "ab"}],
        [{"role": "system", "content": "ab"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": 'ab"}, {"role": "user", "content": "'}],
        [{"role": "user", "content": '[{"role": "user", "content": "ab"}]'}],
    ]
    keys = {prompt_key(conversation) for conversation in conversations}
    assert len(keys) == 5
    assert prompt_key([{"role": "user", "content": "ab"}]) in keys


def test_one_prompt_has_one_hash_in_every_format() -> None:
    turns = [{"role": "user", "content": "Où ?"}]
    rows: list[dict[str, object]] = [
        {"input_text": "Où ?"},
        {"messages": [{"author": "user", "content": "Où ?"}]},
        {"messages": [{"author": "user", "content": "Où ?"}], "context": " "},
        {"prompt": "Où ?"},
        {"prompt": turns},
    ]
    # Each twice: the first by the careful path, the second by the fast one.
    batches = [batch for row in rows for batch in read_rows([row, row], block_bytes=1)]
    assert len(batches) == 10
    hashes = {batch.hashes[0, PROMPT].tobytes() for batch in batches}
    assert len(hashes) == 1
    assert {len(each) for each in hashes} == {16}
