"""Both algorithms maximise E[score] - kl_coeff * KL over whole answers: shown by counting every answer of a tiny task."""

import itertools
from typing import NamedTuple

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.ops import linear
from rlhf_tuning.training import on_policy
from rlhf_tuning.training.algorithms import ALGORITHMS, load_algorithm
from rlhf_tuning.training.trainer_settings import one_device, shared_settings

KL_COEFF, LENGTH, GROUP = 0.7, 2, 2
PROMPT, END = [1, 0], 2
#: Of three tokens, of which one ends: all 7 answers of at most two.
ANSWERS = [
    [*body, *end]
    for length in range(LENGTH + 1)
    for body in itertools.product([0, 1], repeat=length)
    for end in ([[END]] if length < LENGTH else [[]])
]
SCORES = torch.tensor([float((5 * index) % 7) - 3 for index in range(len(ANSWERS))])


class Task(NamedTuple):
    """A trainer of a policy that has moved, its answers as the trainer has them, and the gradient of the objective."""

    trainer: object
    samples: dict
    chances: torch.Tensor
    gradient: list


@pytest.fixture(params=ALGORITHMS)
def task(request, tiny_model, tmp_path):
    tokenizer = load_tokenizer(str(tiny_model))
    assert tokenizer.eos_token_id == END
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=3, pad_token_id=0, eos_token_id=END, initializer_range=0.3, **sizes)
    )
    shared = shared_settings(output_dir=str(tmp_path), steps=1, learning_rate=1e-4, seed=0, compute=torch.float32)
    algorithm = load_algorithm(request.param)
    arguments = algorithm.build_arguments(
        kl_coeff=KL_COEFF,
        **shared,
        per_device_train_batch_size=GROUP,
        num_generations=GROUP,
        max_completion_length=LENGTH,
    )
    shaping = on_policy.Shaping(kl_coeff=KL_COEFF)
    trainer = on_policy.on_policy(algorithm, shaping=shaping, compute=torch.float32)(
        model=model,
        args=one_device(arguments),
        reward_funcs=lambda **columns: [],
        train_dataset=Dataset.from_list([{"prompt": PROMPT}]),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"),
    )
    trainer.current_gradient_accumulation_steps = 1
    generator = torch.Generator().manual_seed(1)
    weights = [weight for _, weight in sorted(trainer.model.named_parameters()) if weight.requires_grad]
    for weight in weights:
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    lengths = torch.tensor([len(answer) for answer in ANSWERS])
    ids = torch.tensor([answer + [0] * (LENGTH - len(answer)) for answer in ANSWERS])
    samples = {
        "prompt_ids": torch.tensor([PROMPT] * len(ANSWERS)),
        "prompt_mask": torch.ones(len(ANSWERS), len(PROMPT), dtype=torch.long),
        "completion_ids": ids,
        "completion_mask": (torch.arange(LENGTH) < lengths[:, None]).long(),
        "rewards": SCORES,
    }
    policy = log_chances(trainer, samples)
    with torch.no_grad(), linear.without_adapters(trainer.model):
        reference = log_chances(trainer, samples)
    chances = policy.exp()
    objective = (chances * (SCORES - KL_COEFF * (policy - reference))).sum()
    gradient = torch.autograd.grad(objective, weights)
    chances = chances.detach()
    assert float(chances.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float((chances * (policy.detach() - reference)).sum()) > 0.1
    return Task(trainer, samples, chances, list(zip(weights, gradient, strict=True)))


def log_chances(trainer, samples):
    """The log-probability of every answer, by the plain model."""
    ids = torch.cat([samples["prompt_ids"], samples["completion_ids"]], dim=1)
    logits = trainer.model(input_ids=ids).logits[:, len(PROMPT) - 1 : -1].log_softmax(-1)
    tokens = logits.gather(2, samples["completion_ids"][:, :, None])[:, :, 0]
    return (tokens * samples["completion_mask"]).sum(dim=1)


def test_the_expected_gradient_is_that_of_score_less_kl_over_the_answer(task):
    """Over all groups of answers, each weighed by how likely it is sampled."""
    trainer = task.trainer
    found = [torch.zeros_like(weight) for weight, _ in task.gradient]
    for rows in map(list, itertools.combinations_with_replacement(range(len(ANSWERS)), GROUP)):
        loss = trainer._compute_loss(trainer.model, {name: values[rows] for name, values in task.samples.items()})
        gradient = torch.autograd.grad(loss, [weight for weight, _ in task.gradient])
        chance = float(task.chances[rows].prod()) * len(set(rows))  # in either order
        for total, part in zip(found, gradient, strict=True):
            total -= chance * part
    # GRPO compares with a mean that has the answer itself in it, and divides by the longest length.
    factor = 1.0 if trainer.__class__.__mro__[1].__name__ == "RLOOTrainer" else (GROUP - 1) / GROUP / LENGTH
    largest = max(float(exact.abs().max()) for _, exact in task.gradient)
    for (_, exact), total in zip(task.gradient, found, strict=True):
        assert torch.allclose(total, factor * exact, rtol=1e-3, atol=1e-4 * largest * factor)
