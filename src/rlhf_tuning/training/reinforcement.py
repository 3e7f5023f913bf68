"""Phase 2: sample answers from the policy, score them, raise the probability of good ones.

The policy's LoRA, the reference (the same weights with the adapter off) and the reward model (its own adapter and head)
share one copy of the base weights; full fine-tuning and a reward model of another base load their own. Beside the reward
model, or in its place, there may be rewards of one's own, see `rewards`: the score of an answer is their weighted sum.

`kl_coeff` has one meaning for every algorithm: the reward given up for each nat of KL(policy || reference) over a whole
answer. The objective is E[score - kl_coeff * KL]. With 0 KL is measured all the same, for `max_kl`; with both 0 no reference
pass is made and no KL is known. Answers are sampled at `temperature` without top-k or top-p, since KL is read off these
samples. `on_policy.Shaping` says what else may become of a score, each off by default.

In several processes (see `processes`) each samples and learns from its share of a step's prompts, with random numbers of its
own; all answers to a prompt are one process's.

What is not worth going on with stops the run at once: a reward model that is not shown to be better than chance, before the
first step; a score, a loss or a gradient that is not finite; a reward that never varies; a policy too far from the base
model. Where its budget left the run such a reward model and a supervised model, it returns the latter, which was paid for.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from rlhf_tuning import environment, step
from rlhf_tuning.data.importer import sample_canonical
from rlhf_tuning.distributed import processes, sharding
from rlhf_tuning.errors import DataError, ModelError
from rlhf_tuning.limits import check_exploration, check_limits, check_target_kl
from rlhf_tuning.models import base_model, reward_model
from rlhf_tuning.models.start_model import is_start
from rlhf_tuning.ops import lanes
from rlhf_tuning.planning.run_budget import stopped_in
from rlhf_tuning.rewards import REWARD_OF, SPREAD_OF, Answer, Example, Reward, load_rewards, read_rewards
from rlhf_tuning.rewards.reward_model import ModelScorer
from rlhf_tuning.training import over_optimisation
from rlhf_tuning.training.algorithms import load_algorithm
from rlhf_tuning.training.budget_watch import BudgetWatch
from rlhf_tuning.training.checkpoints import Checkpoints
from rlhf_tuning.training.loading import load_base, load_text_format
from rlhf_tuning.training.on_policy import ROUNDING, Shaping, on_policy
from rlhf_tuning.training.trainer_settings import (
    MOST_SPARE_ROWS,
    check_steps,
    continue_adapter,
    drop_printing,
    new_adapter,
    one_device,
    passes,
    shared_settings,
)
from rlhf_tuning.training.training_log import TrainingLog
from rlhf_tuning.training.tuned_model import save_tuned_model

#: Multiplied by `reinforcement_learning_rate_multiplier`.
BASE_LEARNING_RATE = 1e-4
#: Full fine-tuning moves every weight, so each moves less.
FULL_BASE_LEARNING_RATE = 1e-6
#: A single batch may have no two different scores by chance, where it has few answers.
_STEPS_WITHOUT_SPREAD = 3


@dataclass(frozen=True, kw_only=True)
class ReinforcementConfig:
    """Settings of phase 2, named as the pipeline's parameters are.

    `rewards` are those beside the reward model, as `rewards.read_rewards` takes them.
    `batch_size` counts a step's prompts, in all processes together; each gets `num_generations` answers. `lora_dim` 0
    means full fine-tuning. `warm_start_adapter` is the folder of the adapter that the policy starts from; the reference
    stays the base. `rollout_engine` says what samples the answers: `lean` is this project's (see `rollout`), `transformers`
    its `generate`, `auto` the first where it gives the model's own numbers.
    `watch_prompts` are set aside for the watch over over-optimisation (0: no watch), which looks every `watch_interval`
    steps (0: a tenth of the steps, at least 1).
    The first step is taken if the reward model's accuracy on held-out preferences is shown to be above
    `min_reward_model_accuracy` (0: in any case), and the run fails at the step whose answers are on average more than
    `max_kl` nats from the base model (0: no limit).
    A batch of samples serves `num_iterations` steps, from the second on with the ratio to the policy that sampled, clipped.
    The five settings after it are those of `on_policy.Shaping`. Up to `dynamic_sampling` times prompts of a step whose
    answers all score the same are replaced by others.
    `checkpoint_interval` are the minutes between two checkpoints.
    """

    large_model_reference: str
    rewards: str = ""
    reinforcement_learning_train_steps: int = 1000
    reinforcement_learning_rate_multiplier: float = 1.0
    rl_algorithm: str = "rloo"
    kl_coeff: float = 0.1
    lora_dim: int = 16
    batch_size: int = 64
    num_generations: int = 4
    temperature: float = 1.0
    prompt_sequence_length: int = 512
    target_sequence_length: int = 64
    seed: int = 0
    dtype: str = "auto"
    warm_start_adapter: str = ""
    rollout_engine: str = "auto"
    watch_interval: int = 0
    watch_prompts: int = 64
    min_reward_model_accuracy: float = 0.5
    max_kl: float = 200.0
    num_iterations: int = 1
    target_kl: float = 0.0
    reward_clip_range: float = 0.0
    missing_eos_penalty: float = 0.0
    normalize_advantages: bool = False
    dynamic_sampling: int = 0
    checkpoint_interval: float = 10.0

    def __post_init__(self) -> None:
        check_limits(**asdict(self))
        check_exploration(self.temperature)
        check_target_kl(target_kl=self.target_kl, kl_coeff=self.kl_coeff)

    @property
    def learning_rate(self) -> float:
        """The peak learning rate."""
        base = BASE_LEARNING_RATE if self.lora_dim else FULL_BASE_LEARNING_RATE
        return base * self.reinforcement_learning_rate_multiplier

    @property
    def measures_kl(self) -> bool:
        """Whether each step measures the KL to the base model: it costs reward, or must not pass a limit."""
        return self.kl_coeff > 0 or self.max_kl > 0


def train_policy(
    config: ReinforcementConfig,
    *,
    prompts_path: str,
    adapter_dir: str,
    model_dir: str,
    tensorboard_dir: str,
    reward_model_dir: str = "",
    held_out_reward_model_dir: str = "",
    checkpoint_dir: str = "",
    budget: str = "",
) -> dict[str, float]:
    """Tune the policy for `reinforcement_learning_train_steps` steps and save it, or the better checkpoint before it.

    With a held-out reward model it stops early where it is over-optimised beyond noise, see `over_optimisation`.

    Args:
        config: The settings.
        prompts_path: Canonical prompt rows.
        adapter_dir: Gets the policy's LoRA adapter (with full fine-tuning none), `metrics.jsonl`, and `watch.json`
            if there was a watch.
        model_dir: Gets the merged model with its tokenizer, which plain transformers loads.
        tensorboard_dir: Gets event files.
        reward_model_dir: What phase 1 saved; empty where rewards of one's own are all.
        held_out_reward_model_dir: Another reward model, trained on other preferences, that nothing is optimised against;
            empty for none.
        checkpoint_dir: Keeps checkpoints until the model is saved, see `checkpoints`; empty for none.
        budget: From `run_budget.step_budget`; empty for none.

    Returns:
        The mean of the last tenth of the steps up to the checkpoint that is returned, by metric; of no step nothing.

    Raises:
        ParameterError: If the processes cannot share a batch evenly, or a reward cannot be used or does not score.
        DataError: If there is no prompt, or one lacks the references that a reward needs.
        RunError: If a reward's service is down for too long.
        ModelError: If the base or the reward model, or the adapter to start from, cannot be loaded; if the reward model is
            not shown to be good enough, or its scores are of no use; if the policy gets too far from the base.
    """
    from datasets import Dataset

    # With the source of functions that this step's image has: checkpoints of another are none of this training's.
    config = replace(config, rewards=read_rewards(config.rewards))
    unfit = _unfit(config, reward_model_dir, has_budget=bool(budget)) if reward_model_dir else ""

    # 1. Encode the prompts.
    share = processes.share(config.batch_size, environment.process_count())
    processes.join()
    budget_watch = BudgetWatch(budget, dtype=config.dtype, label="reinforcement learning")
    if unfit:
        budget_watch.end(unfit)
    text_format = load_text_format(config)
    most = max(config.reinforcement_learning_train_steps * config.batch_size, MOST_SPARE_ROWS)
    examples: Sequence[Example] = sample_canonical(prompts_path, most=most, seed=config.seed)
    if not examples:
        raise DataError(f"{prompts_path} holds no prompt to learn from.")
    compute = base_model.choose_dtype(config.dtype)
    # As in training: the adapter's products have the precision of the others.
    precision = partial(torch.autocast, base_model.device().type, dtype=compute, enabled=compute != torch.float32)
    by_model = ModelScorer(precision) if reward_model_dir else None
    rewards = load_rewards(config.rewards, most_tokens=config.target_sequence_length, reward_model=by_model)
    rewards.check_references(examples)
    examples, watched = over_optimisation.set_aside(examples, watch_prompts=config.watch_prompts, seed=config.seed)
    encoded = processes.spread(lambda some: [text_format.prompt_ids(example["prompt"]) for example in some], examples)
    rows = [{"prompt": prompt, "row": row} for row, prompt in enumerate(encoded)]
    # TRL leaves out what does not fill a step, which would be all where there are fewer.
    rows *= math.ceil(config.batch_size / len(rows))

    # 2. Load the policy.
    lora = config.lora_dim > 0
    copies = int(not lora and config.measures_kl)
    policy, compute = load_base(config, rank="lora_dim", output=Path(model_dir), seed=config.seed, copies=copies)
    beside = base_model.beside(full=not lora, copies=copies)

    # TRL would load one by itself: whole, and without what loading does here.
    reference = None
    if copies:
        reference = base_model.load_causal_lm(
            config.large_model_reference, dtype=torch.float32, shard=True, beside=beside, compute=compute
        )

    # 3. Build the trainer. The reward model joins it afterwards, since TRL wraps the policy first.
    # The answers to a prompt stay together, so that they can share it. A lane of a CPU is as busy with those to one prompt.
    most = max(1, 16 // config.num_generations) if torch.cuda.is_available() else lanes.count(policy) if lora else 1
    shared = not reward_model_dir or _shares_base(config, reward_model_dir)
    apart = 0 if shared else 2 if watched and held_out_reward_model_dir else 1
    together = passes(
        policy,
        share=share,
        most=most,
        tokens=max(map(len, encoded)) + config.num_generations * config.target_sequence_length,
        full=not lora,
        compute=compute,
        beside=apart * compute.itemsize * policy.num_parameters(),
    )
    steps_of_a_batch = share // together.rows
    algorithm = load_algorithm(config.rl_algorithm)
    with TemporaryDirectory(prefix="policy-trainer-") as scratch:
        settings = shared_settings(
            output_dir=scratch,
            steps=config.reinforcement_learning_train_steps,
            learning_rate=config.learning_rate,
            seed=config.seed,
            compute=compute,
            checkpointing=together.checkpointing,
        )
        arguments = algorithm.build_arguments(
            **settings,
            kl_coeff=config.kl_coeff,
            num_iterations=config.num_iterations,
            per_device_train_batch_size=config.num_generations * together.rows,
            gradient_accumulation_steps=steps_of_a_batch,
            steps_per_generation=steps_of_a_batch,
            num_generations=config.num_generations,
            max_completion_length=config.target_sequence_length,
            temperature=config.temperature,
            lr_scheduler_type="constant_with_warmup",
            reward_weights=[reward.weight for reward in rewards.parts],
        )
        log = TrainingLog(
            label="reinforcement learning",
            total_steps=config.reinforcement_learning_train_steps,
            metrics_path=Path(adapter_dir) / "metrics.jsonl",
            tensorboard_dir=Path(tensorboard_dir),
            select=_policy_metrics(config, [reward.name for reward in rewards.parts]),
            vertex_tags={"reward": "reward", "kl": "kl_loss"},
            check=_Check(
                config.max_kl,
                patience=_STEPS_WITHOUT_SPREAD * config.num_iterations,
                may_be_solved=bool(config.rewards),
            ),
        )
        shaping = Shaping(
            kl_coeff=config.kl_coeff,
            target_kl=config.target_kl,
            reward_clip_range=config.reward_clip_range,
            missing_eos_penalty=config.missing_eos_penalty,
            normalize_advantages=config.normalize_advantages,
        )
        trainer_class = on_policy(
            algorithm,
            shaping=shaping,
            compute=compute,
            rollout_engine=config.rollout_engine,
            measures_kl=config.measures_kl,
            dynamic_sampling=config.dynamic_sampling,
        )
        trainer = trainer_class(
            model=policy,
            reference=reference,
            args=one_device(arguments),
            reward_funcs=[_RewardFunction(reward, examples) for reward in rewards.parts],
            train_dataset=Dataset.from_list(rows),
            processing_class=text_format.tokenizer,
            callbacks=[log, budget_watch],
            peft_config=new_adapter(policy, config.lora_dim, warm_start=config.warm_start_adapter),
        )
        drop_printing(trainer)
        started_from = continue_adapter(trainer.model, config.warm_start_adapter)
        sharding.train_together(trainer)
        for function in trainer.reward_funcs:
            function.ends = frozenset(trainer.eos_token_ids)

        # 4. Train, with the reward model on the policy's own base weights where it has the same base.
        if by_model:
            by_model.model = _reward_model_for(trainer.model, config, reward_model_dir, beside=beside)
        watcher = None
        if watched and not unfit:
            held_out = None
            if held_out_reward_model_dir:
                # A new adapter starts with random numbers; what is learnt must not depend on whether it is watched.
                with base_model.fork_random_numbers():
                    held_out = _reward_model_for(
                        trainer.model,
                        config,
                        held_out_reward_model_dir,
                        beside=beside,
                        adapter_name="held_out_reward",
                    )
            watcher = over_optimisation.Watcher(
                policy=trainer.model,
                reference=trainer.ref_model,
                rewards=rewards,
                held_out_reward_model=held_out,
                examples=watched,
                text_format=text_format,
                temperature=config.temperature,
                seed=config.seed,
                total_steps=config.reinforcement_learning_train_steps,
                interval=config.watch_interval,
                log=log,
                scratch=scratch,
                compute=compute,
            )
            trainer.add_callback(watcher)
        inputs = prompts_path, reward_model_dir, held_out_reward_model_dir, started_from
        checkpoints = Checkpoints(checkpoint_dir, config, *inputs, label="reinforcement learning")
        with closing(log), closing(rewards):
            if not unfit:
                checkpoints.train(trainer, log, budget_watch, *([watcher] if watcher else []), own=trainer)
        returned = trainer.state.global_step
        if not budget_watch.stopped and (watcher is None or not watcher.watch.over_optimised):
            check_steps(returned, asked=config.reinforcement_learning_train_steps, label="Reinforcement learning")
        if watcher is not None:
            returned = watcher.finish(adapter_dir).best_step

    # 5. Save. With LoRA the base is loaded anew for it, so what trained goes first.
    if watcher is not None and returned == 0:  # nothing that was learnt is returned, so no step measured it
        final = watcher.watch.looks[0].means()
    else:
        final = _last_tenth([record for record in log.history if record["step"] <= returned])
    final |= budget_watch.finish(adapter_dir)
    if lora and environment.is_main_process():
        trainer.model.save_pretrained(adapter_dir, selected_adapters=["default"])
    model = None if lora else trainer.model
    weights = None if lora else sharding.whole_weights(trainer.model)
    trainer.accelerator.free_memory()
    del trainer, watcher, rewards, by_model, policy, reference, log
    base_model.release_memory()
    lanes.let_go()
    if environment.is_main_process():
        settings = {"method": "reinforcement", **asdict(config)}
        save_tuned_model(model, weights, text_format.tokenizer, settings, adapter_dir=adapter_dir, model_dir=model_dir)
    checkpoints.remove()
    return final


def _unfit(config: ReinforcementConfig, reward_model_dir: str, *, has_budget: bool) -> str:
    """Return why no step is taken: the budget left a reward model that would teach noise, and a supervised model to return.

    Raises:
        ModelError: If the reward model would teach noise, and there is nothing else to return.
    """
    try:
        reward_model.check_accuracy(reward_model_dir, least=config.min_reward_model_accuracy)
    except ModelError as error:
        ended = stopped_in(reward_model_dir) if has_budget else []
        if not (ended and is_start(config.large_model_reference)):
            raise ModelError(" ".join([*ended, str(error)])) from None
        return (
            f"{error} Its budget ended it early, so the supervised model is returned as it is, with no step against it."
        )
    return ""


class _RewardFunction:
    """One reward as TRL calls it: on each answer's text, as evaluation and serving would score it."""

    def __init__(self, reward: Reward, examples: Sequence[Example]) -> None:
        self.__name__ = reward.name  # TRL reads the name of the metric here
        self._reward, self._examples = reward, examples
        self.ends: frozenset[int]

    def __call__(
        self,
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        row: Sequence[int],
        trainer_state: Any,
        **columns: Any,
    ) -> list[float]:
        answers = [
            Answer(text, len(ids), bool(ids) and ids[-1] in self.ends)
            for text, ids in zip(completions, completion_ids, strict=True)
        ]
        examples = [self._examples[index] for index in row]
        return self._reward.score(examples, answers, step=trainer_state.global_step + 1)


