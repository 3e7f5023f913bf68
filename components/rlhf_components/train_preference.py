"""Preference Trainer: learn what people prefer without a reward model and without sampling."""

from typing import Optional

from kfp import dsl

from rlhf_tuning.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train_preference(
    preferences: dsl.Input[dsl.Dataset],
    eval_preferences: dsl.Input[dsl.Dataset],
    adapter: dsl.Output[dsl.Model],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    tensorboard: dsl.Output[dsl.Artifact],
    large_model_reference: str,
    large_model_fingerprint: str = "",
    preference_rows: Optional[dsl.Input[dsl.Dataset]] = None,
    evaluation_prompts: Optional[dsl.Input[dsl.Dataset]] = None,
    beta: float = 0.1,
    epoch_count: float = 1.0,
    learning_rate_multiplier: float = 1.0,
    adapter_size: int = 16,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    rpo_alpha: float = 0.0,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    enable_early_stopping: bool = True,
    enable_checkpoint_selection: str = "default",
    batch_size: int = 64,
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    dtype: str = "auto",
    warm_start_adapter: str = "",
    warm_start_fingerprint: str = "",
    held_out_reward_model_share: float = 0.0,
    watch_prompts: int = 64,
    checkpoint_interval: float = 10.0,
    budget: str = "",
    start_model: Optional[dsl.Input[dsl.Artifact]] = None,
) -> None:
    """Have chosen answers gain more than rejected ones, or liked ones more than others, as long as held-out ones do so too.

    Args:
        preferences: Canonical preference rows to learn from; with loss_type kto those of feedback.
        eval_preferences: Canonical rows of that kind to measure on.
        adapter: The LoRA adapter, the metrics of the training, and what became of held-out preferences.
        model: The tuned model, merged, as plain transformers loads it.
        metrics: What held-out preferences say of it: loss, accuracy, margin, how much likelier the answers became.
        tensorboard: Event files.
        large_model_reference: Base model, or what a supervised phase made of it; it is the reference as well.
        large_model_fingerprint: From Preprocess Inputs. When empty, kfp's cache goes by the model's name.
        preference_rows: Which rows the dataset has; kept with the adapter, so that a recurring tune can count new ones.
        evaluation_prompts: Prompts on which answers will be compared; where others are enough, these have no say in which
            checkpoint is returned.
        beta: How strongly the model is held to the base model.
        epoch_count: Times that each preference is seen, unless nothing more is learnt.
        learning_rate_multiplier: Times the base learning rate.
        adapter_size: Rank of the LoRA adapter; 0 for full fine-tuning.
        loss_type: sigmoid, sigmoid_norm, hinge, ipo or robust; kto of feedback.
        label_smoothing: Share of preferences that are taken to be the wrong way round, for loss_type robust.
        rpo_alpha: Weight of a supervised term on the chosen answers; 0 for none.
        desirable_weight: Weight of an answer that was liked, for loss_type kto.
        undesirable_weight: Weight of an answer that was not liked, for loss_type kto.
        enable_early_stopping: Stop when the loss on held-out preferences has not fallen for an epoch.
        enable_checkpoint_selection: Return the checkpoint with the lowest such loss (true, default), or the last (false).
        batch_size: Preferences a step, on all GPUs together.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        temperature: Of the answers that are sampled now and then.
        seed: Of the adapter, the order of the preferences and the samples.
        dtype: auto, float32 or bfloat16, for frozen weights and matrix products.
        warm_start_adapter: Folder of the adapter that the training starts from; empty for a new one.
        warm_start_fingerprint: From Preprocess Inputs.
        held_out_reward_model_share: Share of the prompts whose preferences only the held-out reward model learns from.
        watch_prompts: Held-out prompts answered now and then; 0 for none.
        checkpoint_interval: Minutes between checkpoints, by which a step that was stopped goes on; 0 for none.
        start_model: The folder that large_model_reference names after a supervised phase, for steps that share no storage:
            what is an input is fetched.
        budget: From Validate Inputs: what the run may take, and its plan; empty for no limit.
    """
    import shutil
    from pathlib import Path

    from rlhf_tuning.distributed import processes
    from rlhf_tuning.models.start_model import times_of
    from rlhf_tuning.planning.run_budget import step_budget
    from rlhf_tuning.registry import PREFERENCE_ROWS
    from rlhf_tuning.step import log_metrics, running_step
    from rlhf_tuning.training import kto, preference
    from rlhf_tuning.training.checkpoint_store import beside_the_runs

    inputs = [preferences, eval_preferences, *times_of(large_model_reference)]
    with running_step("Preference Trainer", inputs=inputs, outputs=[adapter, model]) as clock:
        config = preference.PreferenceConfig(
            large_model_reference=large_model_reference,
            beta=beta,
            epoch_count=epoch_count,
            learning_rate_multiplier=learning_rate_multiplier,
            adapter_size=adapter_size,
            loss_type=loss_type,
            label_smoothing=label_smoothing,
            rpo_alpha=rpo_alpha,
            desirable_weight=desirable_weight,
            undesirable_weight=undesirable_weight,
            enable_early_stopping=enable_early_stopping,
            enable_checkpoint_selection=enable_checkpoint_selection,
            batch_size=batch_size,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            temperature=temperature,
            seed=seed,
            dtype=dtype,
            warm_start_adapter=warm_start_adapter,
            held_out_reward_model_share=held_out_reward_model_share,
            watch_prompts=watch_prompts,
            checkpoint_interval=checkpoint_interval,
        )
        found = processes.run(
            kto.train_on_feedback if loss_type == "kto" else preference.train_on_preferences,
            config,
            preferences_path=preferences.path,
            eval_preferences_path=eval_preferences.path,
            adapter_dir=adapter.path,
            model_dir=model.path,
            tensorboard_dir=tensorboard.path,
            checkpoint_dir=beside_the_runs(adapter.path, adapter.uri),
            evaluation_prompts_path=evaluation_prompts.path if evaluation_prompts else "",
            budget=step_budget(budget, clock),
        )
        clock.earlier = found.pop("seconds_before", 0.0)
        if preference_rows:
            shutil.copyfile(preference_rows.path, Path(adapter.path) / PREFERENCE_ROWS)
        log_metrics(metrics, found)
        learnt = "feedback" if loss_type == "kto" else "preference"
        made_from = {
            "base_model": large_model_reference,
            "base_model_fingerprint": large_model_fingerprint,
            f"{learnt}_rows": preferences.metadata.get("rows", 0),
            f"{learnt}_fingerprint": preferences.metadata.get("fingerprint", ""),
            "seed": seed,
            "warm_start_fingerprint": warm_start_fingerprint,
        }
        adapter.metadata.update(made_from)
        model.metadata.update(made_from)
