import json

import pytest

from rlhf_tuning.errors import ModelError
from rlhf_tuning.models.architecture import (
    KNOWN,
    LLAMA_1B,
    LLAMA_8B,
    LLAMA_70B,
    SMOLLM2_135M,
    from_config,
    positions,
    read_architecture,
)


@pytest.mark.parametrize(
    ("model", "published"),
    [(SMOLLM2_135M, 134_515_008), (LLAMA_1B, 1_235_814_400), (LLAMA_8B, 8_030_261_248), (LLAMA_70B, 70_553_706_496)],
)
def test_the_known_models_have_the_weights_that_are_published(model, published):
    assert model.parameters == pytest.approx(published, rel=1e-3)


def test_every_alias_is_known():
    from rlhf_tuning.models.packaged_models import ALIASES

    assert set(ALIASES) <= set(KNOWN)


@pytest.mark.parametrize(
    "kind", ["llama", "gpt2", "opt", "gpt_neox", "qwen2", "qwen3", "gemma2", "mistral", "falcon", "phi"]
)
def test_the_formula_counts_what_a_model_has(kind):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert from_config(config, name=kind).parameters == pytest.approx(counted, rel=0.015)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("gpt2", 1024), ("mpt", 2048), ("llama", 2048), ("gemma3", 131_072), ("mamba", 0), ("rwkv", 1024)],
)
def test_positions_are_found_under_whatever_name_a_config_has_them(kind, expected):
    from transformers import AutoConfig

    assert positions(AutoConfig.for_model(kind)) == expected


def test_an_adapter_has_the_weights_that_peft_gives_it(tiny_model):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
    )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert read_architecture(str(tiny_model)).adapter(4) == trained


def test_reads_a_config_without_weights(tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
        "max_position_embeddings": 77,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_architecture(str(tmp_path))
    assert (found.hidden, found.intermediate, found.layers, found.key_value) == (64, 96, 3, 32)
    assert (found.positions, found.tied, found.stored_bytes) == (77, False, 2)
    assert found.linear == 3 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    assert found.parameters == found.linear + 2 * 64 * 100


@pytest.mark.parametrize(
    ("kind", "words"), [("mixtral", "mixture of experts (num_local_experts 8)"), ("mamba", "attention alone")]
)
def test_refuses_models_for_which_there_is_no_formula(kind, words):
    from transformers import AutoConfig

    with pytest.raises(ModelError) as caught:
        from_config(AutoConfig.for_model(kind), name=kind, parameter="reward_model_reference")
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"reward_model_reference is '{kind}'")


def test_says_what_to_give_where_there_is_no_config(tmp_path):
    with pytest.raises(
        ModelError, match=r"a folder without config\.json, or none at all\.\n.*meta-llama/Llama-3\.1-8B"
    ):
        read_architecture(str(tmp_path / "nothing"))


def test_a_config_that_is_none_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{]")
    with pytest.raises(ModelError, match=r"whose config\.json cannot be read: .*\n.*meta-llama/Llama-3\.1-8B"):
        read_architecture(str(tmp_path))


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch):
    from huggingface_hub import HfApi

    asked = []

    def model_info(self, name, **settings):
        asked.append(name)
        raise ConnectionError("no network")

    monkeypatch.setattr(HfApi, "model_info", model_info)
    with pytest.raises(ModelError, match=r"the Hugging Face hub cannot be reached.*\n.*meta-llama/Llama-3\.1-8B"):
        read_architecture("someone/some-model-that-is-in-no-cache")
    assert asked == ["someone/some-model-that-is-in-no-cache"]


def test_the_retired_job_s_models_are_refused_by_name():
    with pytest.raises(ModelError, match="can no longer be had"):
        read_architecture("text-bison@001")
