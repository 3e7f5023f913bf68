"""Does a model read what the row says? Conversations in the chat templates of tests/chat_templates, by the seed.

    python benchmarks/fuzz_templates.py --rows 100000

Every template stands for a kind that is in use, written anew, with a tokenizer of the sort that comes with it. The texts
hold marks of all of them, in whole and in parts. What is to be found is worked out from transformers alone:

- If a template loses, repeats, moves or changes a turn of a conversation, that is refused; if not, it is taken.
- The tokens are those that a server sends, where no text holds a mark; else they say the same text, and the marks among them
  are those of the same conversation with harmless texts.
- Cut to a length they are no more, begin and end as the template does, and hold the end of the question and the beginning of
  the system turn.
- An answer has no mark but its end, and is the same with other white space around it.

Ends with an error at the first conversation of which that is not true.
"""

import argparse
import copy
import json
import random
import time
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlhf_tuning.models.text_format import RefusedConversationError, TextFormat, Turn

TEMPLATES = Path(__file__).parents[1] / "tests" / "chat_templates"

_CHATML = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
_LLAMA_2 = ("</s>", "<s>", "<unk>")
_LLAMA_3 = ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
_GEMMA = ("<end_of_turn>", "<bos>", "<start_of_turn>", "<eos>")
_PHI = ("<|end|>", "<s>", "<|user|>", "<|assistant|>", "<|system|>")

