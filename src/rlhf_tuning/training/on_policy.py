"""TRL's RLOO and GRPO trainers without the work that one update for each batch of samples makes needless.

What changes is the cost; the gradient is TRL's (`tests/unit/training/test_on_policy.py` compares them):

- A prompt is computed once for all its answers, see `log_probabilities`; so a batch keeps the answers to a prompt together,
  where TRL shuffles them.
- No pass for the log-probabilities of the policy that sampled: it is the policy that learns, so their ratio is 1. RLOO's KL
  term, which TRL reads off that pass, is read off the update's own.
- Answers are sampled by `rollout`.
- A layer and its adapter are one function, see `linear`.
- On a CPU a part of the prompts is computed beside the other, see `lanes`.

Every override names the TRL method that it replaces; drop it when TRL does the same.
"""

from functools import partial
from typing import Any

import torch

from rlhf_tuning import step
from rlhf_tuning.distributed import sharding
from rlhf_tuning.generation import rollout
from rlhf_tuning.models import base_model
from rlhf_tuning.ops import lanes, linear, log_probabilities, packing


def on_policy(trainer_class: Any, *, compute: torch.dtype, rollout_engine: str = "auto") -> Any:
    """Return a TRL trainer's subclass for prompts given as tokens and one update for each batch of samples.

    Args:
        trainer_class: RLOOTrainer or GRPOTrainer.
        compute: Of matrix products.
        rollout_engine: See `rollout.chosen_engine`.
    """
    from trl import RLOOTrainer
    from trl.trainer.utils import add_fused_lm_head, split_tensor_dict

    class OnPolicyTrainer(trainer_class):  # type: ignore[misc]
        """Of TRL's arguments by name, and `reference`: a model of ours in the place of the one that TRL would load."""

        def __init__(self, *, args: Any, reference: Any = None, **settings: Any) -> None:
            # With no need of one TRL loads none.
            kl_coeff, args.beta = args.beta, 0.0 if reference is not None else args.beta
            super().__init__(args=args, **settings)
            self.args.beta = self.beta = kl_coeff
            if reference is not None:
                add_fused_lm_head(reference, temperature=self.temperature)
                self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)
            for model in (self.accelerator.unwrap_model(self.model), self.ref_model):
                if model is not None:
                    causal_lm = base_model.causal_lm(model)
                    work = partial(log_probabilities.of_parts, causal_lm, temperature=self.temperature)
                    packing.take_packed(causal_lm, work)
            policy = base_model.causal_lm(self.accelerator.unwrap_model(self.model))
            some_prompt = self.train_dataset[0]["prompt"]
            longest = max(map(len, self.train_dataset["prompt"])) + self.max_completion_length
            with self.accelerator.autocast():
                self.packs = log_probabilities.packing_works(policy, some_prompt, longest=longest)
            if not self.packs:
                step.say("This model's answers cannot share their prompt, so each is computed with a prompt of its own")
            linear.quicken(policy)
            self.rollout_engine = rollout.chosen_engine(rollout_engine, policy, compute, some_prompt, longest=longest)

        def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return prompts, None, {}

        def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any) -> Any:
            policy = base_model.causal_lm(self.accelerator.unwrap_model(self.model))
            if self.rollout_engine == "transformers":
                with sharding.in_step(policy):
                    return super()._generate_single_turn(prompt_ids, *rest)
            with sharding.in_step(policy), rollout.prepared(policy, compute):
                answers = rollout.sample(
                    policy,
                    prompt_ids,
                    most_tokens=self.max_completion_length,
                    temperature=self.temperature,
                    ends=self.eos_token_ids,
                )
            # GRPO's trainer wants the sampler's log-probabilities beside them, or None.
            return answers if issubclass(trainer_class, RLOOTrainer) else (answers, None)

        def _prepare_inputs(self, rows: Any) -> dict[str, Any]:
            # Not shuffled: the answers to a prompt stay together.
            turn = self._step % self.args.steps_per_generation
            if turn == 0:
                samples = self._generate_and_score_completions(rows)
                self._buffered_inputs = split_tensor_dict(samples, self.args.steps_per_generation)
            inputs: dict[str, Any] = self._buffered_inputs[turn]
            return inputs

        def _get_per_token_logps_and_entropies(
            self,
            model: Any,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            logits_to_keep: int,
            batch_size: int | None = None,
            **settings: Any,
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
            if not self.packs:
                plain: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] = (
                    super()._get_per_token_logps_and_entropies(
                        model, input_ids, attention_mask, logits_to_keep, batch_size, **settings
                    )
                )
                return plain
            prompts, answers = _unpadded(input_ids, attention_mask, logits_to_keep)
            size = batch_size or len(prompts)
            together = lanes.count(model)
            found = []
            for start in range(0, len(prompts), size):
                some = prompts[start : start + size], answers[start : start + size]
                packed = [
                    log_probabilities.pack(some[0][part], some[1][part], device=input_ids.device, width=logits_to_keep)
                    for part in lanes.shares(some[0], together)
                ]
                with self.accelerator.autocast():
                    found.append(model(packed=packed))
            return torch.cat([part[0] for part in found]), torch.cat([part[1] for part in found]), None

    class OnPolicyRLOOTrainer(OnPolicyTrainer):
        _sampling = False

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            # TRL takes the KL off the rewards before the update's pass, which knows the policy's part of it; we do after.
            self.kl_coeff: float = self.args.beta
            self.beta = 0.0

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            self._sampling = True
            try:
                samples: dict[str, Any] = super()._generate_and_score_completions(inputs)
            finally:
                self._sampling = False
            return samples

        def _get_per_token_logps_and_entropies(
            self,
            model: Any,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            logits_to_keep: int,
            *rest: Any,
            **kw: Any,
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
            if self._sampling:
                nothing = input_ids.new_zeros((len(input_ids), logits_to_keep), dtype=torch.float32)
                return nothing, nothing, None
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *rest, **kw
            )

        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
            mask = inputs["completion_mask"]  # (answers, longest answer)
            sequences = (
                torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                torch.cat([inputs["prompt_mask"], mask], dim=1),
                mask.shape[1],
            )
            # First, while nothing is kept for a backward pass.
            log_reference = self._reference(sequences) if self.kl_coeff else None
            log_policy, entropy, _ = self._get_per_token_logps_and_entropies(model, *sequences, compute_entropy=True)
            advantages = inputs["advantages"]  # (answers,), without KL
            if log_reference is not None:
                kl = ((log_policy.detach() - log_reference) * mask).sum(dim=1)
                advantages = advantages - self.kl_coeff * _leave_one_out(kl, self.num_generations)
                self._note("kl", kl.sum(), mask.sum())
                self._note("kl_per_answer", kl.sum(), kl.new_tensor(len(kl)))
            self._note("entropy", (entropy * mask).sum(), mask.sum())
            log_answers = (log_policy * mask).sum(dim=1)  # (answers,)
            # The ratio to the policy that sampled is 1; its gradient is that of the log-probability.
            ratio = torch.exp(log_answers - log_answers.detach())
            loss: torch.Tensor = -(ratio * advantages).mean()
            return loss

        @torch.no_grad()
        def _reference(self, sequences: tuple[torch.Tensor, torch.Tensor, int]) -> torch.Tensor:
            if self.ref_model is not None:
                return self._get_per_token_logps_and_entropies(self.ref_model, *sequences)[0]
            with linear.without_adapters(self.model):
                return self._get_per_token_logps_and_entropies(self.model, *sequences)[0]

        def _note(self, name: str, total: torch.Tensor, tokens: torch.Tensor) -> None:
            sums = self.accelerator.reduce(torch.stack([total.float(), tokens.float()]), reduction="sum")
            self._metrics["train"][name].append((sums[0] / sums[1].clamp(min=1.0)).item())

    return OnPolicyRLOOTrainer if issubclass(trainer_class, RLOOTrainer) else OnPolicyTrainer


def _unpadded(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, columns: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return prompts and answers from rows of a left-padded prompt and a right-padded answer in the last `columns`."""
    prompts, answers = [], []
    for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
        kept = [token if keep else None for token, keep in zip(ids, mask, strict=True)]
        prompts.append([token for token in kept[:-columns] if token is not None])
        answers.append([token for token in kept[-columns:] if token is not None])
    return prompts, answers


def _leave_one_out(values: torch.Tensor, group: int) -> torch.Tensor:
    """Return each value less the mean of the others in its group of neighbours."""
    grouped = values.view(-1, group)
    return ((grouped - grouped.mean(dim=1, keepdim=True)) * group / (group - 1)).flatten()
