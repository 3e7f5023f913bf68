import platform

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.generation import rollout
from rlhf_tuning.models import base_model

PROMPTS = [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
TRIED = [range(3, 30), range(40, 60)]


@pytest.fixture(scope="module")
def policy(tiny_model):
    """A model with an adapter that matters."""
    torch.manual_seed(0)
    base = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    tuned = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return tuned


def sample(model, prompts=PROMPTS, temperature=1.0, ends=(), seed=0, most_tokens=12):
    torch.manual_seed(seed)
    with rollout.prepared(model, torch.float32):
        return rollout.sample(model, prompts, most_tokens=most_tokens, temperature=temperature, ends=ends)


def test_the_likeliest_answers_are_those_of_generate(policy):
    config = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=[], pad_token_id=0)
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        output = policy.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        expected.append(output[0, len(prompt) :].tolist())
    assert sample(policy.get_base_model(), temperature=0.0) == expected
    with policy.disable_adapter():
        assert sample(policy.get_base_model(), temperature=0.0) != expected


@pytest.mark.parametrize("most", [5, 2], ids=["padded", "of one length"])
def test_what_all_prompts_begin_with_is_computed_once_and_changes_no_answer(policy, monkeypatch, most):
    prompts = [[*range(30, 40), *prompt[:most]] for prompt in (*PROMPTS, [15, 16, 17, 18], [19, 20])]
    model = policy.get_base_model()
    shapes = []
    hook = model.base_model.register_forward_pre_hook(
        lambda module, given, named: shapes.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    found = sample(model, prompts)
    hook.remove()
    assert shapes[:2] == [(1, 10), (5, most)]
    monkeypatch.setattr(rollout, "_FEWEST_SHARED", 100)
    assert sample(model, prompts) == found


def test_two_lanes_sample_the_same_answers(policy, two_lanes):
    model = policy.get_base_model()
    found = sample(model)
    assert len(two_lanes) == 4  # the copies of the weights, and the answers
    torch.set_num_threads(1)
    assert sample(model) == found
    assert len(two_lanes) == 4


def test_a_model_is_tried_once(policy, monkeypatch):
    tried = []
    monkeypatch.setattr(rollout, "works", lambda model, *_: tried.append(model) or True)
    for _ in range(2):
        assert rollout.chosen_engine("auto", policy.get_base_model(), torch.float32, [[3]], longest=60) == "lean"
    assert len(tried) == 1


def test_a_model_is_left_as_it_was(policy):
    model = policy.get_base_model().train()
    ids = torch.tensor([PROMPTS[0]])
    before = (model(ids).logits, model.config._attn_implementation)
    with rollout.prepared(model, torch.float32):
        assert model.config._attn_implementation != before[1]
        assert not model.training
        # One product for each linear layer, its adapter in it.
        called = []
        for module in model.modules():
            if type(module) is torch.nn.Linear and module is not model.lm_head:
                module.register_forward_pre_hook(lambda module, given: called.append(module))
        model(ids[:, :1], past_key_values=None, use_cache=False)
        assert not called
    assert model.training
    assert model.config._attn_implementation == before[1]
    assert torch.equal(model(ids).logits, before[0])
    assert not any("forward" in vars(module) for name, module in model.named_modules() if name)


def test_an_answer_ends_with_its_first_end_and_does_not_depend_on_when_others_end(policy):
    model = policy.get_base_model()
    prompts = [[5 + row, 6, 7] for row in range(10)]
    whole = sample(model, prompts)
    ends = sorted({answer[4] for answer in whole[:3]})
    for answer, longer in zip(sample(model, prompts, ends=ends), whole, strict=True):
        cut = next((place + 1 for place, token in enumerate(longer) if token in ends), len(longer))
        assert answer == longer[:cut]
    assert {len(answer) for answer in whole} == {12}


@pytest.mark.parametrize("before", [0, 3, 1000])
def test_tokens_are_drawn_as_often_as_the_model_says(before):
    torch.manual_seed(0)
    some = torch.tensor([1.0, 0.0, -1.0, -torch.inf, 2.0])
    logits = torch.cat([torch.full((before,), -torch.inf), some, torch.full((before,), -torch.inf)])
    drawn = rollout.choose(logits.expand(40_000, -1), 0.7, torch.rand(40_000)) - before
    expected = torch.softmax(some / 0.7, dim=0)
    assert torch.allclose(torch.bincount(drawn, minlength=5) / 40_000, expected, atol=0.01)
    edges = rollout.choose(logits.expand(2, -1), 0.7, torch.tensor([0.0, 1.0 - 2**-24])) - before
    assert edges.tolist() == [0, 4]


def test_every_entry_of_a_large_vocabulary_can_be_drawn():
    logits = torch.zeros(1, 1000).expand(1000, -1)
    drawn = rollout.choose(logits, 1.0, (torch.arange(1000) + 0.5) / 1000)
    assert drawn.tolist() == list(range(1000))


def test_answers_come_in_the_order_of_the_prompts_however_many_are_decoded_together(policy, monkeypatch):
    model = policy.get_base_model()
    together = sample(model, temperature=0.0)
    monkeypatch.setitem(rollout.ROWS_TOGETHER, "cpu", 3)
    assert sample(model, temperature=0.0) == together


def test_prompts_that_are_computed_in_pieces_have_the_same_answers(policy, monkeypatch):
    model = policy.get_base_model()
    together = sample(model)
    monkeypatch.setattr(rollout, "_PREFILL_TOKENS", 10)
    passes = []
    monkeypatch.setattr(
        rollout._Decoder,
        "_forward",
        lambda self, ids, *rest, plain=rollout._Decoder._forward: passes.append(ids.shape) or plain(self, ids, *rest),
    )
    assert sample(model) == together
    assert passes[:3] == [(2, 5), (1, 5), (4, 1)]


def test_as_many_answers_are_decoded_together_as_the_gpu_has_memory_for(policy, monkeypatch):
    model = policy.get_base_model()
    settings = model.config
    kept = 2 * settings.num_hidden_layers * settings.num_key_value_heads * settings.head_dim * 4  # bytes of a token
    whole = sample(model)
    monkeypatch.setattr(rollout.memory, "free", lambda: 1.3 * (2 * 17 * kept + 2 * 24 * settings.vocab_size))
    sizes = []
    sample_some = rollout._sample
    monkeypatch.setattr(
        rollout, "_sample", lambda model, some, *rest: sizes.append(len(some)) or sample_some(model, some, *rest)
    )
    assert sample(model) == whole
    assert sizes == [2, 2]


SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}
MLP = {"intermediate_size": 64, "num_key_value_heads": 2}
MODELS = {
    "qwen2": (lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, **MLP)), "lean"),
    "gpt-neox": (lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=64)), "lean"),
    "gemma-2": (lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, **MLP, head_dim=8, sliding_window=100)), "lean"),
    # Its attention is not transformers' interchangeable one.
    "bloom": (
        lambda: BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)),
        "transformers",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_engine_is_chosen_by_comparing_numbers(name):
    torch.manual_seed(0)
    make, expected = MODELS[name]
    model = make().eval()
    assert rollout.chosen_engine("auto", model, torch.float32, TRIED, longest=60) == expected


