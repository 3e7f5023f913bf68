import shutil

import pytest
import torch
from tiny_architectures import save_network
from transformers import AutoTokenizer

from rlhf_tuning import environment
from rlhf_tuning.accelerators import LEARNING
from rlhf_tuning.errors import ModelError, ParameterError
from rlhf_tuning.models import base_model
from rlhf_tuning.ops import processor


def test_dtypes_asked_for_are_given():
    assert base_model.choose_dtype("float32") == torch.float32
    assert base_model.choose_dtype("bfloat16") == torch.bfloat16


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_where_a_processor_multiplies_it_and_elsewhere_it_is_slow(native, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: native)
    base_model._say_slow.cache_clear()
    assert base_model.choose_dtype("auto") == (torch.bfloat16 if native else torch.float32)
    assert "slower" not in capsys.readouterr().out
    for _ in range(2):
        assert base_model.choose_dtype("bfloat16") == torch.bfloat16
    assert capsys.readouterr().out.count("slower") == (0 if native else 1)


def test_a_folder_that_is_no_model_gets_one_message(tmp_path):
    with pytest.raises(ModelError, match="Cannot load"):
        base_model.load_causal_lm(str(tmp_path), dtype=torch.float32)


def test_pickled_weights_are_never_loaded(tiny_model, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError):
        base_model.load_causal_lm(str(tmp_path), dtype=torch.float32)


@pytest.mark.parametrize("name", ["Phi 3", "StarCoder", "GPT-2", "OPT"])
def test_no_dropout_of_the_config_is_left_in_training(name, tiny_model, tmp_path):
    folder = save_network(name, tmp_path, AutoTokenizer.from_pretrained(tiny_model))
    model = base_model.load_causal_lm(str(folder), dtype=torch.float32).train()
    ids = torch.arange(3, 30)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert any("drop" in key and value for key, value in model.config.to_dict().items() if isinstance(value, float))


def test_sequences_longer_than_the_model_s_positions_are_refused(tiny_model):
    model = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    base_model.check_context(model, prompt_sequence_length=1000, target_sequence_length=23)
    with pytest.raises(ParameterError, match="1024 positions"):
        base_model.check_context(model, prompt_sequence_length=1000, target_sequence_length=24)


@pytest.mark.parametrize(("full", "copies", "each"), [(False, 0, 2), (True, 0, 16), (True, 1, 20)])
def test_a_model_that_cannot_fit_on_a_gpu_is_refused_before_it_is_loaded(tiny_model, monkeypatch, full, copies, each):
    settings = {"dtype": torch.bfloat16, "rank": "lora_dim", "full": full, "copies": copies}
    base_model.check_memory(str(tiny_model), **settings)  # no GPU here
    weights = sum(
        weight.numel() for weight in base_model.load_causal_lm(str(tiny_model), dtype=torch.float32).parameters()
    )
    monkeypatch.setattr(base_model, "gpu_memory", lambda: each * weights)
    base_model.check_memory(str(tiny_model), **settings)
    monkeypatch.setattr(base_model, "gpu_memory", lambda: each * weights - 1)
    with pytest.raises(
        ModelError, match=f"does not fit: training it with lora_dim {0 if full else 'above 0'} takes more"
    ) as caught:
        base_model.check_memory(str(tiny_model), **settings)
    assert ("a lora_dim above 0, or" in str(caught.value)) == full


@pytest.mark.parametrize(("full", "copies", "each"), [(False, 0, 2), (True, 0, 16), (True, 1, 20)])
def test_of_several_gpus_each_needs_room_for_its_part_of_the_layers(tiny_model, monkeypatch, full, copies, each):
    settings = {"dtype": torch.bfloat16, "rank": "lora_dim", "full": full, "copies": copies}
    network = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    layers = [sum(weight.numel() for weight in layer.parameters()) for layer in network.model.layers]
    rest = sum(weight.numel() for weight in network.parameters()) - sum(layers)
    needed = each * (rest + sum(layers) // 2) + 2 * 2 * max(layers)  # two of them at work, in bfloat16
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(environment, "SHARD", "1")
    monkeypatch.setattr(base_model, "gpu_memory", lambda: needed)
    base_model.check_memory(str(tiny_model), **settings)
    monkeypatch.setattr(base_model, "gpu_memory", lambda: needed - 1)
    with pytest.raises(ModelError, match=r"does not fit: .*Use more GPUs, GPUs with more memory, "):
        base_model.check_memory(str(tiny_model), **settings)


@pytest.mark.parametrize(
    ("processes", "memory", "shard", "too_large"),
    [
        (1, 1, "1", False),
        (2, None, "", False),
        (2, None, "1", True),
        (2, 10**12, "", False),
        (2, 10**4, "", True),
    ],
)
def test_a_model_is_sharded_where_it_leaves_a_gpu_too_little(
    tiny_model, monkeypatch, processes, memory, shard, too_large
):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setattr(environment, "SHARD", shard)
    monkeypatch.setattr(base_model, "gpu_memory", lambda: memory)
    assert base_model.is_too_large(str(tiny_model), torch.bfloat16) is too_large


def test_what_stands_beside_each_weight_counts(tiny_model, monkeypatch):
    network = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    weights = sum(weight.numel() for weight in network.parameters())
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(base_model, "gpu_memory", lambda: 20 * weights)
    assert not base_model.is_too_large(str(tiny_model), torch.float32)
    assert not base_model.is_too_large(str(tiny_model), torch.float32, beside=8)
    assert base_model.is_too_large(str(tiny_model), torch.float32, beside=LEARNING)


def test_what_is_no_model_is_left_to_loading(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(base_model, "gpu_memory", lambda: 10**4)
    assert not base_model.is_too_large(str(tmp_path), torch.bfloat16)
