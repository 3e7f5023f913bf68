import json
import random

import pytest

from rlhf_tuning.data.rows import Conversation, Row, encode_prompt, encode_row, preference_line, prompt_key, prompt_line


def random_text(random_source: random.Random) -> str:
    characters = '"\\\n\r\t/ aé漢😀\x01\x1f\x7f\u2028\u0085'
    return "".join(random_source.choices(characters, k=random_source.randrange(1, 30)))


def random_conversation(random_source: random.Random) -> Conversation:
    turns = [{"role": role, "content": random_text(random_source)} for role in ("system", "user", "assistant", "user")]
    return turns[random_source.randrange(2) : random_source.choice([2, 4])]


@pytest.mark.parametrize("seed", range(50))
def test_writes_what_json_would_write_and_reads_back_the_same(seed: int) -> None:
    random_source = random.Random(seed)
    prompt, chosen, rejected = (
        random_conversation(random_source),
        random_text(random_source),
        random_text(random_source),
    )
    encoded = encode_prompt(prompt)
    as_json = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    line = encode_row(Row(prompt, chosen, rejected), encoded)
    assert line == preference_line(encoded, chosen, rejected)
    assert line.decode() == json.dumps(as_json, ensure_ascii=False) + "\n"
    assert json.loads(line) == as_json
    assert line.count(b"\n") == 1


def test_a_prompt_row_has_the_prompt_alone() -> None:
    prompt = [{"role": "user", "content": "Où ?"}]
    line = encode_row(Row(prompt), encode_prompt(prompt))
    assert line == prompt_line(encode_prompt(prompt))
    assert line.decode() == '{"prompt": [{"role": "user", "content": "Où ?"}]}\n'


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
    ]
    keys = {prompt_key(encode_prompt(conversation)) for conversation in conversations}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {16}
    assert prompt_key(encode_prompt([{"role": "user", "content": "ab"}])) in keys
