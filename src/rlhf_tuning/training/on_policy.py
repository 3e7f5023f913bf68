"""TRL's RLOO and GRPO trainers with the KL in the reward, and without work that learning from own samples makes needless.

The loss and its gradient are TRL's (`tests/unit/training/test_on_policy.py` compares them). What changes:

- The KL to the reference is taken off each answer's reward, in both algorithms, so that `kl_coeff` means the same in both:
  see `Shaping`, which holds what else peers do to rewards.
- A prompt is computed once for all its answers, where `packing.is_exact`; so a batch keeps the answers to a prompt together,
  where TRL shuffles them. The first batch of answers decides it.
- No pass for the log-probabilities of the policy that sampled, where it is the policy that learns: their ratio is 1, and the
  KL is read off the update's own pass. It is made where a batch is used more than once, or advantages are normalised over
  it.
- Prompts whose answers all score the same, which teach nothing, may be replaced by others (`dynamic_sampling`).
- Answers are sampled by `rollout`, or by `generate` without padding that a model would not leave out.
- A layer and its adapter are one function, see `linear`.
- On a CPU a part of the prompts is computed beside the other, see `lanes`.

Every override names the TRL method that it replaces; drop it when TRL does the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from rlhf_tuning import step
from rlhf_tuning.distributed import processes, sharding
from rlhf_tuning.generation import generate, rollout
from rlhf_tuning.models import base_model
from rlhf_tuning.ops import lanes, linear, log_probabilities, packing
from rlhf_tuning.ops.padding import unpadded_answers
from rlhf_tuning.training.algorithms import Algorithm

#: Of the coefficient that adapts (Ziegler et al. 2019, https://arxiv.org/abs/1909.08593): how far off the KL counts as at
#: most, and how fast the coefficient follows.
_MOST_ERROR = 0.2
_GAIN = 0.1
#: What the standard deviation of equal sums of rewards may come to.
ROUNDING = 1e-5


@dataclass(frozen=True, kw_only=True)
class Shaping:
    """What becomes of a score before the policy learns from it.

    Args:
        kl_coeff: Reward given up for each nat of KL to the reference over the answer.
        target_kl: The KL to which the coefficient adapts after each batch; 0 leaves the coefficient as it is.
        reward_clip_range: Scores are held between minus this and this; 0 for no limit.
        missing_eos_penalty: Taken off the reward of an answer that did not end by itself.
        normalize_advantages: Whether the advantages of a batch get mean 0 and standard deviation 1.
    """

    kl_coeff: float
    target_kl: float = 0.0
    reward_clip_range: float = 0.0
    missing_eos_penalty: float = 0.0
    normalize_advantages: bool = False

    def rewards(self, scores: torch.Tensor, ended: torch.Tensor) -> torch.Tensor:
        """Return the rewards of answers, without KL.

        Args:
            scores: The weighted sum of all rewards, (answers,).
            ended: Which answers ended by themselves, (answers,).
        """
        if self.reward_clip_range:
            scores = scores.clamp(-self.reward_clip_range, self.reward_clip_range)
        return scores - self.missing_eos_penalty * (~ended).float()

    def adapted(self, kl_coeff: float, kl: float) -> float:
        """Return the coefficient for the next batch, by the mean KL of the last one."""
        if not self.target_kl:
            return kl_coeff
        error = max(-_MOST_ERROR, min(_MOST_ERROR, kl / self.target_kl - 1))
        return kl_coeff * (1 + _GAIN * error)


def on_policy(
    algorithm: Algorithm,
    *,
    shaping: Shaping,
    compute: torch.dtype,
    rollout_engine: str = "auto",
    measures_kl: bool = False,
    dynamic_sampling: int = 0,
) -> Any:
    """Return the subclass of an algorithm's TRL trainer, for prompts given as tokens.

    Args:
        algorithm: RLOO or GRPO.
        shaping: What becomes of the scores.
        compute: Of matrix products.
        rollout_engine: See `rollout.chosen_engine`.
        measures_kl: Whether the KL to the reference is measured where its coefficient is 0 too.
        dynamic_sampling: How often at most prompts of a batch whose answers all score the same are replaced by others, drawn
            at random (DAPO, Yu et al. 2025, https://arxiv.org/abs/2503.14476, which goes on until there are none).
    """
    from accelerate.utils import send_to_device
    from trl import RLOOTrainer
    from trl.trainer.utils import split_tensor_dict

    trainer_class = algorithm.trainer_class()
    is_rloo = issubclass(trainer_class, RLOOTrainer)
    measures_kl = measures_kl or shaping.kl_coeff > 0

    class OnPolicyTrainer(trainer_class):  # type: ignore[misc, valid-type]
        """Of TRL's arguments by name, and `reference`: a model of ours in the place of the one that TRL would load."""

        def __init__(self, *, args: Any, reference: Any = None, **settings: Any) -> None:
            # TRL loads a reference where its coefficient is not 0, but is to take no KL off itself.
            if reference is not None:
                args.beta = 0.0
            # What keeps a mixture's experts equally busy in pretraining would here move the policy by something else.
            args.router_aux_loss_coef = 0.0
            super().__init__(args=args, **settings)
            self.args.beta = self.beta = 0.0
            self.kl_coeff = shaping.kl_coeff
            self._kls: list[float] = []  # of the parts of the newest batch
            self._sampling = False
            self._known: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None
            if reference is not None:
                self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)
            for model in (self.accelerator.unwrap_model(self.model), self.ref_model):
                if model is not None:
                    causal_lm = base_model.causal_lm(model)
                    work = partial(log_probabilities.of_parts, causal_lm, temperature=self.temperature)
                    packing.take_packed(causal_lm, work)
            policy = base_model.causal_lm(self.accelerator.unwrap_model(self.model))
            prompts = self.train_dataset["prompt"]
            self.longest = max(map(len, prompts)) + self.max_completion_length
            self._epochs_over = 0
            self.packs: bool | None = None  # not known yet
            linear.quicken(policy)
            self.rollout_engine = rollout.chosen_engine(rollout_engine, policy, compute, prompts, longest=self.longest)

        def state_dict(self) -> dict[str, Any]:
            """Return what a checkpoint holds beside the model."""
            uses = self._step // self.args.steps_per_generation % self.num_iterations
            return {
                "uses": uses,
                "epochs_over": int(self.state.epoch),
                "kl_coeff": self.kl_coeff,
                "kls": list(self._kls),
                "packs": self.packs,
                "samples": self._buffered_inputs if uses else None,
            }

        def load_state_dict(self, state: dict[str, Any]) -> None:
            """Go on from a checkpoint."""
            # A pass may hold fewer now, or more.
            self._step = state["uses"] * self.args.steps_per_generation
            self._epochs_over = state["epochs_over"]
            self.kl_coeff, self._kls, self.packs = state["kl_coeff"], state["kls"], state["packs"]
            if state["samples"]:
                samples = send_to_device(_together(state["samples"]), self.accelerator.device)
                self._buffered_inputs = split_tensor_dict(samples, self.args.steps_per_generation)

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            sampler = super()._get_train_sampler(dataset)
            for _ in range(self._epochs_over):  # each is ordered by the next of its random numbers
                next(iter(sampler))
            return sampler

        def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return prompts, None, {}

        def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any) -> Any:
            policy = base_model.causal_lm(self.accelerator.unwrap_model(self.model))
            answers = generate.by_engine(
                self.rollout_engine,
                policy,
                prompt_ids,
                compute=compute,
                pad_id=self.processing_class.pad_token_id,
                most_tokens=self.max_completion_length,
                temperature=self.temperature,
                ends=self.eos_token_ids,
            )
            # GRPO's trainer wants the sampler's log-probabilities beside them, or None.
            return answers if is_rloo else (answers, None)

        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
            scores = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            first = self.accelerator.process_index * len(prompts)
            ended = torch.tensor([ids[-1] in self.eos_token_ids for ids in completion_ids_list], device=scores.device)
            own = scores[first : first + len(prompts)]  # (answers of this process, reward functions)
            self._rewards = shaping.rewards((own * self.reward_weights.to(own.device)).sum(dim=1), ended)
            return scores

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            if self._kls:
                self.kl_coeff = shaping.adapted(self.kl_coeff, sum(self._kls) / len(self._kls))
                self._kls.clear()
            self._sampling = True
            try:
                samples: dict[str, Any] = super()._generate_and_score_completions(inputs)
                if dynamic_sampling:
                    samples = self._with_other_prompts(samples)
            finally:
                self._sampling = False
            samples["rewards"] = self._rewards
            if shaping.normalize_advantages or self.num_iterations > 1:
                self._look_ahead(samples)
            return samples

        def _with_other_prompts(self, samples: dict[str, Any]) -> dict[str, Any]:
            """Return the samples with other prompts in the place of those whose answers all score the same.

            The step's metrics stay those of the prompts whose turn it was, but for `frac_reward_zero_std`, of what is learnt
            from, and `sampled_anew`, how many prompts more were answered for each of these.
            """
            size, metrics = self.num_generations, self._metrics["train"]
            known = {name: len(values) for name, values in metrics.items() if name != "num_tokens"}
            rewards, anew = self._rewards, 0
            for _ in range(dynamic_sampling):
                same = _without_spread(rewards, size)
                # Every process answers as many, since they count answers together.
                count = max(processes.gather(len(same)))
                if not count:
                    break
                anew += count
                drawn = torch.randint(len(self.train_dataset), (count,)).tolist()
                rows = [self.train_dataset[place] for place in drawn for _ in range(size)]
                fresh = super()._generate_and_score_completions(rows)
                dull = _without_spread(self._rewards, size)
                telling = [place for place in range(count) if place not in dull]
                swapped = min(len(same), len(telling))
                old, new = (_rows_of(groups[:swapped], size) for groups in (same, telling))
                rewards[old] = self._rewards[new]
                samples = _replaced(samples, old, fresh, new)
            self._rewards = rewards
            for name, count in known.items():
                del metrics[name][count:]
            groups = len(rewards) // size
            left = sum(processes.gather(len(_without_spread(rewards, size))))
            metrics["frac_reward_zero_std"][-1] = left / groups / self.accelerator.num_processes
            metrics["sampled_anew"].append(anew / groups)
            return samples

        @torch.no_grad()
        def _look_ahead(self, samples: dict[str, Any]) -> None:
            """Find the advantages, and the policy's own log-probabilities, for all answers of a batch before its updates."""
            sequences, size = _sequences(samples), self.args.per_device_train_batch_size
            log_sampled = self._get_per_token_logps_and_entropies(self.model, *sequences, size)[0]
            kl = None
            if measures_kl:
                kl = self._kl(log_sampled, self._reference(sequences, size), samples["completion_mask"])
            advantages = self._advantages(samples["rewards"], kl)
            if shaping.normalize_advantages:
                everyones = self.accelerator.gather(advantages)
                advantages = (advantages - everyones.mean()) / (everyones.std() + 1e-4)
            samples.update(log_sampled=log_sampled, advantages=advantages)

        def _prepare_inputs(self, rows: Any) -> dict[str, Any]:
            # Not shuffled: the answers to a prompt stay together.
            if self._step % (self.args.steps_per_generation * self.num_iterations) == 0:
                samples = self._generate_and_score_completions(rows)
                self._buffered_inputs = split_tensor_dict(samples, self.args.steps_per_generation)
            inputs: dict[str, Any] = self._buffered_inputs[self._step % self.args.steps_per_generation]
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
            self._choose_layout(input_ids, attention_mask, logits_to_keep)
            if self._sampling:  # TRL would look; `_look_ahead` does, where it is needed
                nothing = input_ids.new_zeros((len(input_ids), logits_to_keep), dtype=torch.float32)
                return nothing, nothing, None
            if self._known is not None:
                return self._known
            prompts, answers = unpadded_answers(input_ids, attention_mask, logits_to_keep)
            size = batch_size or len(prompts)
            together = lanes.count(model)
            found = []
            for start in range(0, len(prompts), size):
                some = prompts[start : start + size], answers[start : start + size]
                packed = [
                    log_probabilities.pack(
                        some[0][part],
                        some[1][part],
                        device=input_ids.device,
                        width=logits_to_keep,
                        share=bool(self.packs),
                    )
                    for part in lanes.shares(some[0], together)
                ]
                with self.accelerator.autocast():
                    found.append(model(packed=packed))
            return torch.cat([part[0] for part in found]), torch.cat([part[1] for part in found]), None

        def _choose_layout(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, columns: int) -> None:
            if self.packs is not None:
                return
            groups: dict[tuple[int, ...], list[list[int]]] = {}
            for prompt, answer in zip(*unpadded_answers(input_ids, attention_mask, columns), strict=True):
                groups.setdefault(tuple(prompt), []).append([*prompt, *answer])
            trunk = base_model.causal_lm(self.accelerator.unwrap_model(self.model)).base_model
            with self.accelerator.autocast(), sharding.in_step(trunk):
                self.packs = packing.is_exact(trunk, packing.telling(list(groups.values())), longest=self.longest)
            if not self.packs:
                step.say("This model's answers cannot share their prompt, so each is computed with a prompt of its own")

        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
            sequences, mask = _sequences(inputs), inputs["completion_mask"]  # (answers, longest answer)
            settled = "log_sampled" in inputs
            # First, while nothing is kept for a backward pass.
            log_reference = self._reference(sequences) if measures_kl and not settled else None
            known = self._get_per_token_logps_and_entropies(model, *sequences, compute_entropy=True)
            log_policy = known[0].detach()
            if not settled:  # the policy that learns is the one that sampled
                kl = None if log_reference is None else self._kl(log_policy, log_reference, mask)
                inputs = inputs | {"advantages": self._advantages(inputs["rewards"], kl)}
            log_sampled = inputs.get("log_sampled", log_policy)
            given = {"old_logps": (log_sampled * mask).sum(dim=1)} if is_rloo else {"old_per_token_logps": log_sampled}
            self._known = known  # TRL's loss asks for it again
            try:
                loss: torch.Tensor = super()._compute_loss(model, inputs | given)
            finally:
                self._known = None
            return loss

        @torch.no_grad()
        def _reference(
            self, sequences: tuple[torch.Tensor, torch.Tensor, int], batch_size: int | None = None
        ) -> torch.Tensor:
            if self.ref_model is not None:
                return self._get_per_token_logps_and_entropies(self.ref_model, *sequences, batch_size)[0]
            with linear.without_adapters(self.model):
                return self._get_per_token_logps_and_entropies(self.model, *sequences, batch_size)[0]

        def _kl(self, log_policy: torch.Tensor, log_reference: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            """Return an estimate of each answer's KL, (answers,), and take note of its mean."""
            kl: torch.Tensor = ((log_policy - log_reference) * mask).sum(dim=1)
            sums = torch.stack([kl.sum(), mask.sum().float(), kl.new_tensor(len(kl))])
            total, tokens, answers = self.accelerator.reduce(sums, reduction="sum").tolist()
            self._kls.append(total / answers)
            metrics = {"kl": total / max(tokens, 1.0), "kl_per_answer": total / answers, "kl_coeff": self.kl_coeff}
            for name, value in metrics.items():
                self._metrics["train"][name].append(value)
            return kl

        def _advantages(self, rewards: torch.Tensor, kl: torch.Tensor | None) -> torch.Tensor:
            return algorithm.advantages(rewards if kl is None else rewards - self.kl_coeff * kl, self.num_generations)

    return OnPolicyTrainer


def _together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what TRL's `split_tensor_dict` was given."""
    return {
        name: torch.cat([part[name] for part in parts]) if isinstance(value, torch.Tensor) and value.ndim else value
        for name, value in parts[0].items()
    }


def _sequences(samples: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return prompts and answers side by side, the mask of both, and how many columns are the answers'."""
    mask = samples["completion_mask"]
    return (
        torch.cat([samples["prompt_ids"], samples["completion_ids"]], dim=1),
        torch.cat([samples["prompt_mask"], mask], dim=1),
        mask.shape[1],
    )


def _without_spread(rewards: torch.Tensor, group: int) -> list[int]:
    """Return which groups of neighbours have one reward."""
    flat = rewards.view(-1, group).std(dim=1) <= ROUNDING
    return flat.nonzero().flatten().tolist()


def _rows_of(groups: Sequence[int], size: int) -> torch.Tensor:
    """Return the rows of groups of neighbours."""
    return torch.tensor([group * size + place for group in groups for place in range(size)], dtype=torch.long)


def _replaced(samples: dict[str, Any], old: torch.Tensor, others: dict[str, Any], new: torch.Tensor) -> dict[str, Any]:
    """Return samples with some rows replaced by rows of others.

    Prompts are padded on the left, what belongs to answers on the right; either may be the wider.
    """
    found = dict(samples)
    for name, value in samples.items():
        if not isinstance(value, torch.Tensor) or not value.ndim:
            continue
        other = others[name]
        if value.ndim > 1:
            left = name.startswith("prompt")
            value, other = (_widened(each, max(value.shape[1], other.shape[1]), left=left) for each in (value, other))
        found[name] = value.clone()
        found[name][old] = other[new]
    return found


def _widened(values: torch.Tensor, width: int, *, left: bool) -> torch.Tensor:
    missing = width - values.shape[1]
    return torch.nn.functional.pad(values, (missing, 0) if left else (0, missing))
