from functools import cache

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

from rlhf_tuning.models import base_model
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.training import on_policy
from rlhf_tuning.training.algorithms import ALGORITHMS, load_algorithm
from rlhf_tuning.training.trainer_settings import one_device, shared_settings

#: Prompts of unequal length, and three answers of unequal length to each.
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14, 15, 16], [17, 18, 19, 20]]
ANSWERS = [[[30 + (7 * p + 3 * a + t) % 200 for t in range(1 + (p + 2 * a) % 6)] for a in range(3)] for p in range(4)]


class Gradients(TrainerCallback):
    """Keeps the gradients of the first step."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def ours_of(kind):
    return on_policy.on_policy(kind, compute=torch.float32)


def reward(completion_ids, **columns):
    return [float(sum(ids) % 7) for ids in completion_ids]


def one_step(wrap, name, tiny_model, folder, *, lora, kl_coeff):
    """Take one step on the same rollouts, and return its gradients and metrics."""
    torch.manual_seed(0)
    algorithm = load_algorithm(name)
    settings = shared_settings(output_dir=str(folder), steps=1, learning_rate=1e-4, seed=0, compute=torch.float32)
    arguments = algorithm.build_arguments(
        kl_coeff=kl_coeff,
        **settings | {"max_grad_norm": 0.0, "shuffle_dataset": False},
        per_device_train_batch_size=6,
        gradient_accumulation_steps=2,
        steps_per_generation=2,
        num_generations=3,
        max_completion_length=8,
        temperature=0.7,
    )
    gradients = Gradients()
    trainer_class = wrap(algorithm.trainer_class())

    class GivenAnswers(trainer_class):
        def _tokenize_prompts(self, prompts):
            return prompts, None, {}

        def _generate_single_turn(self, prompt_ids, *rest):
            answers = [ANSWERS[PROMPTS.index(prompt)][row % 3] for row, prompt in enumerate(prompt_ids)]
            return answers if name == "rloo" else (answers, None)

    trainer = GivenAnswers(
        model=base_model.load_causal_lm(str(tiny_model), dtype=torch.float32),
        args=one_device(arguments),
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=load_tokenizer(str(tiny_model)),
        callbacks=[gradients],
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear") if lora else None,
    )
    # A policy that has moved away from the reference.
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(trainer.model.named_parameters()):
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    trainer.train()
    return gradients.found, trainer.state.log_history[0]


@pytest.fixture(scope="module")
def trl_step(tiny_model, tmp_path_factory):
    """The gradients and metrics of TRL's own trainers, computed once for each of their settings."""

    @cache
    def step(name, lora=True, kl_coeff=0.3):
        return one_step(
            lambda kind: kind, name, tiny_model, tmp_path_factory.mktemp("trl"), lora=lora, kl_coeff=kl_coeff
        )

    return step


@pytest.mark.parametrize("kl_coeff", [0.0, 0.3])
@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gradient_and_the_metrics_are_those_of_trl(name, lora, kl_coeff, tiny_model, tmp_path, trl_step):
    stock, stock_log = trl_step(name, lora, kl_coeff)
    ours, log = one_step(ours_of, name, tiny_model, tmp_path, lora=lora, kl_coeff=kl_coeff)
    assert set(ours) == set(stock)
    largest = max(float(gradient.abs().max()) for gradient in stock.values())
    assert largest > 0.01
    for parameter, gradient in stock.items():
        assert torch.allclose(ours[parameter], gradient, rtol=1e-4, atol=1e-5 * largest), parameter
    for metric in ("reward", "reward_std", "entropy", "kl", "completions/mean_length", "completions/clipped_ratio"):
        assert (metric in log) == (metric in stock_log)
        if metric in log:
            assert log[metric] == pytest.approx(stock_log[metric], rel=1e-4, abs=1e-6), metric


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gradient_is_the_same_in_two_lanes(name, tiny_model, tmp_path, two_lanes, trl_step):
    stock, stock_log = trl_step(name)
    assert not two_lanes
    ours, log = one_step(ours_of, name, tiny_model, tmp_path, lora=True, kl_coeff=0.3)
    # Of each of two batches forwards and backwards, and the reference, each in two lanes; and whether sampling works.
    assert len(two_lanes) == 14
    assert len(set(two_lanes)) == 2
    assert log["entropy"] == pytest.approx(stock_log["entropy"], rel=1e-4)
    largest = max(float(gradient.abs().max()) for gradient in stock.values())
    for parameter, gradient in stock.items():
        assert torch.allclose(ours[parameter], gradient, rtol=1e-4, atol=1e-5 * largest), parameter


def test_a_model_whose_answers_cannot_share_a_prompt_is_trained_as_trl_does(
    tiny_model, tmp_path, monkeypatch, capsys, trl_step
):
    stock, _ = trl_step("rloo")
    monkeypatch.setattr(on_policy.log_probabilities, "packing_works", lambda *args, **settings: False)
    monkeypatch.setattr(on_policy.log_probabilities, "pack", None)
    ours, _ = one_step(ours_of, "rloo", tiny_model, tmp_path, lora=True, kl_coeff=0.3)
    assert "each is computed with a prompt of its own" in capsys.readouterr().out
    for parameter, gradient in stock.items():
        assert torch.allclose(ours[parameter], gradient, rtol=1e-4, atol=1e-6)
