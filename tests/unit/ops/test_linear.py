import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_architectures import make_network

from rlhf_tuning.models import base_model
from rlhf_tuning.ops import linear

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def model_of(tiny_model, **settings):
    """A model with two adapters that matter; the same each time."""
    torch.manual_seed(0)
    base = base_model.load_causal_lm(str(tiny_model), dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, target_modules="all-linear", **settings)
    model = get_peft_model(base, config)
    model.add_adapter("other", config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def pass_both_ways(model, *, autocast=False):
    """Return the logits, and the gradient of every weight that learns."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = model(IDS).logits
    logits.float().log_softmax(-1)[..., 3].sum().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_products_and_gradients_are_those_of_peft(tiny_model):
    expected, expected_gradients = pass_both_ways(model_of(tiny_model))
    model = model_of(tiny_model)
    linear.quicken(model)
    logits, gradients = pass_both_ways(model)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5), name


def test_in_bfloat16_they_are_as_near_to_the_exact_ones_as_those_of_peft(tiny_model):
    _, exact = pass_both_ways(model_of(tiny_model))
    _, of_peft = pass_both_ways(model_of(tiny_model), autocast=True)
    model = model_of(tiny_model)
    linear.quicken(model)
    _, found = pass_both_ways(model, autocast=True)

    def error(gradients):
        return sum((gradients[name].float() - exact[name]).norm() / exact[name].norm() for name in exact) / len(exact)

    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert error(found) < 1.3 * error(of_peft)


@pytest.mark.parametrize("state", ["switched off", "another adapter", "two adapters", "merged", "dropout"])
def test_adapters_are_switched_as_before(state, tiny_model):
    def logits(quick):
        model = model_of(tiny_model, lora_dropout=0.5 if state == "dropout" else 0.0)
        if quick:
            linear.quicken(model)
        if state == "another adapter":
            model.set_adapter("other")
        elif state == "two adapters":
            model.base_model.set_adapter(["default", "other"])
        elif state == "merged":
            model.merge_adapter()
        torch.manual_seed(1)
        if state == "switched off":
            with model.disable_adapter():
                return model(IDS).logits
        return model(IDS).logits

    assert torch.allclose(logits(quick=True), logits(quick=False), atol=1e-5)


def test_leaves_adapters_out_for_a_while_as_peft_does(tiny_model):
    model = model_of(tiny_model)
    linear.quicken(model)
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    with torch.no_grad():
        tuned = model(IDS).logits
        with model.disable_adapter():
            base = model(IDS).logits
        with linear.without_adapters(model):
            assert torch.equal(model(IDS).logits, base)
            with linear.without_adapters(model):
                pass
            assert torch.equal(model(IDS).logits, base)
        assert torch.equal(model(IDS).logits, tuned)
    assert not torch.equal(base, tuned)
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == learning


def test_the_frozen_weights_keep_no_gradient_and_pass_it_on(tiny_model):
    model = model_of(tiny_model)
    linear.quicken(model)
    embeddings = model.get_input_embeddings()(IDS).detach().requires_grad_()
    with model.disable_adapter():
        model(inputs_embeds=embeddings).logits.sum().backward()
    assert embeddings.grad.abs().sum() > 0
    assert all(p.grad is None for name, p in model.named_parameters() if "lora" not in name)


def test_a_layer_with_an_adapter_counts_once(tiny_model):
    model = model_of(tiny_model)
    layers = linear.linear_layers(model)
    config = model.config
    assert len(layers) == 7 * config.num_hidden_layers + 1  # and the output head


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Llama 4", {"layers.0.feed_forward.router", "layers.1.feed_forward.router"}),
        ("Bamba", {"layers.0.mamba.out_proj"}),
        ("LFM 2", set()),
        ("Falcon", set()),
    ],
)
def test_routers_and_what_kernels_read_past_a_layer_are_left_alone(name, expected):
    assert set(linear.left_alone(make_network(name).base_model)) == expected
