import math
from collections import Counter

import pytest
import torch

from rlhf_tuning.distributed import memory
from rlhf_tuning.errors import ModelError
from rlhf_tuning.models import architecture, base_model
from rlhf_tuning.planning.forecast import activation_bytes
from rlhf_tuning.training.trainer_settings import Passes, continue_adapter, passes, step_order


@pytest.fixture(scope="module")
def model(tiny_model):
    return base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)


@pytest.fixture
def decide(model, monkeypatch):
    """Return what is decided for rows of 100 tokens, by the bytes that are free."""

    def decided(free, **settings):
        monkeypatch.setattr(memory, "free", lambda: free)
        given = {"share": 64, "most": 4, "tokens": 100, "full": False, "compute": torch.float32} | settings
        return passes(model, **given)

    return decided


@pytest.fixture
def row(model):
    """Return the bytes of a row's activations, kept or not."""
    shape = architecture.from_config(model.config, name="tiny")
    return [
        activation_bytes(shape, 1, 100, c=4, lora=True, cpu=False, checkpointing=checkpointing)
        for checkpointing in (False, True)
    ]


def test_without_a_gpu_a_pass_holds_what_was_asked_for(decide):
    assert decide(math.inf) == Passes(rows=4, checkpointing=False)
    assert decide(math.inf, share=6) == Passes(rows=3, checkpointing=False)


def test_a_gpu_with_room_takes_as_many_rows_as_keep_it_busy(decide):
    assert decide(1e12) == Passes(rows=64, checkpointing=False)
    assert decide(1e12, tokens=1000) == Passes(rows=16, checkpointing=False)
    assert decide(1e15, tokens=10**6) == Passes(rows=4, checkpointing=False)


def test_a_gpu_with_less_room_takes_fewer_rows_and_only_one_with_none_computes_layers_twice(decide, row):
    kept, least = row
    assert decide(9 * kept / 0.7) == Passes(rows=8, checkpointing=False)
    assert decide(1.1 * kept / 0.7) == Passes(rows=1, checkpointing=False)
    assert decide(0.9 * kept / 0.7).checkpointing
    assert decide(0.9 * least / 0.7) == Passes(rows=1, checkpointing=True)


def test_what_is_held_beside_the_model_is_taken_off(decide, model, row):
    learning = 12 * model.num_parameters()
    assert decide(18 * row[0] / 0.7, beside=9 * row[0] / 0.7) == Passes(rows=8, checkpointing=False)
    assert decide(learning / 2, full=True) == Passes(rows=1, checkpointing=True)


def test_where_memory_has_run_out_half_as_many_rows_go_through_and_layers_are_computed_twice(decide):
    with memory.halved():
        assert decide(1e12) == Passes(rows=32, checkpointing=True)
        assert decide(math.inf) == Passes(rows=2, checkpointing=False)
        assert decide(math.inf, most=1) == Passes(rows=1, checkpointing=False)


def test_the_second_attempt_takes_half_of_the_first_ones_rows_though_more_would_fit_with_layers_computed_twice(
    decide, row
):
    kept, least = row
    room = 13 * kept
    assert room / least > 16
    assert decide(room / 0.7) == Passes(rows=8, checkpointing=False)
    with memory.halved():
        assert decide(room / 0.7) == Passes(rows=4, checkpointing=True)


def test_every_row_is_taken_equally_often_and_a_step_holds_the_long_ones_first():
    lengths = [5, 9, 2, 7, 7, 1, 3, 8, 4, 6]
    order = step_order(lengths, steps=6, batch_size=5, seed=0)
    assert Counter(order) == dict.fromkeys(range(10), 3)
    for start in range(0, 30, 5):
        step = [lengths[row] for row in order[start : start + 5]]
        assert step == sorted(step, reverse=True)
    assert step_order(lengths, steps=6, batch_size=5, seed=1) != order


def test_an_adapter_that_does_not_fit_the_base_is_refused(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    config = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear")
    policy = get_peft_model(base_model.load_causal_lm(str(tiny_model), dtype=torch.float32), config)
    policy.save_pretrained(tmp_path)
    continue_adapter(policy, str(tmp_path))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file({**weights, min(weights): torch.zeros(8, 5)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="does not fit the base model"):
        continue_adapter(policy, str(tmp_path))
