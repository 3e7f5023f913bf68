import json
import random
from itertools import permutations

import numpy as np
import pytest
import xxhash

from rlhf_tuning.data.batch import Columns, make_batch, mix
from rlhf_tuning.data.formats import parse_line
from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Conversation, Kind, Row, encode_prompt, encode_text, prompt_key

TEXTS = ["a", "b", 'say "so"', "C:\\users", "Où ?\n", "漢字😀", "a\u2028", " a ", "\x7f", "x" * 1000]


def some_rows(kind: Kind, count: int) -> list[Row]:
    random_source = random.Random(count)
    rows = []
    for _ in range(count):
        roles = [*random_source.choice([[], ["system"], ["user"], ["user", "assistant"]]), "user"]
        prompt = [{"role": role, "content": random_source.choice(TEXTS)} for role in roles]
        answers = random_source.sample(TEXTS, 2)
        rows.append(Row(prompt, *answers, random_source.random() < 0.5) if kind == "preference" else Row(prompt))
    return rows


def columns_of(rows: list[Row]) -> Columns:
    return Columns(
        prompts=[encode_prompt(row.prompt) for row in rows],
        keys=[prompt_key(row.prompt) for row in rows],
        chosen=[encode_text(row.chosen) for row in rows if row.chosen is not None],
        rejected=[encode_text(row.rejected) for row in rows if row.rejected is not None],
        first_chosen=[row.first_chosen for row in rows if row.first_chosen is not None],
    )


def words(encoded: bytes) -> list[int]:
    return [xxhash.xxh64_intdigest(encoded, seed) for seed in (0, 1)]


def key(prompt: Conversation) -> bytes:
    alone = len(prompt) == 1 and prompt[0]["role"] == "user"
    return json.dumps(prompt[0]["content"] if alone else prompt, ensure_ascii=False).encode()


def parsed(record: object, instruction: str = "") -> Row:
    faults: list[Fault] = []
    found = parse_line(json.dumps(record).encode(), accepts=("prompt",), instruction=instruction, faults=faults)
    assert found is not None, faults
    return found[1]


@pytest.mark.parametrize("kind", ["prompt", "preference"])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_a_batch_is_what_json_and_plain_hashes_make_of_its_rows(kind: Kind, count: int) -> None:
    rows = some_rows(kind, count)
    batch = make_batch(kind, "some_format", columns_of(rows), np.arange(5, 5 + count))
    assert (batch.kind, batch.format, len(batch)) == (kind, "some_format", count)
    assert batch.line_numbers.tolist() == list(range(5, 5 + count))
    lines, ends, hashes, sizes = [], [], [], []
    for row in rows:
        answers = {} if kind == "prompt" else {"chosen": row.chosen, "rejected": row.rejected}
        lines.append(json.dumps({"prompt": row.prompt, **answers}, ensure_ascii=False).encode() + b"\n")
        ends.append(sum(map(len, lines)))
        encoded = [json.dumps(text, ensure_ascii=False).encode() for text in answers.values()]
        hashes.append([words(key(row.prompt)), *map(words, encoded)] + [[0, 0]] * (2 - len(encoded)))
        sizes.append([len(encode_prompt(row.prompt)), *map(len, encoded)] + [0] * (2 - len(encoded)))
    assert batch.encoded == b"".join(lines)
    assert [batch.line(index) for index in range(count)] == lines
    assert batch.ends.tolist() == ends
    assert batch.hashes.tolist() == hashes
    assert batch.sizes.tolist() == sizes
    assert batch.first_chosen.tolist() == ([row.first_chosen for row in rows] if kind == "preference" else [])
    assert (batch.hashes.dtype, batch.first_chosen.dtype) == (np.uint64, np.bool_)
    assert {batch.ends.dtype, batch.sizes.dtype, batch.line_numbers.dtype} == {np.dtype(np.int64)}


def test_rows_that_share_texts_in_other_places_have_hashes_of_their_own() -> None:
    rows = [Row([{"role": "user", "content": one}], two, three) for one, two, three in permutations(TEXTS, 3)]
    rows += [Row([{"role": "user", "content": one}], two, two) for one in TEXTS for two in TEXTS]
    batch = make_batch("preference", "f", columns_of(rows), np.arange(len(rows)))
    hashes = batch.row_hashes
    assert hashes.shape == (len(rows), 2)
    for word in range(2):
        assert len(set(hashes[:, word].tolist())) == len(rows)


def test_equal_rows_have_equal_hashes_whatever_stands_around_them() -> None:
    rows = some_rows("preference", 20)
    one = make_batch("preference", "f", columns_of(rows), np.arange(20))
    other = make_batch("preference", "g", columns_of(rows[::-1]), np.arange(20))
    assert (one.row_hashes == other.row_hashes[::-1]).all()


def test_mixing_tells_swapped_shifted_and_zero_words_apart() -> None:
    values = [0, 1, 2, 2**32, 2**63, 2**64 - 1]
    triples = np.array([(a, b, c) for a in values for b in values for c in values], np.uint64)
    mixed = mix(triples[:, 0], triples[:, 1], triples[:, 2])
    # Three zeros are no hashes of any row: a prompt is never zero.
    assert len(set(mixed.tolist())) == len(triples)
    assert mix(triples[:, 0], triples[:, 1]).dtype == np.uint64


def test_mixing_changes_about_half_of_the_bits_when_one_bit_changes() -> None:
    first, second, third = np.random.default_rng(0).integers(0, 2**63, (3, 4000), dtype=np.uint64)
    before = mix(first, second, third)
    for changed in (
        mix(first ^ np.uint64(1), second, third),
        mix(first, second ^ np.uint64(1), third),
        mix(first, second, third ^ np.uint64(1)),
        mix(first, second, third ^ np.uint64(2**63)),
    ):
        bits = np.unpackbits((before ^ changed).view(np.uint8)).mean()
        assert 0.25 < bits < 0.75


@pytest.mark.parametrize("text", TEXTS)
def test_the_same_conversation_has_the_same_key_from_every_format(text: str) -> None:
    plain = [
        {"input_text": text},
        {"prompt": text},
        {"prompt": [{"role": "user", "content": text}]},
        {"messages": [{"author": "user", "content": text}]},
        {"messages": [{"author": "user", "content": text}], "context": " "},
    ]
    assert len({prompt_key(parsed(record).prompt) for record in plain}) == 1
    # With an instruction a text begins with it, and a chat has it as a system turn: these are two conversations.
    texts = {prompt_key(parsed(record, "Be brief.").prompt) for record in plain[:2]}
    chats = {prompt_key(parsed(record, "Be brief.").prompt) for record in plain[2:4]}
    assert len(texts) == len(chats) == 1
    assert texts != chats
    assert texts == {prompt_key(parsed({"messages": [{"author": "user", "content": f"Be brief.\n\n{text}"}]}).prompt)}
    assert chats == {prompt_key(parsed({**plain[3], "context": "Be brief."}, "Another.").prompt)}
    assert prompt_key(parsed(plain[4], "Be brief.").prompt) == prompt_key(parsed(plain[0]).prompt)


def test_conversations_that_differ_have_keys_that_differ() -> None:
    spoken = [{"role": role, "content": text} for role in ("system", "user", "assistant") for text in TEXTS]
    conversations = [[turn] for turn in spoken] + [[one, other] for one in spoken for other in spoken]
    # A user may write what another conversation looks like.
    conversations += [[{"role": "user", "content": encode_prompt([turn]).decode()}] for turn in spoken]
    assert len(set(map(prompt_key, conversations))) == len(conversations)
