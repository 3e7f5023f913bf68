import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tests.unit.training.test_on_policy import ANSWERS, PROMPTS, Gradients, assert_alike
from trl import DistillationConfig, DistillationTrainer

from rlhf_tuning.models import base_model
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.training.student_trainer import StudentTrainer
from rlhf_tuning.training.trainer_settings import one_device, shared_settings


def steps_of(trainer_class, tiny_model, folder, *, lora, **settings):
    """Take two steps on the same answers, and return the gradients of each and their metrics."""
    torch.manual_seed(0)
    shared = shared_settings(output_dir=str(folder), steps=2, learning_rate=1e-2, seed=0, compute=torch.float32)
    arguments = DistillationConfig(
        **shared | {"max_grad_norm": 0.0, "shuffle_dataset": False},
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        max_completion_length=8,
        temperature=0.7,
        beta=1.0,
    )
    gradients = Gradients()

    class GivenAnswers(trainer_class):
        def _tokenize_prompts(self, prompts):
            return prompts, None, {}

        def _generate_single_turn(self, prompt_ids, *rest):
            return [ANSWERS[PROMPTS.index(prompt)][1] for prompt in prompt_ids]

    trainer = GivenAnswers(
        model=base_model.load_causal_lm(str(tiny_model), dtype=torch.float32),
        args=one_device(arguments),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=load_tokenizer(str(tiny_model)),
        callbacks=[gradients],
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear") if lora else None,
        **settings,
    )
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(trainer.model.named_parameters()):
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    trainer.train()
    return gradients.found, trainer.state.log_history


@pytest.mark.parametrize("lora", [True, False])
def test_the_gradient_and_the_metrics_are_those_of_trl(tiny_model, tiny_plain_model, tmp_path, lora):
    teacher = base_model.load_causal_lm(str(tiny_plain_model), dtype=torch.float32)
    stock, known = steps_of(DistillationTrainer, tiny_model, tmp_path, lora=lora, teacher_model=teacher)
    ours, found = steps_of(
        StudentTrainer, tiny_model, tmp_path, lora=lora, teacher=teacher, order=[0, 1, 2, 3], compute=torch.float32
    )
    # AdamW's first step makes much of rounding.
    for mine, theirs, rtol in zip(ours, stock, (1e-4, 1e-3), strict=True):
        assert_alike(mine, theirs, rtol)
    for mine, theirs in zip(found[:2], known[:2], strict=True):
        for name in ("loss", "entropy", "num_tokens", "completions/mean_length", "completions/clipped_ratio"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4), name