class _Check:
    """Ends a training that is not worth going on with, told each step's metrics.

    Args:
        max_kl: Nats of KL past which it is not; 0 for no limit.
        patience: Steps in which the answers to a prompt need not differ in reward.
        may_be_solved: Whether rewards can be had in full: then it is no failure if answers no longer differ.
    """

    def __init__(self, max_kl: float, *, patience: int = _STEPS_WITHOUT_SPREAD, may_be_solved: bool = False) -> None:
        self._max_kl, self._patience, self._may_be_solved = max_kl, patience, may_be_solved
        self._without_spread = 0
        self._has_differed = False

    def __call__(self, record: Mapping[str, float]) -> None:
        """Look at one step.

        Raises:
            ModelError: Where the answers to a prompt have not differed in reward for some steps, or are too far from the
            base.
        """
        self._without_spread = self._without_spread + 1 if record["frac_reward_zero_std"] == 1 else 0
        self._has_differed = self._has_differed or self._without_spread == 0
        if self._without_spread == self._patience and self._may_be_solved and self._has_differed:
            step.say(
                f"Up to step {record['step']} all answers to a prompt had the same reward for {self._patience} steps: such "
                "prompts have nothing more to teach"
            )
        elif self._without_spread == self._patience:
            why = (
                "the policy has come to give each prompt one answer; raise kl_coeff or the temperature"
                if record["reward_std"] > ROUNDING
                else "everything is scored alike; look at the reward model's accuracy, and at rewards of your own"
            )
            raise ModelError(
                f"In {self._patience} steps on end, up to step {record['step']}, all answers to a prompt had the same "
                f"reward, so there is nothing to learn: {why}."
            )
        kl = record.get("kl", 0.0)
        if self._max_kl and kl > self._max_kl:
            raise ModelError(
                f"At step {record['step']} the policy is {kl:,.0f} nats an answer from the base model, more than max_kl "
                f"{self._max_kl:g}: it has run away. Lower reinforcement_learning_rate_multiplier or raise kl_coeff."
            )


