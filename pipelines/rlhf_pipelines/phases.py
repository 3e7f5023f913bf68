"""The two phases, as pipelines of their own that the others nest."""

from typing import NamedTuple

from kfp import dsl

from rlhf_components.import_preference_dataset import import_preference_dataset
from rlhf_components.import_prompt_dataset import import_prompt_dataset
from rlhf_components.train_policy import train_policy
from rlhf_components.train_reward_model import train_reward_model


class RewardModelOutputs(NamedTuple):
    """What phase 1 hands on."""

    reward_model: dsl.Model
    metrics: dsl.Metrics
    preferences: dsl.Dataset
    eval_preferences: dsl.Dataset
    preference_rows: dsl.Dataset


class ReinforcementOutputs(NamedTuple):
    """What phase 2 hands on."""

    model: dsl.Model
    adapter: dsl.Model
    evaluation_prompts: dsl.Dataset


@dsl.pipeline(name="train-reward-model", description="Phase 1: learn to score answers as people do.")
def reward_model_phase(
    preference_dataset: str,
    eval_dataset: str,
    instruction: str,
    preference_fingerprint: str,
    eval_fingerprint: str,
    large_model_reference: str,
    large_model_fingerprint: str,
    prompt_sequence_length: int,
    target_sequence_length: int,
    reward_model_learning_rate_multiplier: float,
    reward_model_train_steps: int,
    reward_lora_dim: int,
    batch_size: int,
    seed: int,
    dtype: str,
    max_bad_rows: int,
    held_out_reward_model_share: float,
) -> RewardModelOutputs:
    """Import preferences and train the reward model on them."""
    data = import_preference_dataset(
        preference_dataset=preference_dataset,
        eval_dataset=eval_dataset,
        instruction=instruction,
        preference_fingerprint=preference_fingerprint,
        eval_fingerprint=eval_fingerprint,
        seed=seed,
        max_bad_rows=max_bad_rows,
    ).set_display_name("Import Preference Dataset")
    trainer = train_reward_model(
        preferences=data.outputs["preferences"],
        eval_preferences=data.outputs["eval_preferences"],
        preference_rows=data.outputs["preference_rows"],
        large_model_reference=large_model_reference,
        large_model_fingerprint=large_model_fingerprint,
        prompt_sequence_length=prompt_sequence_length,
        target_sequence_length=target_sequence_length,
        reward_model_learning_rate_multiplier=reward_model_learning_rate_multiplier,
        reward_model_train_steps=reward_model_train_steps,
        reward_lora_dim=reward_lora_dim,
        batch_size=batch_size,
        seed=seed,
        dtype=dtype,
        held_out_reward_model_share=held_out_reward_model_share,
    ).set_display_name("Reward Model Trainer")
    return RewardModelOutputs(
        reward_model=trainer.outputs["reward_model"],
        metrics=trainer.outputs["metrics"],
        preferences=data.outputs["preferences"],
        eval_preferences=data.outputs["eval_preferences"],
        preference_rows=data.outputs["preference_rows"],
    )


@dsl.pipeline(name="reinforcement-learning", description="Phase 2: raise the probability of good answers.")
def reinforcement_phase(
    reward_model: dsl.Input[dsl.Model],
    held_out_reward_model: dsl.Input[dsl.Model],
    prompt_dataset: str,
    eval_dataset: str,
    instruction: str,
    prompt_fingerprint: str,
    eval_fingerprint: str,
    large_model_reference: str,
    large_model_fingerprint: str,
    prompt_sequence_length: int,
    target_sequence_length: int,
    reinforcement_learning_rate_multiplier: float,
    reinforcement_learning_train_steps: int,
    kl_coeff: float,
    rl_algorithm: str,
    lora_dim: int,
    batch_size: int,
    num_generations: int,
    temperature: float,
    eval_prompts: int,
    seed: int,
    dtype: str,
    max_bad_rows: int,
    rollout_engine: str,
    watch_interval: int,
    watch_prompts: int,
    warm_start_adapter: str,
    warm_start_fingerprint: str,
) -> ReinforcementOutputs:
    """Import prompts and tune the policy on them."""
    data = import_prompt_dataset(
        prompt_dataset=prompt_dataset,
        eval_dataset=eval_dataset,
        instruction=instruction,
        prompt_fingerprint=prompt_fingerprint,
        eval_fingerprint=eval_fingerprint,
        eval_prompts=eval_prompts,
        seed=seed,
        max_bad_rows=max_bad_rows,
    ).set_display_name("Import Prompt Dataset")
    trainer = train_policy(
        prompts=data.outputs["prompts"],
        reward_model=reward_model,
        held_out_reward_model=held_out_reward_model,
        large_model_reference=large_model_reference,
        large_model_fingerprint=large_model_fingerprint,
        prompt_sequence_length=prompt_sequence_length,
        target_sequence_length=target_sequence_length,
        reinforcement_learning_rate_multiplier=reinforcement_learning_rate_multiplier,
        reinforcement_learning_train_steps=reinforcement_learning_train_steps,
        kl_coeff=kl_coeff,
        rl_algorithm=rl_algorithm,
        lora_dim=lora_dim,
        batch_size=batch_size,
        num_generations=num_generations,
        temperature=temperature,
        seed=seed,
        dtype=dtype,
        rollout_engine=rollout_engine,
        watch_interval=watch_interval,
        watch_prompts=watch_prompts,
        warm_start_adapter=warm_start_adapter,
        warm_start_fingerprint=warm_start_fingerprint,
    ).set_display_name("Reinforcer")
    return ReinforcementOutputs(
        model=trainer.outputs["model"],
        adapter=trainer.outputs["adapter"],
        evaluation_prompts=data.outputs["evaluation_prompts"],
    )
