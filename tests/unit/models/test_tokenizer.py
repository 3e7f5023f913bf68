import json
import shutil

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rlhf_tuning.errors import ModelError
from rlhf_tuning.models.tokenizer import load_tokenizer


@pytest.mark.parametrize("pad_token", ["<|im_end|>", None])
def test_a_pad_token_that_would_hide_the_end_of_answers_is_replaced(tiny_model, tmp_path, pad_token):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = pad_token
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(tiny_model / "config.json", tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "<|endoftext|>"


def test_a_pad_token_of_its_own_is_kept(tiny_model, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(tiny_model / "config.json", tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "<pad>"


def test_no_character_is_lost_to_the_padding_of_a_tokenizer_with_a_single_special_token(tmp_path):
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(["!"], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(tmp_path)
    text = "Gulls! And a harbour 0 1 2: é, ÿ."
    for _ in range(2):  # as published, and as saved beside a tuned model
        tokenizer = load_tokenizer(str(tmp_path))
        assert tokenizer.pad_token_id != tokenizer.eos_token_id
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True).replace("ÿ", "") == text.replace("ÿ", "")
        tokenizer.save_pretrained(tmp_path)


def test_padding_goes_to_the_left_where_answers_are_generated(tiny_model):
    assert load_tokenizer(str(tiny_model)).padding_side == "left"


def test_a_tokenizer_that_cannot_end_a_sequence_is_refused(tiny_model, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(tiny_model / "config.json", tmp_path)
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        load_tokenizer(str(tmp_path))


def test_a_folder_without_a_tokenizer_gets_one_message(tmp_path):
    with pytest.raises(ModelError, match="Cannot load the tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_token_set_aside_pads_where_there_is_no_other_but_the_one_that_begins_texts(tiny_model, tmp_path):
    """Llama 3 has neither a pad token nor an unknown one."""
    from transformers import AddedToken, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens([AddedToken(f"<|reserved_special_token_{n}|>", special=True) for n in range(2)])
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for name in ("extra_special_tokens", "pad_token"):
        settings.pop(name)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    shutil.copy(tiny_model / "config.json", tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "<|reserved_special_token_0|>"
