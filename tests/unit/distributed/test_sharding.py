import pytest
import torch
from process_phases import Config, change, hold
from transformers import AutoModelForCausalLM

from rlhf_tuning import environment
from rlhf_tuning.distributed import processes, sharding
from rlhf_tuning.models import base_model


def test_alone_a_model_is_whole_whatever_is_asked_for(tiny_model, monkeypatch):
    monkeypatch.setattr(environment, "SHARD", "1")
    network = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32, shard=True)
    assert not any(sharding.is_sharded(weight) for weight in network.parameters())
    with sharding.in_step(network):
        pass


@pytest.fixture
def two(monkeypatch):
    """Two processes share every model."""
    monkeypatch.setattr(environment, "PROCESSES", "2")
    monkeypatch.setenv("RLHF_SHARD", "1")


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_each_process_holds_its_part_and_passes_as_often_as_it_needs(tiny_model, two, compute):
    network = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    divided = [
        weight.numel()
        for layer in network.model.layers
        for weight in layer.parameters()
        if compute == "float32" or weight.ndim > 1
    ]
    rest = sum(weight.numel() for weight in network.parameters()) - sum(divided)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=compute == "bfloat16"):
        losses = [network(input_ids=ids + row, labels=ids + row).loss.item() for row in range(3)]
    first, second = processes.run(hold, Config(), trains=False, model=str(tiny_model), compute=compute)
    assert first[0] + second[0] == sum(divided)
    assert abs(first[0] - second[0]) < 0.1 * sum(divided)
    assert first[1] == second[1] == rest
    assert first[2] == pytest.approx(losses, abs=1e-5)
    assert second[2] == pytest.approx(losses[:1], abs=1e-5)


@pytest.mark.slow
def test_a_divided_model_is_changed_in_parts_and_saved_whole(tiny_model, tmp_path, two):
    processes.run(change, Config(), trains=False, model=str(tiny_model), saved=str(tmp_path))
    before = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], 2 * before[name]) for name in before)
    assert (tmp_path / "config.json").read_text() == (tiny_model / "config.json").read_text()
