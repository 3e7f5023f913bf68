"""Reinforcer: phase 2."""

from typing import Optional

from kfp import dsl

from rlhf_tuning.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train_policy(
    prompts: dsl.Input[dsl.Dataset],
    adapter: dsl.Output[dsl.Model],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    tensorboard: dsl.Output[dsl.Artifact],
    large_model_reference: str,
    large_model_fingerprint: str = "",
    rewards: str = "",
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    reinforcement_learning_rate_multiplier: float = 1.0,
    reinforcement_learning_train_steps: int = 1000,
    kl_coeff: float = 0.1,
    rl_algorithm: str = "rloo",
    lora_dim: int = 16,
    batch_size: int = 64,
    num_generations: int = 4,
    temperature: float = 1.0,
    seed: int = 0,
    dtype: str = "auto",
    rollout_engine: str = "auto",
    warm_start_adapter: str = "",
    warm_start_fingerprint: str = "",
    watch_interval: int = 0,
    watch_prompts: int = 64,
    min_reward_model_accuracy: float = 0.5,
    max_kl: float = 200.0,
    num_iterations: int = 1,
    target_kl: float = 0.0,
    reward_clip_range: float = 0.0,
    missing_eos_penalty: float = 0.0,
    normalize_advantages: bool = False,
    dynamic_sampling: int = 0,
    checkpoint_interval: float = 10.0,
    budget: str = "",
    reward_model: Optional[dsl.Input[dsl.Model]] = None,
    held_out_reward_model: Optional[dsl.Input[dsl.Model]] = None,
    start_model: Optional[dsl.Input[dsl.Artifact]] = None,
) -> None:
    """Raise the probability of answers that are rewarded highly, near the base model.

    Args:
        prompts: Canonical prompt rows.
        adapter: The policy's LoRA adapter and its metrics.
        model: The tuned model, merged, as plain transformers loads it.
        metrics: The mean of the last tenth of the steps up to the checkpoint that is returned.
        tensorboard: Event files; tags reward and kl_loss as the Vertex job had them.
        large_model_reference: Base model.
        large_model_fingerprint: From Preprocess Inputs. When empty, kfp's cache goes by the model's name.
        rewards: Rewards of one's own, as a JSON list.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        reinforcement_learning_rate_multiplier: Times the base learning rate.
        reinforcement_learning_train_steps: Optimizer steps.
        kl_coeff: Reward given up for each nat of KL to the base model over an answer; 0 with max_kl 0 saves measuring it.
        rl_algorithm: rloo or grpo.
        lora_dim: Rank of the LoRA adapter; 0 for full fine-tuning.
        batch_size: Prompts a step, on all GPUs together.
        num_generations: Answers sampled to each prompt.
        temperature: Of the samples.
        seed: Of the adapter, the order of the prompts and the samples.
        dtype: auto, float32 or bfloat16, for frozen weights and matrix products.
        rollout_engine: What samples the answers: auto, lean (our decode loop) or transformers (its generate).
        warm_start_adapter: Folder of the adapter that the policy starts from; empty for a new one.
        warm_start_fingerprint: From Preprocess Inputs.
        watch_interval: Steps between looks of the watch over over-optimisation; 0 for a tenth of the steps.
        watch_prompts: Prompts set aside for the watch and not learnt from; 0 for no watch.
        min_reward_model_accuracy: What the reward model's held-out accuracy must be shown to exceed; 0 for no check.
        max_kl: Nats of KL to the base model over an answer, on average, past which the step fails; 0 for no limit.
        num_iterations: Steps that learn from each batch of samples.
        target_kl: Nats of KL over an answer to which kl_coeff adapts; 0 keeps it as it is.
        reward_clip_range: The sum of the rewards is held between minus this and this; 0 for no limit.
        missing_eos_penalty: Taken off the reward of an answer that was cut off.
        normalize_advantages: Give the advantages of each batch mean 0 and standard deviation 1.
        dynamic_sampling: Most times that a step's prompts whose answers all score the same are replaced by others; 0 for
            never.
        checkpoint_interval: Minutes between checkpoints, by which a step that was stopped goes on; 0 for none.
        budget: From Validate Inputs: what the run may take, and its plan; empty for no limit.
        reward_model: What the reward model trainer left; without one the rewards of one's own are all.
        held_out_reward_model: A reward model trained on other preferences, by which the watch stops the run and chooses the
            checkpoint; without one it draws curves only.
        start_model: The folder that large_model_reference names after a supervised phase, for steps that share no storage:
            what is an input is fetched.
    """
    from rlhf_tuning.distributed import processes
    from rlhf_tuning.models.reward_model import saved_better_than_chance
    from rlhf_tuning.models.start_model import times_of
    from rlhf_tuning.planning.run_budget import step_budget
    from rlhf_tuning.step import log_metrics, running_step
    from rlhf_tuning.training import reinforcement as phase
    from rlhf_tuning.training.checkpoint_store import beside_the_runs

    inputs = [prompts, reward_model, held_out_reward_model, *times_of(large_model_reference)]
    with running_step("Reinforcer", inputs=inputs, outputs=[adapter, model]) as clock:
        config = phase.ReinforcementConfig(
            large_model_reference=large_model_reference,
            rewards=rewards,
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
            warm_start_adapter=warm_start_adapter,
            watch_interval=watch_interval,
            watch_prompts=watch_prompts,
            min_reward_model_accuracy=min_reward_model_accuracy,
            max_kl=max_kl,
            num_iterations=num_iterations,
            target_kl=target_kl,
            reward_clip_range=reward_clip_range,
            missing_eos_penalty=missing_eos_penalty,
            normalize_advantages=normalize_advantages,
            dynamic_sampling=dynamic_sampling,
            checkpoint_interval=checkpoint_interval,
        )
        final = processes.run(
            phase.train_policy,
            config,
            prompts_path=prompts.path,
            reward_model_dir=reward_model.path if reward_model else "",
            adapter_dir=adapter.path,
            model_dir=model.path,
            tensorboard_dir=tensorboard.path,
            checkpoint_dir=beside_the_runs(adapter.path, adapter.uri),
            budget=step_budget(budget, clock),
            held_out_reward_model_dir=saved_better_than_chance(held_out_reward_model.path)
            if held_out_reward_model
            else "",
        )
        clock.earlier = final.pop("seconds_before", 0.0)
        log_metrics(metrics, final)
        made_from = {
            "base_model": large_model_reference,
            "base_model_fingerprint": large_model_fingerprint,
            "prompt_rows": prompts.metadata.get("rows", 0),
            "prompt_fingerprint": prompts.metadata.get("fingerprint", ""),
            "seed": seed,
            "warm_start_fingerprint": warm_start_fingerprint,
        }
        adapter.metadata.update(made_from)
        model.metadata.update(made_from)
