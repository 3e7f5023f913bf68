"""Reward Model Trainer: phase 1. And a second reward model, which nothing is optimised against."""

from typing import Optional

from kfp import dsl

from rlhf_tuning.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train_reward_model(
    preferences: dsl.Input[dsl.Dataset],
    eval_preferences: dsl.Input[dsl.Dataset],
    reward_model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    tensorboard: dsl.Output[dsl.Artifact],
    large_model_reference: str,
    large_model_fingerprint: str = "",
    preference_rows: Optional[dsl.Input[dsl.Dataset]] = None,
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    reward_model_learning_rate_multiplier: float = 1.0,
    reward_model_train_steps: int = 1000,
    reward_lora_dim: int = 16,
    batch_size: int = 64,
    seed: int = 0,
    dtype: str = "auto",
    held_out_reward_model_share: float = 0.0,
    held_out: bool = False,
    reward_model_max_epochs: float = 2.0,
    checkpoint_interval: float = 10.0,
    budget: str = "",
    start_model: Optional[dsl.Input[dsl.Artifact]] = None,
) -> None:
    """Learn from preferences, or feedback, a model that scores answers as the people did.

    Args:
        preferences: Canonical rows to learn from: preferences, feedback, or both.
        eval_preferences: Canonical rows of these kinds to measure on.
        reward_model: The adapter with its score head, or the whole model; with its metrics and its evaluation.
        metrics: Held-out accuracy with its interval, beside what "the longer answer wins" gets.
        classification: How well the scores tell the preferred answer from the other one, as a ROC curve.
        tensorboard: Event files; tag rank_loss as the Vertex job had it.
        large_model_reference: Base model of the reward model.
        large_model_fingerprint: From Preprocess Inputs. When empty, kfp's cache goes by the model's name.
        preference_rows: Which rows the dataset has; kept with the reward model, so that a recurring tune can count new ones.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        reward_model_learning_rate_multiplier: Times the base learning rate.
        reward_model_train_steps: Most optimizer steps; fewer where nothing more is learnt.
        reward_lora_dim: Rank of the LoRA adapter; 0 for full fine-tuning.
        batch_size: Preferences a step, on all GPUs together.
        seed: Of the head, the adapter and the order of the rows.
        dtype: auto, float32 or bfloat16, for frozen weights and matrix products.
        held_out_reward_model_share: Share of the prompts whose preferences only the held-out reward model learns from.
        reward_model_max_epochs: Most times that each preference is seen; 0 for no limit but the steps.
        checkpoint_interval: Minutes between checkpoints, by which a step that was stopped goes on; 0 for none.
        budget: From Validate Inputs: what the run may take, and its plan; empty for no limit.
        held_out: Train that one. With a share of 0 nothing is trained, and the output is empty.
        start_model: The folder that large_model_reference names after a supervised phase, for steps that share no storage:
            what is an input is fetched.
    """
    import shutil
    from pathlib import Path

    from rlhf_tuning.distributed import processes
    from rlhf_tuning.models.start_model import times_of
    from rlhf_tuning.planning.run_budget import step_budget
    from rlhf_tuning.registry import PREFERENCE_ROWS
    from rlhf_tuning.step import log_metrics, running_step, say
    from rlhf_tuning.training import reward_model as phase
    from rlhf_tuning.training.checkpoint_store import beside_the_runs

    step = "Held-out Reward Model Trainer" if held_out else "Reward Model Trainer"
    inputs = [preferences, *times_of(large_model_reference)]
    with running_step(step, inputs=inputs, outputs=[reward_model]) as clock:
        config = phase.RewardModelConfig(
            large_model_reference=large_model_reference,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            reward_model_learning_rate_multiplier=reward_model_learning_rate_multiplier,
            reward_model_train_steps=reward_model_train_steps,
            reward_lora_dim=reward_lora_dim,
            batch_size=batch_size,
            seed=seed,
            dtype=dtype,
            held_out_reward_model_share=held_out_reward_model_share,
            held_out=held_out,
            reward_model_max_epochs=reward_model_max_epochs,
            checkpoint_interval=checkpoint_interval,
            # Only differences of the held-out reward are looked at.
            centring_prompts=0 if held_out else phase.RewardModelConfig.centring_prompts,
        )
        if held_out and held_out_reward_model_share == 0:
            say("No held-out reward model, as held_out_reward_model_share says")
            Path(reward_model.path).mkdir(parents=True, exist_ok=True)
            return
        evaluation = processes.run(
            phase.train_reward_model,
            config,
            preferences_path=preferences.path,
            eval_preferences_path=eval_preferences.path,
            output_dir=reward_model.path,
            tensorboard_dir=tensorboard.path,
            checkpoint_dir=beside_the_runs(reward_model.path, reward_model.uri),
            budget=step_budget(budget, clock),
        )
        clock.earlier = evaluation.pop("seconds_before", 0.0)
        if preference_rows:
            shutil.copyfile(preference_rows.path, Path(reward_model.path) / PREFERENCE_ROWS)
        log_metrics(metrics, evaluation)
        if "roc" in evaluation:
            classification.log_roc_curve(**evaluation["roc"])
        reward_model.metadata.update(
            base_model=large_model_reference,
            base_model_fingerprint=large_model_fingerprint,
            preference_rows=preferences.metadata.get("rows", 0),
            preference_fingerprint=preferences.metadata.get("fingerprint", ""),
            seed=seed,
        )
