"""TRL's DistillationTrainer without the work that its layout makes needless. Its loss, the reverse KL a token, is TRL's.

The student answers, and at every token of its answers moves towards what the teacher would say there (Agarwal et al. 2023,
https://arxiv.org/abs/2306.13649, on-policy with the reverse KL). As in TRL the gradient does not go through the sampling.

- Answers are sampled by `rollout`, or by `generate` without padding that a model would not leave out.
- Answers are packed into few rows, none seeing another, see `log_probabilities.pack_apart`; TRL pads each to the longest,
  its prompt on the left, where some models count positions that are not there.
- A teacher may have an output head of another size, see `divergence`.
- A layer and its adapter are one function, see `linear`; on a CPU a part of the answers is computed beside the other, see
  `lanes`.

A step takes `batch_size` prompts, also where the rows of the data begin anew.
"""

from collections.abc import Sequence
from typing import Any

import torch
from trl import DistillationTrainer

from rlhf_tuning import step
from rlhf_tuning.generation import generate, rollout
from rlhf_tuning.models import base_model
from rlhf_tuning.ops import divergence, linear, log_probabilities, packing
from rlhf_tuning.ops.padding import unpadded_answers


class StudentTrainer(DistillationTrainer):  # type: ignore[misc]
    """DistillationTrainer of prompts that are given as tokens.

    Args:
        teacher: A causal language model of transformers, on its device.
        order: The rows of every step of the training, one step after the other.
        compute: Of matrix products.
        settings: TRL's arguments, by name.
    """

    def __init__(self, *, teacher: Any, order: Sequence[int], compute: torch.dtype, **settings: Any) -> None:
        super().__init__(**settings)
        self.teacher = teacher
        self._order, self._compute = order, compute
        student = base_model.causal_lm(self.model)
        prompts = self.train_dataset["prompt"]
        longest = max(map(len, prompts)) + self.max_completion_length
        told = packing.telling_apart(prompts)
        with self.accelerator.autocast():
            self._packs = all(packing.is_exact(model.base_model, told, longest=longest) for model in (student, teacher))
        if not self._packs:
            step.say("These models' answers cannot share a row, so each has its own")
        linear.quicken(student)
        self._engine = rollout.chosen_engine("auto", student, compute, prompts, longest=longest)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        passes = self.args.gradient_accumulation_steps
        together = self.args.per_device_train_batch_size * self.accelerator.num_processes * passes
        # As TRL's, which answers a step's prompts once and asks for them at each of its passes.
        return [row for rows in _batched(self._order, together) for row in rows * passes]

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any) -> list[list[int]]:
        return generate.by_engine(
            self._engine,
            base_model.causal_lm(self.accelerator.unwrap_model(self.model)),
            prompt_ids,
            compute=self._compute,
            pad_id=self.processing_class.pad_token_id,
            most_tokens=self.max_completion_length,
            temperature=self.temperature,
            ends=self.eos_token_ids,
        )

    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        mask = inputs["completion_mask"]
        prompts, answers = unpadded_answers(
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([inputs["prompt_mask"], mask], dim=1),
            mask.shape[1],
        )
        parts, _ = log_probabilities.pack_in_parts(unwrapped_student, prompts, answers, several=self._packs)
        student = base_model.causal_lm(unwrapped_student)
        with self.accelerator.autocast():
            kl, entropy = divergence.of_parts(student, self.teacher, parts, temperature=self.temperature)
        return kl.sum() / num_items_in_batch, entropy.sum(), mask.sum()


def _batched(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
