"""The packed trainer's losses and gradients against those of TRL's own."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn.functional import relu, softplus
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from rlhf_tuning.training.held_out_preferences import of_pairs
from rlhf_tuning.training.preference_loss import LOSSES
from rlhf_tuning.training.preference_trainer import PreferenceTrainer

#: Two pairs with one prompt, and answers of unlike lengths, some of which begin alike.
ROWS = [
    {"prompt_ids": [5, 6, 7, 8], "chosen_ids": [9, 10, 2], "rejected_ids": [9, 11, 12, 13, 2], "margin": 0.0},
    {"prompt_ids": [5, 6, 7, 8], "chosen_ids": [14, 2], "rejected_ids": [15, 16], "margin": 0.0},
    {"prompt_ids": [20], "chosen_ids": [2], "rejected_ids": [21, 22, 23, 24, 25, 2], "margin": 0.0},
]
SETTINGS = {"beta": 0.3, "label_smoothing": 0.1}


class StockTrainer(DPOTrainer):
    def __init__(self, *, order=None, share=None, **settings):
        super().__init__(**settings)

    def _prepare_dataset(self, dataset, *rest):
        return dataset


def moved(tiny_model):
    """Return a model that is no longer the reference."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def known(tiny_model):
    """The rows with what the base model makes of them, one answer after the other."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        return [
            row
            | {
                f"ref_{name}_logps": log_probability(model, row["prompt_ids"], row[f"{name}_ids"]).item()
                for name in ("chosen", "rejected")
            }
            for row in ROWS
        ]


def log_probability(model, prompt, answer):
    logs = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
    return sum(logs[len(prompt) + place - 1, token] for place, token in enumerate(answer))


def trainer_of(kind, tiny_model, rows, folder, *, lora, loss_type, rpo_alpha=0.0, share=True):
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = "<|endoftext|>"
    return kind(
        order=list(range(len(rows))),
        share=share,
        model=AutoModelForCausalLM.from_pretrained(tiny_model) if lora else moved(tiny_model),
        args=DPOConfig(
            output_dir=str(folder),
            loss_type=[loss_type, "sft"] if rpo_alpha else [loss_type],
            loss_weights=[1.0, rpo_alpha] if rpo_alpha else [1.0],
            max_length=None,
            bf16=False,
            use_cpu=True,
            report_to="none",
            activation_checkpointing=False,
            **SETTINGS,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
        if lora
        else None,
    )


def learn(trainer, rows):
    """Return loss, gradients and metrics of a step."""
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    loss.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def compare(found, expected):
    loss, gradients, metrics = found
    their_loss, theirs, their_metrics = expected
    torch.testing.assert_close(loss, their_loss, atol=1e-6, rtol=1e-5)
    assert gradients.keys() == theirs.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(gradients[name], gradient, atol=2e-6, rtol=1e-4)
    for name in (
        "rewards/margins",
        "rewards/accuracies",
        "rewards/chosen",
        "logps/chosen",
        "logps/rejected",
        "entropy",
    ):
        assert metrics[name] == pytest.approx(their_metrics[name], abs=1e-4), name


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "all-weights"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_losses_and_gradients_are_those_of_trl(tiny_model, known, tmp_path, loss_type, lora):
    settings = {"lora": lora, "loss_type": loss_type, "rpo_alpha": 0.7 if loss_type == "sigmoid" else 0.0}
    expected = learn(trainer_of(StockTrainer, tiny_model, ROWS, tmp_path, **settings), ROWS)
    trainer = trainer_of(PreferenceTrainer, tiny_model, known, tmp_path, **settings)
    found = learn(trainer, known)
    compare(found, expected)
    # And so is what is measured pair by pair.
    loss = SETTINGS | {"loss_type": loss_type, "rpo_alpha": settings["rpo_alpha"]}
    measured = of_pairs(trainer.model, known, share=True, compute=torch.float32, loss=loss)
    assert measured["loss"].mean == pytest.approx(expected[0].item(), rel=1e-4)
    assert measured["margin"].mean == pytest.approx(expected[2]["rewards/margins"], abs=1e-4)
    assert measured["accuracy"].mean == pytest.approx(expected[2]["rewards/accuracies"], abs=1e-6)


def test_two_lanes_and_answers_apart_change_nothing(tiny_model, known, tmp_path, two_lanes):
    expected = learn(trainer_of(StockTrainer, tiny_model, ROWS, tmp_path, lora=True, loss_type="sigmoid"), ROWS)
    assert not two_lanes
    for share in (True, False):
        trainer = trainer_of(
            PreferenceTrainer, tiny_model, known, tmp_path, lora=True, loss_type="sigmoid", share=share
        )
        compare(learn(trainer, known), expected)
    assert len(two_lanes) == 8  # two shares, forwards and backwards, each time


#: Each loss by hand, of beta times what the chosen answer has gained more, and the same by the token, less the margin.
ASKED = {
    "sigmoid": lambda gain, by_the_token, margin: softplus(margin - gain),
    "sigmoid_norm": lambda gain, by_the_token, margin: softplus(margin - by_the_token),
    "hinge": lambda gain, by_the_token, margin: relu(1 + margin - gain),
    "ipo": lambda gain, by_the_token, margin: ((by_the_token - margin - 0.5) / SETTINGS["beta"]) ** 2,
    "robust": lambda gain, by_the_token, margin: (0.9 * softplus(-gain) - 0.1 * softplus(gain)) / 0.8,
}


@pytest.mark.parametrize("loss_type", LOSSES)
def test_a_margin_asks_for_so_much_more_and_leaves_what_is_measured_as_it_is(tiny_model, known, tmp_path, loss_type):
    rows = [row | {"margin": margin} for row, margin in zip(known, (0.0, 0.5, 2.0), strict=True)]
    loss, gradients, metrics = learn(
        trainer_of(PreferenceTrainer, tiny_model, rows, tmp_path, lora=False, loss_type=loss_type), rows
    )
    model, losses, ahead = moved(tiny_model), [], []
    for row in rows:
        gains = [
            log_probability(model, row["prompt_ids"], row[f"{name}_ids"]) - row[f"ref_{name}_logps"]
            for name in ("chosen", "rejected")
        ]
        of_a_token = [gain / len(row[f"{name}_ids"]) for gain, name in zip(gains, ("chosen", "rejected"), strict=True)]
        ahead.append(SETTINGS["beta"] * (gains[0] - gains[1]))
        by_the_token = SETTINGS["beta"] * (of_a_token[0] - of_a_token[1])
        losses.append(ASKED[loss_type](ahead[-1], by_the_token, row["margin"]))
    expected = sum(losses) / 3
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), atol=1e-5, rtol=1e-4)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, atol=1e-5, rtol=1e-3)
    assert metrics["rewards/margins"] == pytest.approx((sum(ahead) / 3).item(), abs=1e-4)
    assert metrics["rewards/accuracies"] == pytest.approx(sum(gap.item() > 0 for gap in ahead) / 3)
