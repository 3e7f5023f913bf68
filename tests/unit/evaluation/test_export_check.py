"""Exports with planted faults: every one is refused, and honest ones are not."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from rlhf_tuning.errors import RunError
from rlhf_tuning.evaluation import export_check
from rlhf_tuning.models import base_model
from rlhf_tuning.models.tokenizer import load_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
QUESTIONS = ["Describe it.", "Enjoy some fun in the sun.", "The harbour smells of salt.", "0 1 2 3"]


def load(folder):
    return base_model.load_causal_lm(str(folder), dtype="auto")


@pytest.fixture(scope="module", params=DTYPES)
def base(request, tiny_model, tmp_path_factory):
    """A base model whose weights are stored in this dtype."""
    folder = tmp_path_factory.mktemp("export") / request.param
    load(tiny_model).to(DTYPES[request.param]).save_pretrained(folder)
    load_tokenizer(str(tiny_model)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "predictions.jsonl"
    numbers = torch.Generator().manual_seed(0)
    with path.open("w") as stream:
        for question in QUESTIONS * 4:
            ids = torch.randint(3, 390, (12,), generator=numbers).tolist()
            row = {"prompt": [{"role": "user", "content": question}], "prediction": "x", "token_ids": ids}
            stream.write(json.dumps(row) + "\n")
    return path


class Trained:
    """A base model, an adapter beside it, and the export of both.

    Args:
        base: The base model's folder.
        folder: Where the adapter and the export go.
        size: Of the adapter's weights.
    """

    def __init__(self, base, folder, size=0.1):
        self.base, self.adapter, self.model = base, folder / "adapter", folder / "model"
        torch.manual_seed(0)
        policy = get_peft_model(
            load(base), LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
        )
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=size)
        policy.save_pretrained(self.adapter)

    def merged(self, onto=None, scale=1.0):
        policy = PeftModel.from_pretrained(onto or load(self.base), self.adapter)
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.data *= scale
        return policy.merge_and_unload()

    def save(self, model):
        model.save_pretrained(self.model)
        load_tokenizer(str(self.base)).save_pretrained(self.model)
        return self

    def check(self, predictions):
        return export_check.check_export(
            str(self.base),
            model_dir=str(self.model),
            adapter_dir=str(self.adapter),
            predictions_path=str(predictions),
            prompt_sequence_length=64,
            target_sequence_length=16,
        )


@pytest.mark.parametrize("size", [0.0, 0.0005, 0.01, 0.1], ids="size {}".format)
def test_an_honest_export_is_the_policy(base, tmp_path, predictions, size):
    trained = Trained(base, tmp_path, size)
    check = trained.save(trained.merged()).check(predictions)
    assert check.equal
    assert check.dtype == base.name
    assert check.tokens == 16 * 12
    if size == 0.0:
        assert (check.moved, check.share) == (0.0, None)
    if size >= 0.01:
        assert check.share == pytest.approx(1.0, abs=0.1)
    assert check.difference < {"float32": 1e-5, "bfloat16": 0.02}[base.name]


def not_merged(trained):
    return load(trained.base)


def half_the_scaling(trained):
    return trained.merged(scale=0.5)


def merged_twice(trained):
    return trained.merged(onto=trained.merged())


def two_layers_swapped(trained):
    model = trained.merged()
    first, second = model.model.layers
    first.mlp.down_proj, second.mlp.down_proj = second.mlp.down_proj, first.mlp.down_proj
    return model


@pytest.mark.parametrize("fault", [not_merged, half_the_scaling, merged_twice, two_layers_swapped])
def test_a_fault_of_the_merge_ends_the_run(base, tmp_path, predictions, fault):
    trained = Trained(base, tmp_path, size=0.007)
    trained.save(fault(trained))
    with pytest.raises(RunError, match=r"is not the policy that was trained: .* Nothing was registered\."):
        trained.check(predictions)


def test_one_layer_that_was_left_out_is_seen_in_float32(tiny_model, tmp_path, predictions):
    trained = Trained(tiny_model, tmp_path)
    model = trained.merged()
    model.model.layers[0].self_attn.o_proj = load(tiny_model).model.layers[0].self_attn.o_proj
    trained.save(model)
    with pytest.raises(RunError):
        trained.check(predictions)


def test_an_output_head_that_is_no_longer_the_embeddings_ends_the_run(base, tmp_path, predictions):
    trained = Trained(base, tmp_path)
    trained.save(trained.merged())
    path = trained.model / "config.json"
    path.write_text(path.read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
    with pytest.raises(RunError):
        trained.check(predictions)


def test_weights_under_another_name_end_the_run(base, tmp_path, predictions):
    trained = Trained(base, tmp_path)
    trained.save(trained.merged())
    path = trained.model / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key.replace(name, f"base_{name}"): value for key, value in weights.items()}, path, {"format": "pt"})
    with pytest.raises(RunError):
        trained.check(predictions)


def test_a_template_that_was_lost_ends_the_run(base, tmp_path, predictions):
    trained = Trained(base, tmp_path)
    trained.save(trained.merged())
    (trained.model / "chat_template.jinja").unlink()
    with pytest.raises(RunError):
        trained.check(predictions)


def test_weights_that_are_no_numbers_end_the_run(base, tmp_path, predictions):
    trained = Trained(base, tmp_path)
    model = trained.merged()
    model.model.norm.weight.data[0] = float("inf")
    trained.save(model)
    with pytest.raises(RunError, match="nan"):
        trained.check(predictions)


def test_nothing_is_merged_where_all_weights_learn(tmp_path, predictions, tiny_model):
    (tmp_path / "adapter").mkdir()
    check = export_check.check_export(
        str(tiny_model),
        model_dir=str(tiny_model),
        adapter_dir=str(tmp_path / "adapter"),
        predictions_path=str(predictions),
        prompt_sequence_length=64,
        target_sequence_length=16,
    )
    assert check is None
    condition = export_check.condition_of(check)
    assert condition.holds is None
    assert "all weights were trained" in condition.value


def test_a_check_is_a_condition_with_its_numbers(base, tmp_path, predictions):
    trained = Trained(base, tmp_path)
    condition = export_check.condition_of(trained.save(trained.merged()).check(predictions))
    assert condition.holds
    assert f"100% of which is in the export; saved in {base.name}, n = 192 tokens" in condition.value
    limit = {"float32": "at most 0.001 nats, and 99% to 101%", "bfloat16": "at most 0.05 nats, and 90% to 110%"}
    assert condition.limit == limit[base.name]


def test_weights_are_in_float32_only_while_a_layer_computes(base):
    model = load(base).eval()
    before = {name: (weight.data_ptr(), weight.dtype) for name, weight in model.named_parameters()}
    seen = []
    model.model.layers[1].mlp.down_proj.register_forward_hook(
        lambda module, *_: seen.append((module.weight.dtype, model.model.layers[0].mlp.down_proj.weight.dtype))
    )
    found = export_check.token_log_probabilities(model, [[5, 6], [7]], [[20, 21], [30]])
    assert set(seen) == {(torch.float32, DTYPES[base.name])}
    assert before == {name: (weight.data_ptr(), weight.dtype) for name, weight in model.named_parameters()}
    with torch.no_grad():
        logits = model.float()(torch.tensor([[5, 6, 20]])).logits[0].log_softmax(-1)
    assert found[:2].tolist() == pytest.approx([logits[1, 20].item(), logits[2, 21].item()], abs=1e-5)
    assert len(found) == 3
