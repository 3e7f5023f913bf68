"""The packed trainer's loss and gradient against those of TRL's own."""

import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tests.unit.training.test_preference_trainer import moved
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer

from rlhf_tuning.training import kto
from rlhf_tuning.training.kto_trainer import FeedbackTrainer
from rlhf_tuning.training.preference import PreferenceConfig

#: Two answers to one prompt, answers of unlike lengths, and of one label fewer.
ROWS = [
    {"prompt_ids": [5, 6, 7, 8], "completion_ids": [9, 10, 2], "label": True},
    {"prompt_ids": [5, 6, 7, 8], "completion_ids": [9, 11, 12, 13, 2], "label": False},
    {"prompt_ids": [20], "completion_ids": [2], "label": False},
    {"prompt_ids": [30, 31], "completion_ids": [21, 22, 23, 24, 25, 2], "label": False},
]
WEIGHTS = {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.7}
CONFIG = PreferenceConfig(large_model_reference="x", loss_type="kto", **WEIGHTS)


class StockTrainer(KTOTrainer):
    def _prepare_dataset(self, dataset, *rest):
        return dataset


@pytest.fixture(scope="module")
def rows(tiny_model):
    """The rows with what the base model makes of them."""
    found = kto._with_others(ROWS, range(4))
    kto._ask_reference(AutoModelForCausalLM.from_pretrained(tiny_model), found, torch.float32, "of a test")
    return found


def trainer_of(kind, tiny_model, rows, folder, *, lora, together=4):
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = "<|endoftext|>"
    return kind(
        model=AutoModelForCausalLM.from_pretrained(tiny_model) if lora else moved(tiny_model),
        args=KTOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=together,
            max_length=None,
            bf16=False,
            use_cpu=True,
            report_to="none",
            activation_checkpointing=False,
            **WEIGHTS,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
        if lora
        else None,
    )


def learn(trainer, rows, together=4):
    """Return loss, gradients and metrics of a step."""
    trainer.model.train()
    passes = [trainer.data_collator(rows[start : start + together]) for start in range(0, len(rows), together)]
    passes, _ = trainer.get_batch_samples(iter(passes), len(passes), torch.device("cpu"))
    losses = [trainer.compute_loss(trainer.model, each) / len(passes) for each in passes]
    sum(losses).backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return sum(losses).detach(), gradients, copy.deepcopy(trainer._metrics["train"])


@pytest.fixture(scope="module", params=[True, False], ids=["lora", "all-weights"])
def expected(request, tiny_model, rows, tmp_path_factory):
    """What TRL's own trainer learns, whose pass is the step."""
    # It asks the reference itself.
    bare = [{name: row[name] for name in row if not name.startswith("ref_")} for row in rows]
    trainer = trainer_of(StockTrainer, tiny_model, bare, tmp_path_factory.mktemp("stock"), lora=request.param)
    return request.param, learn(trainer, bare)


def compare(found, expected):
    loss, gradients, _ = found
    their_loss, theirs, _ = expected
    torch.testing.assert_close(loss, their_loss, atol=1e-6, rtol=1e-5)
    assert gradients.keys() == theirs.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(gradients[name], gradient, atol=2e-6, rtol=1e-4)


def test_loss_and_gradient_are_those_of_trl(tiny_model, rows, tmp_path, expected):
    lora, theirs = expected
    trainer = trainer_of(FeedbackTrainer, tiny_model, rows, tmp_path, lora=lora)
    found = learn(trainer, rows)
    compare(found, theirs)
    assert theirs[2]["kl"][0] > 0.01  # so that it counts
    for name in ("kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "entropy"):
        assert found[2][name] == pytest.approx(theirs[2][name], abs=1e-4), name
    # And so is what is measured answer by answer.
    measured = kto.of_feedback(trainer.model, rows, config=CONFIG, compute=torch.float32)
    assert measured["loss"].mean == pytest.approx(theirs[0].item(), rel=1e-4)
    assert measured["reference_point"].mean == pytest.approx(theirs[2]["kl"][0], abs=1e-4)
    assert measured["margin"].mean == pytest.approx(theirs[2]["rewards/margins"][0], abs=1e-4)
    assert measured["desirable_change"].mean == pytest.approx(theirs[2]["rewards/chosen"][0] / 0.3, abs=1e-4)


@pytest.mark.parametrize("expected", [True], indirect=True, ids=["lora"])
@pytest.mark.parametrize("together", [1, 2])
def test_how_many_go_through_at_once_changes_nothing(tiny_model, rows, tmp_path, expected, together):
    trainer = trainer_of(FeedbackTrainer, tiny_model, rows, tmp_path, lora=True, together=together)
    assert trainer._train_batch_size == together
    compare(learn(trainer, rows, together), expected[1])


@pytest.mark.parametrize("expected", [True], indirect=True, ids=["lora"])
def test_two_lanes_and_examples_apart_change_nothing(tiny_model, rows, tmp_path, expected, two_lanes):
    trainer = trainer_of(FeedbackTrainer, tiny_model, rows, tmp_path, lora=True)
    assert trainer._packs
    for packs in (True, False):
        trainer._packs = packs
        trainer.model.zero_grad()
        compare(learn(trainer, rows), expected[1])
    assert len(two_lanes) == 12  # two shares: for the reference point, forwards and backwards, each time
