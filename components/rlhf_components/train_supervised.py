"""Supervised Trainer: learn to answer as demonstrations do."""

from typing import Optional

from kfp import dsl

from rlhf_tuning.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train_supervised(
    demonstrations: dsl.Input[dsl.Dataset],
    eval_demonstrations: dsl.Input[dsl.Dataset],
    adapter: dsl.Output[dsl.Model],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    tensorboard: dsl.Output[dsl.Artifact],
    large_model_reference: str,
    large_model_fingerprint: str = "",
    evaluation_prompts: Optional[dsl.Input[dsl.Dataset]] = None,
    train_steps: int = 300,
    learning_rate_multiplier: float = 1.0,
    evaluation_interval: int = 20,
    enable_early_stopping: bool = True,
    enable_checkpoint_selection: str = "default",
    lora_dim: int = 16,
    batch_size: int = 64,
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    seed: int = 0,
    dtype: str = "auto",
    warm_start_adapter: str = "",
    warm_start_fingerprint: str = "",
    checkpoint_interval: float = 10.0,
    budget: str = "",
    is_start: bool = False,
) -> None:
    """Raise the probability of demonstrated answers, for as long as held-out ones become more probable too.

    Args:
        demonstrations: Canonical demonstrations to learn from.
        eval_demonstrations: Canonical demonstrations to measure on.
        adapter: The LoRA adapter, the metrics of the training, and the curve of the held-out loss.
        model: The tuned model, merged, as plain transformers loads it.
        metrics: Held-out loss and perplexity before and after, with intervals, and the steps that were taken.
        tensorboard: Event files.
        large_model_reference: Base model.
        large_model_fingerprint: From Preprocess Inputs. When empty, kfp's cache goes by the model's name.
        evaluation_prompts: Prompts on which answers will be compared; where others are enough, these have no say in which
            checkpoint is returned.
        train_steps: Optimizer steps.
        learning_rate_multiplier: Times the base learning rate.
        evaluation_interval: Steps between measurements of the held-out loss.
        enable_early_stopping: Stop when it was no lower than before in three measurements in a row.
        enable_checkpoint_selection: Return the checkpoint with the lowest held-out loss (true, default), or the last one
            (false).
        lora_dim: Rank of the LoRA adapter; 0 for full fine-tuning.
        batch_size: Demonstrations a step, on all GPUs together.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        seed: Of the adapter and the order of the demonstrations.
        dtype: auto, float32 or bfloat16, for frozen weights and matrix products.
        warm_start_adapter: Folder of the adapter that the training starts from; empty for a new one.
        warm_start_fingerprint: From Preprocess Inputs.
        checkpoint_interval: Minutes between checkpoints, by which a step that was stopped goes on; 0 for none.
        budget: From Validate Inputs: what the run may take, and its plan; empty for no limit.
        is_start: Whether another method starts from the model: then it holds the settings and metrics too, since later
            steps get nothing else.
    """
    from rlhf_tuning.distributed import processes
    from rlhf_tuning.models.start_model import keep_record
    from rlhf_tuning.planning.run_budget import step_budget
    from rlhf_tuning.step import log_metrics, running_step
    from rlhf_tuning.training import supervised
    from rlhf_tuning.training.checkpoint_store import beside_the_runs

    inputs = [demonstrations, eval_demonstrations]
    with running_step("Supervised Trainer", inputs=inputs, outputs=[adapter, model]) as clock:
        config = supervised.SupervisedConfig(
            large_model_reference=large_model_reference,
            train_steps=train_steps,
            learning_rate_multiplier=learning_rate_multiplier,
            evaluation_interval=evaluation_interval,
            enable_early_stopping=enable_early_stopping,
            enable_checkpoint_selection=enable_checkpoint_selection,
            lora_dim=lora_dim,
            batch_size=batch_size,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            seed=seed,
            dtype=dtype,
            warm_start_adapter=warm_start_adapter,
            checkpoint_interval=checkpoint_interval,
        )
        found = processes.run(
            supervised.train_supervised,
            config,
            demonstrations_path=demonstrations.path,
            eval_demonstrations_path=eval_demonstrations.path,
            adapter_dir=adapter.path,
            model_dir=model.path,
            tensorboard_dir=tensorboard.path,
            checkpoint_dir=beside_the_runs(adapter.path, adapter.uri),
            evaluation_prompts_path=evaluation_prompts.path if evaluation_prompts else "",
            budget=step_budget(budget, clock),
        )
        clock.earlier = found.pop("seconds_before", 0.0)
        log_metrics(metrics, found)
        made_from = {
            "base_model": large_model_reference,
            "base_model_fingerprint": large_model_fingerprint,
            "demonstration_rows": demonstrations.metadata.get("rows", 0),
            "demonstration_fingerprint": demonstrations.metadata.get("fingerprint", ""),
            "seed": seed,
            "warm_start_fingerprint": warm_start_fingerprint,
        }
        if is_start:
            keep_record(model.path, adapter_dir=adapter.path, made_from=made_from, times=clock.times())
        adapter.metadata.update(made_from)
        model.metadata.update(made_from)
