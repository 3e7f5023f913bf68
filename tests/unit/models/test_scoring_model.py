import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_architectures import make_config, make_network, save_network
from transformers import AutoModelForSequenceClassification, Qwen2ForSequenceClassification

from rlhf_tuning.errors import ModelError
from rlhf_tuning.models import base_model, reward_model, scoring_model
from rlhf_tuning.models.scoring_model import ScoreHead
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.ops import packing


def test_the_trunk_is_the_policy_s_own_and_keeps_its_weights():
    policy = make_network("Cohere")
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    scores = scoring_model.scoring_model(policy)
    assert type(scores).__name__ == "CohereForSequenceClassification"
    assert scores.base_model is policy.base_model
    for name, weight in policy.named_parameters():
        assert torch.equal(weight, before[name])
    names = {name for name, _ in scores.named_parameters()}
    assert names == {name for name in before if not name.startswith("lm_head.")} | {"score.weight"}


def test_a_saved_one_is_transformers_own_classifier_where_there_is_one(tiny_model, tmp_path):
    scores = base_model.load_scoring_model(str(tiny_model), dtype=torch.float32)
    scores.config.pad_token_id = 0
    scores.save_pretrained(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7, 8]])
    packed = packing.pack([([], ids.tolist())])
    ours = packing.last_hidden(scores.base_model, packed.input_ids, packed.position_ids, None, packed.answers)
    assert torch.allclose(theirs(ids).logits, scores.score(ours), atol=1e-5)
    again = base_model.load_scoring_model(str(tmp_path), dtype=torch.float32)
    scoring_model.load_head(again, str(tmp_path))
    assert torch.equal(again.score.weight, scores.score.weight)


def test_reward_models_saved_as_transformers_classifiers_are_loaded(tiny_model, tmp_path):
    """As they were before 0.2, with all weights learnt; without an output head, which they never had."""
    tokenizer = load_tokenizer(str(tiny_model))
    torch.manual_seed(0)
    theirs = Qwen2ForSequenceClassification(make_config("Qwen 2", vocabulary=len(tokenizer), num_labels=1)).eval()
    theirs.config.pad_token_id = 0
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text_format = TextFormat(tokenizer, prompt_sequence_length=32, target_sequence_length=8)
    reward_model.write_metadata(
        tmp_path, base="gone", reward_lora_dim=0, offset=0.5, scale=1.0, text_format=text_format
    )
    ids = [5, 6, 7, 8]
    (found,) = reward_model.load_reward_model(str(tmp_path), dtype="float32").score_ids([ids])
    assert found == pytest.approx(theirs(torch.tensor([ids])).logits.item() - 0.5, abs=1e-5)


def test_an_adapter_is_on_every_product_of_the_trunk_and_not_on_the_head():
    settings = LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear", modules_to_save=["score"])
    adapted = get_peft_model(scoring_model.scoring_model(make_network("Granite")), settings)
    names = {name.rsplit(".", 1)[-1] for name in adapted.peft_config["default"].target_modules}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_a_head_starts_small_and_works_in_float32():
    torch.manual_seed(0)
    head = ScoreHead(400)
    assert head.weight.std().item() == pytest.approx(1 / 401**0.5, rel=0.2)
    hidden = torch.randn(3, 400).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(hidden)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.nn.functional.linear(hidden.float(), head.weight))


def test_a_folder_without_a_head_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"score\.weight is missing"):
        scoring_model.load_head(None, str(tmp_path))


def test_a_model_without_fused_attention_is_loaded_with_its_own(tiny_model, tmp_path):
    from transformers import AutoTokenizer

    folder = str(save_network("Gemma 2", tmp_path, AutoTokenizer.from_pretrained(tiny_model)))
    for dtype in (torch.float32, "auto"):
        assert base_model.load_causal_lm(folder, dtype=dtype).config._attn_implementation == "eager"
    assert base_model.load_causal_lm(str(tiny_model), dtype=torch.float32).config._attn_implementation == "sdpa"
