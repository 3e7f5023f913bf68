"""Tiny real models: two layers, a tokenizer of a few hundred tokens, made on the spot, no network."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Tiny models gain nothing from a second thread, and lose much where several tests share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# And those that a test asks for are not to spin while they wait for one another.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell that started the tests in the background has Ctrl-C ignored, in every process below; here it must work.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

# Imports leave no garbage, and there are many until the first test runs.
gc.disable()

#: How many modules had been imported when the garbage collector was last told to leave what they hold alone.
_modules_frozen = 0


def pytest_runtest_setup() -> None:
    """Spare the garbage collector what imports have left, which never goes: trainers call it after every phase."""
    global _modules_frozen
    if len(sys.modules) > _modules_frozen + 200:
        gc.collect()
        gc.freeze()
        gc.enable()
        _modules_frozen = len(sys.modules)


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SENTENCES = [
    "Create a description for Plantation Palms.",
    "Enjoy some fun in the sun at Gulf Shores.",
    "A Tranquil Oasis of Natural Beauty.",
    "The harbour smells of salt and warm bread, and gulls call all day.",
    "user assistant system",
    "0 1 2 3 4 5 6 7 8 9",
]


def make_tokenizer(chat_template: str | None) -> Any:
    """Train a byte-level BPE tokenizer on a few sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        # As many published tokenizers have it, and the trap that loading must repair.
        pad_token="<|im_end|>",
        additional_special_tokens=["<|endoftext|>"],
        model_max_length=2048,
    )
    fast.chat_template = chat_template
    return fast


def make_model(folder: Path, *, chat_template: str | None, seed: int = 0, head_dim: int = 8) -> Path:
    """Save a two-layer Llama with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(chat_template)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=head_dim,
            max_position_embeddings=1024,
            # Wider than usual, so that the untrained model is not uniform and can be moved in a few steps.
            initializer_range=0.15,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model's folder."""
    return make_model(tmp_path_factory.mktemp("tiny") / "tiny-chat", chat_template=CHAT_TEMPLATE)


@pytest.fixture(scope="session")
def tiny_plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model's folder: no chat template, other weights."""
    return make_model(tmp_path_factory.mktemp("tiny") / "tiny-base", chat_template=None, seed=1)


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """A client of the Docker engine, for tests marked `docker`."""
    import docker

    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(autouse=True)
def quiet_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps under test print sparse lines, whatever the shell has set."""
    from rlhf_tuning import environment

    monkeypatch.setattr(environment, "PROGRESS", "lines")
