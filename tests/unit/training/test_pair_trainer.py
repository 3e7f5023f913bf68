"""The packed trainer's loss and gradient against those of TRL's own."""

from functools import partial

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from rlhf_tuning.models import base_model
from rlhf_tuning.training import pair_trainer
from rlhf_tuning.training.pair_trainer import PairTrainer

ROWS = [
    {"chosen_ids": [5, 6, 7, 8, 9, 2], "rejected_ids": [5, 6, 7, 11, 2], "margin": 0.5},
    {"chosen_ids": [20, 21, 2], "rejected_ids": [20, 21, 22, 23, 24, 25, 2], "margin": 0.0},
    {"chosen_ids": [30, 31, 32, 33, 2], "rejected_ids": [40, 2], "margin": 1.0},
]


def loss_and_gradients(kind, collator, tiny_model, folder, *, lora):
    torch.manual_seed(0)
    stock = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    model = stock if kind is RewardTrainer else base_model.load_scoring_model(str(tiny_model), dtype=torch.float32)
    model.load_state_dict(stock.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = "<|endoftext|>"
    trainer = kind(
        model=model,
        args=RewardConfig(
            output_dir=str(folder), bf16=False, use_cpu=True, report_to="none", activation_checkpointing=False
        ),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
        data_collator=collator,
        peft_config=LoraConfig(
            task_type="SEQ_CLS", r=4, target_modules="all-linear", modules_to_save=["score"], init_lora_weights=False
        )
        if lora
        else None,
    )
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(ROWS))
    loss.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return loss, gradients, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def test_two_lanes_change_neither_loss_nor_gradients(tiny_model, tmp_path, two_lanes):
    expected, theirs, their_metrics = loss_and_gradients(RewardTrainer, None, tiny_model, tmp_path, lora=True)
    assert not two_lanes
    collate_pairs = partial(pair_trainer.collate_pairs, share=True)
    loss, gradients, metrics = loss_and_gradients(PairTrainer, collate_pairs, tiny_model, tmp_path, lora=True)
    assert len(two_lanes) == 4  # three pairs as two and one, forwards and backwards
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    for name, gradient in theirs.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4)
    assert metrics["margin"] == pytest.approx(their_metrics["margin"], abs=1e-5)


@pytest.mark.parametrize(("lora", "share"), [(True, True), (False, True), (True, False)])
def test_loss_gradients_and_metrics_are_those_of_trl(tiny_model, tmp_path, lora, share):
    collate_pairs = partial(pair_trainer.collate_pairs, share=share)
    loss, gradients, metrics = loss_and_gradients(PairTrainer, collate_pairs, tiny_model, tmp_path, lora=lora)
    expected, theirs, their_metrics = loss_and_gradients(RewardTrainer, None, tiny_model, tmp_path, lora=lora)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    assert gradients.keys() == theirs.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4)
    for name in ("accuracy", "margin", "mean_reward"):
        assert metrics[name] == pytest.approx(their_metrics[name], abs=1e-5)