def _reward_model_for(
    policy: Any, config: ReinforcementConfig, directory: str, *, beside: int, adapter_name: str = "reward"
) -> reward_model.RewardModel:
    if _shares_base(config, directory):
        return reward_model.share_trunk(policy, directory, adapter_name=adapter_name)
    step.say("A reward model does not share the policy's base weights, so a second model is loaded")
    return reward_model.load_reward_model(directory, dtype=config.dtype, beside=beside)


def _shares_base(config: ReinforcementConfig, directory: str) -> bool:
    """Say whether a reward model can use the policy's own base weights."""
    metadata = reward_model.read_metadata(directory)
    same_base = metadata["base_model"] == config.large_model_reference
    return bool(same_base and config.lora_dim > 0 and int(metadata["reward_lora_dim"]) > 0)


def _policy_metrics(config: ReinforcementConfig, rewards: Sequence[str]) -> Any:
    samples = config.batch_size * config.num_generations

    def select(logs: Mapping[str, float], seconds: float) -> dict[str, float]:
        length = logs["completions/mean_length"]
        metrics = {"reward": logs["reward"], "loss": logs["loss"]}
        if "kl" in logs:
            metrics |= {"kl": logs["kl_per_answer"], "kl_per_token": logs["kl"]}
        if config.rewards:
            for name in rewards:
                metrics[f"{REWARD_OF}{name}"] = logs[f"rewards/{name}/mean"]
                metrics[f"{SPREAD_OF}{name}"] = logs[f"rewards/{name}/std"]
        if config.target_kl:
            metrics["kl_coeff"] = logs["kl_coeff"]
        if config.dynamic_sampling:
            metrics["sampled_anew"] = logs["sampled_anew"]
        if config.num_iterations > 1:
            metrics["clip_ratio"] = logs["clip_ratio/region_mean"]
        return metrics | {
            "entropy": logs["entropy"],
            "answer_tokens": length,
            "ended": 1.0 - logs["completions/clipped_ratio"],
            "reward_std": logs["reward_std"],
            "frac_reward_zero_std": logs["frac_reward_zero_std"],
            "grad_norm": logs["grad_norm"],
            "learning_rate": logs["learning_rate"],
            "tokens_per_second": samples * length / seconds,
            "seconds_per_step": seconds,
        }

    return select


def _last_tenth(history: Sequence[dict[str, float]]) -> dict[str, float]:
    if not history:
        return {}
    tail = history[-max(1, len(history) // 10) :]
    names = [name for name in tail[-1] if name not in ("step", "seconds")]
    return {name: sum(record[name] for record in tail) / len(tail) for name in names}
