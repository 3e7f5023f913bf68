"""What is learnt in a few steps, against TRL's own SFTTrainer."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from rlhf_tuning.ops import packing
from rlhf_tuning.training.answer_trainer import AnswerTrainer

#: Prompts and answers of unlike lengths.
EXAMPLES = [
    ([5, 6, 7, 8, 9], [30, 31, 2]),
    ([20], [2]),
    ([40, 41, 42], [50, 51, 52, 53, 54, 55, 2]),
    ([5, 6], [60, 61]),
    ([70, 71, 72, 73], [80, 2]),
    ([90, 91], [92, 93, 94, 2]),
]
ROWS = [{"input_ids": [*prompt, *answer], "labels": [-100] * len(prompt) + answer} for prompt, answer in EXAMPLES]
#: Of two steps of four examples.
ORDER = [2, 0, 5, 1, 4, 3, 2, 0]


class StockTrainer(SFTTrainer):
    def __init__(self, *, order, **settings):
        super().__init__(**settings)
        self.order = order

    def _get_train_sampler(self, train_dataset=None):
        return self.order


def learn(kind, model, folder, *, lora, at_once):
    """Return the losses of two steps, and how far each weight moved."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = "<|endoftext|>"
    trainer = kind(
        order=ORDER,
        model=base,
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=2,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=4 // at_once,
            learning_rate=1e-2,
            optim="sgd",
            max_grad_norm=0.0,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            activation_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
        if lora
        else None,
    )
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    logs = [record for record in trainer.state.log_history if "loss" in record]
    moved = {name: weight.detach() - before[name] for name, weight in trainer.model.named_parameters()}
    return logs, moved


@pytest.mark.parametrize(("lora", "at_once"), [(True, 4), (True, 2), (False, 2)])
def test_losses_and_gradients_are_those_of_trl(tiny_model, tmp_path, lora, at_once):
    theirs, their_moves = learn(StockTrainer, tiny_model, tmp_path, lora=lora, at_once=4)
    ours, moves = learn(AnswerTrainer, tiny_model, tmp_path, lora=lora, at_once=at_once)
    for mine, stock in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(stock["loss"], rel=1e-5)
    assert any(move.abs().max() > 1e-3 for move in their_moves.values())
    for name, move in their_moves.items():
        torch.testing.assert_close(moves[name], move, atol=1e-6, rtol=1e-4)


def test_two_lanes_change_neither(tiny_model, tmp_path, two_lanes):
    theirs, their_moves = learn(StockTrainer, tiny_model, tmp_path, lora=True, at_once=4)
    ours, moves = learn(AnswerTrainer, tiny_model, tmp_path, lora=True, at_once=4)
    assert len(two_lanes) == 8  # two shares of each step, forwards and backwards
    assert [log["loss"] for log in ours] == pytest.approx([log["loss"] for log in theirs], rel=1e-5)
    for name, move in their_moves.items():
        torch.testing.assert_close(moves[name], move, atol=1e-6, rtol=1e-4)


def test_a_model_whose_examples_cannot_share_a_row_learns_the_same(tiny_model, tmp_path, monkeypatch, capsys):
    theirs, _ = learn(StockTrainer, tiny_model, tmp_path, lora=True, at_once=4)
    monkeypatch.setattr(packing, "is_exact", lambda *_, **__: False)
    ours, _ = learn(AnswerTrainer, tiny_model, tmp_path, lora=True, at_once=4)
    assert [log["loss"] for log in ours] == pytest.approx([log["loss"] for log in theirs], rel=1e-5)
    assert "examples cannot share a row" in capsys.readouterr().out
