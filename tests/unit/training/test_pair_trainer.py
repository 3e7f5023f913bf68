"""The packed trainer's loss and gradient against those of TRL's own, and with feedback against a plain formula."""

from functools import partial

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from rlhf_tuning.models import base_model
from rlhf_tuning.training import pair_trainer
from rlhf_tuning.training.cumulative_link import Levels
from rlhf_tuning.training.pair_trainer import JudgementTrainer, PairTrainer

ROWS = [
    {"chosen_ids": [5, 6, 7, 8, 9, 2], "rejected_ids": [5, 6, 7, 11, 2], "margin": 0.5},
    {"chosen_ids": [20, 21, 2], "rejected_ids": [20, 21, 22, 23, 24, 25, 2], "margin": 0.0},
    {"chosen_ids": [30, 31, 32, 33, 2], "rejected_ids": [40, 2], "margin": 1.0},
]


#: A pair, and what was thought of single answers.
JUDGED = [
    {"label": True},
    ROWS[0],
    {"rating": 2.0},
    {"label": False},
    {"rating": 5.0},
    {"rating": 3.0},
]
LEVELS = Levels(JUDGED)
MIXED = [
    {
        "chosen_ids": row.get("chosen_ids", [50 + place, 51, 52 + place, 2][place % 3 :]),
        "rejected_ids": row.get("rejected_ids", []),
        "margin": row.get("margin", 0.0),
        "below": LEVELS.cuts_of(row)[0],
        "above": LEVELS.cuts_of(row)[1],
    }
    for place, row in enumerate(JUDGED)
]


def trainer_of(kind, collator, tiny_model, folder, *, lora, rows=ROWS):
    torch.manual_seed(0)
    stock = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    model = stock if kind is RewardTrainer else base_model.load_scoring_model(str(tiny_model), dtype=torch.float32)
    model.load_state_dict(stock.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = "<|endoftext|>"
    return kind(
        model=model,
        args=RewardConfig(
            output_dir=str(folder), bf16=False, use_cpu=True, report_to="none", activation_checkpointing=False
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=collator,
        peft_config=LoraConfig(
            task_type="SEQ_CLS", r=4, target_modules="all-linear", modules_to_save=["score"], init_lora_weights=False
        )
        if lora
        else None,
    )


def loss_and_gradients(kind, collator, tiny_model, folder, *, lora):
    trainer = trainer_of(kind, collator, tiny_model, folder, lora=lora)
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


@pytest.mark.parametrize(("lora", "share"), [(True, True), (False, True), (True, False)])
def test_with_feedback_the_loss_is_the_mean_of_all_rows_by_plain_formulas(tiny_model, tmp_path, lora, share):
    collate = partial(pair_trainer.collate_judgements, share=share)
    kind = partial(JudgementTrainer, cuts=LEVELS.cuts())
    trainer = trainer_of(kind, collate, tiny_model, tmp_path, lora=lora, rows=MIXED)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(MIXED))
    loss.backward()
    plain = trainer_of(RewardTrainer, None, tiny_model, tmp_path, lora=lora).model

    def score(ids):
        return plain(input_ids=torch.tensor([ids])).logits[0, 0]

    cuts = LEVELS.cuts()
    found = []
    for row, judged in zip(MIXED, JUDGED, strict=True):
        first = score(row["chosen_ids"])
        below, above = (cuts()[row[name]] for name in ("below", "above"))
        if row["rejected_ids"]:
            found.append(-torch.sigmoid(first - score(row["rejected_ids"]) - row["margin"]).log())
        elif "label" in judged:
            found.append(binary_cross_entropy_with_logits(first - cuts()[2], torch.tensor(float(judged["label"]))))
        else:
            found.append(-(torch.sigmoid(above - first) - torch.sigmoid(below - first)).log())
    expected = torch.stack(found).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    gradients = {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}
    theirs = {name: weight.grad for name, weight in plain.named_parameters() if weight.grad is not None}
    assert gradients.keys() == {*theirs, "cuts.values"}
    assert any(gradient.abs().max() > 1e-3 for gradient in theirs.values())
    for name, gradient in (theirs | {"cuts.values": cuts.values.grad}).items():
        torch.testing.assert_close(gradients[name], gradient, atol=2e-6, rtol=1e-3)


def test_cuts_are_learnt_as_fast_as_scores(tiny_model, tmp_path):
    collate = partial(pair_trainer.collate_judgements, share=True)
    kind = partial(JudgementTrainer, cuts=LEVELS.cuts())
    trainer = trainer_of(kind, collate, tiny_model, tmp_path, lora=True, rows=MIXED)
    groups = trainer.create_optimizer().param_groups
    assert groups[-1]["params"] == [trainer.model.cuts.values]
    assert groups[-1]["lr"] == groups[0]["lr"] * trainer.model.config.hidden_size
    assert trainer.model.cuts.values.requires_grad