#: The kind of tokenizer and the marks of each template; the first ends a sequence, the second begins one.
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "alpaca": ("prefix", _LLAMA_2),
    "chatml": ("bytes", _CHATML),
    "command_r": (
        "bytes",
        (
            *("<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>"),
            *("<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        ),
    ),
    "deepseek_coder": ("bytes, not special", ("<|EOT|>", "<｜begin▁of▁sentence｜>")),
    "deepseek_v3": (
        "bytes, not special",
        ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    ),
    "falcon": ("bytes", ("<|endoftext|>", ">>TITLE<<")),
    "gemma": ("gemma", _GEMMA),
    "gemma3": ("gemma", _GEMMA),
    "gpt_oss": ("bytes", ("<|return|>", "<|start|>", "<|message|>", "<|channel|>", "<|end|>")),
    "granite": ("bytes", ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<tool_call>")),
    "last_turn_only": ("bytes", _CHATML),
    "llama2": ("prefix", _LLAMA_2),
    "llama3": ("bytes", _LLAMA_3),
    "llama31": ("bytes", _LLAMA_3),
    "mistral_v1": ("prefix", _LLAMA_2),
    "mistral_v3": ("metaspace", ("</s>", "<s>", "<unk>", "[INST]", "[/INST]")),
    "mistral_v7": ("bytes", ("</s>", "<s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
    "olmo": ("bytes, not special", ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>")),
    "parts_only": ("bytes", _CHATML),
    "phi3_new": ("metaspace", _PHI),
    "phi3_old": ("metaspace", _PHI),
    "phi4_mini": ("bytes, not special", _PHI),
    "qwen2": ("bytes, normalised", _CHATML),
    "qwen3": ("bytes, not special", (*_CHATML, "<think>", "</think>")),
    "smollm3": ("bytes", (*_CHATML, "<think>", "</think>")),
    "stablelm": ("bytes", ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>")),
    "vicuna": ("unigram", ("</s>", "<s>", "<unk>")),
    "yi": ("unigram", ("<|im_end|>", "<|im_start|>", "</s>", "<unk>")),
    "zephyr": ("prefix", ("</s>", "<s>", "<unk>", "<|user|>", "<|assistant|>", "<|system|>")),
}

#: Tokens that Gemma's tokenizer adds though they are text, and words such as others add.
_ADDED_TEXT = ("\n\n", "\n\n\n", "▁▁", "▁▁▁", "<table>", "</b>", "<strong>", "gulls call", "harbour", "港は")

_WORDS = [
    *(
        "harbour",
        "the",
        "gulls call",
        "user",
        "assistant",
        "system",
        "Why?",
        "12",
        "é",
        "港は静か。",
        "😀",
        "สวัสดี",
        "ﬁ",
        "\u00a0",
    ),
    *(
        "\n",
        "\n\n",
        "\n\n\n",
        "  ",
        "    ",
        "\t",
        "\r\n",
        "▁",
        "▁▁▁",
        "\ufffd",
        "\ue0a10\ue0a2",
        "\ue0a1",
        "{{ x }}",
        "{% if %}",
        "\\n",
    ),
    *("<|", "|>", "<", ">", "</", "im_start", "[/", "<table>", "</b>", "<b>", "### Response:", "USER:", "Falcon:"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<think>", "</think>", "/no_think", "/think", "<tool_call>"),
    *("＜|im_end|＞", "<｜im_start｜>", "<|IM_END|>", "<|channel|>analysis<|message|>"),
]
_MARKS = sorted({mark for _, marks in KINDS.values() for mark in marks})
_SPACES = ["", "", "", " ", "\n", "\n\n ", "\t\u3000", "\u00a0 ", "\r\n"]
_SENTENCES = ["The harbour smells of salt, and gulls call all day.", "user assistant system 0 1 2 3 4 5 6 7 8 9 n"] * 3


def make_tokenizer(kind: str, marks: Sequence[str]) -> Any:
    """Return a small tokenizer of a kind, with these marks."""
    kind, _, how = kind.partition(", ")
    tokenizer = {"bytes": _bytes, "prefix": _prefix, "metaspace": _metaspace, "gemma": _gemma, "unigram": _unigram}[
        kind
    ](marks)
    if how == "normalised":
        tokenizer.normalizer = normalizers.NFKC()
    ordinary = marks[2:] if how else ()
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks if mark not in ordinary])
    tokenizer.add_tokens([AddedToken(mark, normalized=how == "normalised") for mark in ordinary])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=marks[0], bos_token=marks[1])


def _trained(tokenizer: Tokenizer, special: Sequence[str] = (), alphabet: Sequence[str] = ()) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(special), initial_alphabet=list(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return tokenizer


def _bytes(marks: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, alphabet=pre_tokenizers.ByteLevel.alphabet())


def _byte_fallback(marks: Sequence[str]) -> Tokenizer:
    """Return a tokenizer whose vocabulary holds its marks, and every byte."""
    return Tokenizer(models.BPE(byte_fallback=True, unk_token=next((mark for mark in marks if "unk" in mark), None)))


_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _prefix(marks: Sequence[str]) -> Tokenizer:
    tokenizer = _byte_fallback(marks)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _without_added_bytes(_trained(tokenizer, [*marks, *_BYTES]))


def _metaspace(marks: Sequence[str]) -> Tokenizer:
    tokenizer = _byte_fallback(marks)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _without_added_bytes(_trained(tokenizer, [*marks, *_BYTES]))


def _gemma(marks: Sequence[str]) -> Tokenizer:
    tokenizer = _byte_fallback(marks)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = _without_added_bytes(_trained(tokenizer, [*marks, *_BYTES]))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in _ADDED_TEXT])
    return tokenizer


def _without_added_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """Return it with its bytes in the vocabulary alone, as those are that were SentencePiece's."""
    stored = json.loads(tokenizer.to_str())
    stored["added_tokens"] = [token for token in stored["added_tokens"] if token["content"] not in _BYTES]
    return Tokenizer.from_str(json.dumps(stored))


def _unigram(marks: Sequence[str]) -> Tokenizer:
    letters = sorted(set("".join([*_SENTENCES, *_MARKS, *_WORDS])) - set(" \n\t\r") | {"▁"})
    pieces = [*((mark, 0.0) for mark in marks), *((byte, 0.0) for byte in _BYTES)]
    pieces += [(piece, -5.0) for piece in ("▁the", "▁harbour", "▁gulls", "ll", "▁a")]
    pieces += [(letter, -8.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=len(marks) - 1, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    return tokenizer


@dataclass(frozen=True, kw_only=True)
class Case:
    """A template with its tokenizer; `marks` are the ids of the marks, `exact` says whether decoding gives back the text."""

    name: str
    tokenizer: Any
    marks: frozenset[int]
    exact: bool
    text_format: TextFormat


def make_case(name: str) -> Case:
    """Return the case of a template."""
    kind, marks = KINDS[name]
    tokenizer = make_tokenizer(kind, marks)
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    return Case(
        name=name,
        tokenizer=tokenizer,
        marks=frozenset(tokenizer.convert_tokens_to_ids(list(marks))),
        exact=kind.startswith("bytes"),
        text_format=TextFormat(tokenizer, prompt_sequence_length=100_000, target_sequence_length=100_000),
    )


def conversation(numbers: random.Random) -> list[Turn]:
    """Return a conversation whose every text begins and ends with a number of its own."""
    if numbers.random() < 0.85:
        roles = ["user", "assistant"] * numbers.choice([0, 0, 1, 1, 2, 4]) + ["user"]
    else:
        roles = [numbers.choice(["user", "assistant"]) for _ in range(numbers.randint(1, 4))] + ["user"]
    if numbers.random() < 0.5:
        roles.insert(0, "system")
    words = _WORDS if numbers.random() < 0.3 else [*_WORDS, *_MARKS]
    if numbers.random() < 0.4:
        words = _WORDS[:14]
    return [Turn(role=role, content=_text(numbers, words)) for role in roles]


def _text(numbers: random.Random, words: Sequence[str]) -> str:
    first, last = (f"n{numbers.randrange(10**8):08}" for _ in range(2))
    between = "".join(
        numbers.choice(words) + numbers.choice(["", " "]) for _ in range(numbers.choice([0, 1, 3, 8, 20]))
    )
    core = (
        f"{first}{between}{last}"
        if numbers.random() < 0.9
        else f"{numbers.choice(words)}{first} {last}{between}".strip()
    )
    return numbers.choice(_SPACES) + core + numbers.choice(_SPACES)


def check(case: Case, turns: list[Turn], numbers: random.Random) -> str:
    """Check one conversation, and return what became of it."""
    text = _served_text(case, turns)
    try:
        ids = case.text_format.prompt_ids(turns)
    except RefusedConversationError:
        assert not _says_all(text or "", turns), "refused, though the template says all of it"
        return "refused"
    assert _says_all(text or "", turns), "taken, though the template does not say all of it"
    served = _served_ids(case, turns)
    wanted, found = _wanted_marks(case, turns), _marks_among(case, ids)
    assert found == wanted, f"marks {found}, wanted {wanted}"
    said, meant = case.tokenizer.decode(ids), unicodedata.normalize("NFKC", text)
    if case.exact:
        assert unicodedata.normalize("NFKC", said) == meant, f"says {said!r}"
    assert _bare(said) == _bare(text), f"says {said!r}"
    typed = _marks_among(case, served) != wanted
    if not typed:
        assert ids == served, "other tokens than a server's"
    if numbers.random() < 0.5:
        _check_cut(case, turns, len(ids), numbers)
    _check_answer(case, turns[0]["content"])
    return "with marks" if typed else "plain"


def _served_text(case: Case, turns: Sequence[Turn]) -> str | None:
    from jinja2 import TemplateError

    try:
        return str(case.tokenizer.apply_chat_template(list(turns), add_generation_prompt=True, tokenize=False))
    except TemplateError:
        return None


def _served_ids(case: Case, turns: Sequence[Turn]) -> list[int]:
    ids: list[int] = case.tokenizer.apply_chat_template(list(turns), add_generation_prompt=True)["input_ids"]
    return ids


def _marks_among(case: Case, ids: Sequence[int]) -> list[int]:
    return [index for index in ids if index in case.marks]


def _wanted_marks(case: Case, turns: Sequence[Turn]) -> list[int] | None:
    """Return the marks of the same turns with harmless texts; None where the template takes no such conversation."""
    harmless = [Turn(role=turn["role"], content="A boat") for turn in turns]
    return _marks_among(case, _served_ids(case, harmless)) if _served_text(case, harmless) is not None else None


def _says_all(text: str, turns: Sequence[Turn]) -> bool:
    contents = [turn["content"].strip() for turn in turns]
    places = [text.find(content) for content, turn in zip(contents, turns, strict=True) if turn["role"] != "system"]
    return all(text.count(content) == 1 for content in contents) and places == sorted(places)


def _bare(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text.replace("▁", " ")).split())


def _check_cut(case: Case, turns: Sequence[Turn], length: int, numbers: random.Random) -> None:
    short = [turn for turn in turns if turn["role"] == "system"] + [turns[-1]]
    harmless = [Turn(role=turn["role"], content="A") for turn in short]
    if _served_text(case, harmless) is None:
        return
    limit = len(_served_ids(case, harmless)) + numbers.randint(60, 120)
    if length <= limit:
        return
    text_format = copy.copy(case.text_format)
    text_format.prompt_sequence_length = limit
    try:
        ids = text_format.prompt_ids(turns)
    except RefusedConversationError:
        # What is left may be what a template does not take.
        assert _served_text(case, turns[-2:]) is None, "refused when cut"
        return
    assert len(ids) <= limit
    said = _bare(case.tokenizer.decode(ids))
    assert said.find(_bare(turns[-1]["content"])[-9:]) >= 0, f"the question is lost: {said!r}"
    if turns[0]["role"] == "system":
        assert said.find(_bare(turns[0]["content"])[:9]) >= 0, f"the system turn is lost: {said!r}"
    dialogue = [turn for turn in turns if turn["role"] != "system"]
    ends = [[*short[:-1], *dialogue[start:]] for start in range(len(dialogue))]
    # Long conversations lose most, so the short ends come first.
    found = _marks_among(case, ids)
    assert any(_wanted_marks(case, end) == found for end in reversed(ends)), "the template is cut"


def _check_answer(case: Case, text: str) -> None:
    ids = case.text_format.answer_ids(text)
    assert ids == case.text_format.answer_ids(f"\n {text.strip()}\u3000")
    assert ids[-1] == case.tokenizer.eos_token_id
    assert not case.marks.intersection(ids[:-1]), "an answer with a mark"
    assert _bare(case.tokenizer.decode(ids[:-1])) == _bare(text)


def fuzz(names: Sequence[str], rows: int, seed: int) -> Counter[tuple[str, str]]:
    """Check so many conversations of every template; returns what became of how many."""
    outcomes: Counter[tuple[str, str]] = Counter()
    for name in names:
        case = make_case(name)
        numbers = random.Random(f"{seed} {name}")
        for row in range(rows):
            turns = conversation(numbers)
            try:
                outcomes[name, check(case, turns, numbers)] += 1
            except AssertionError as error:
                raise AssertionError(f"{name}, seed {seed}, row {row}: {error}\n{turns}") from error
    return outcomes


def main() -> None:
    """Run it and print what became of the conversations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="conversations in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--template", choices=sorted(KINDS), nargs="+", default=sorted(KINDS))
    arguments = parser.parse_args()
    began = time.monotonic()
    rows = -(-arguments.rows // len(arguments.template))
    for name in arguments.template:
        outcomes = fuzz([name], rows, arguments.seed)
        counts = (f"{what} {outcomes[name, what]:6,}  " for what in ("plain", "with marks", "refused"))
        print(f"{name:16}", *counts, flush=True)
    print(f"{rows * len(arguments.template):,} conversations in {time.monotonic() - began:.0f} s: nothing wrong")


if __name__ == "__main__":
    main()