def test_the_engine_can_be_forced(policy):
    model = policy.get_base_model()
    for engine in ("lean", "transformers"):
        assert rollout.chosen_engine(engine, model, torch.float32, TRIED, longest=60) == engine
    with pytest.raises(ParameterError, match="rollout_engine is 'lean'"):
        rollout.chosen_engine("lean", MODELS["bloom"][0](), torch.float32, TRIED, longest=60)
    gemma = Gemma2ForCausalLM(Gemma2Config(**SMALL, **MLP, head_dim=8, sliding_window=50))
    assert rollout.chosen_engine("auto", gemma, torch.float32, TRIED, longest=60) == "transformers"


DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", [platform.machine(), "arm64"])
def test_the_engine_works_in_both_precisions_on_every_processor(architecture, dtype, tiny_model, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": architecture})
    model = base_model.load_causal_lm(str(tiny_model), dtype=dtype)
    assert rollout.works(model, dtype, TRIED)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_laid_out_wrongly_are_noticed(dtype, tiny_model, monkeypatch):
    model = base_model.load_causal_lm(str(tiny_model), dtype=dtype)
    right = rollout._product

    def swapped(layer, compute):
        """Two of the outputs stand in each other's place."""
        order = torch.arange(layer.weight.shape[0])
        order[:2] = torch.tensor([1, 0])
        product = right(layer, compute)
        return lambda input, *rest: product(input)[..., order]

    def blurred(layer, compute):
        """Each is off by 1% of their spread."""
        product = right(layer, compute)
        noise = 0.01 * layer.weight.std() * torch.randn(layer.weight.shape, generator=generator)
        return lambda input, *rest: product(input) + torch.nn.functional.linear(input.to(compute), noise.to(compute))

    for wrong in (swapped, blurred):
        generator = torch.Generator().manual_seed(0)
        monkeypatch.setattr(rollout, "_product", wrong)
        assert not rollout.works(model, dtype, TRIED)
