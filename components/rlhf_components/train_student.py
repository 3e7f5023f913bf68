"""Student Trainer: learn from a teacher, by its answers or on one's own."""

from typing import Optional

from kfp import dsl

from rlhf_tuning.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train_student(
    demonstrations: dsl.Input[dsl.Dataset],
    eval_demonstrations: dsl.Input[dsl.Dataset],
    adapter: dsl.Output[dsl.Model],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    tensorboard: dsl.Output[dsl.Artifact],
    large_model_reference: str,
    teacher_model_reference: str,
    large_model_fingerprint: str = "",
    teacher_fingerprint: str = "",
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
    on_policy: bool = False,
    on_policy_train_steps: int = 100,
    start_model: Optional[dsl.Input[dsl.Artifact]] = None,
) -> None:
    """Learn the teacher's answers; or answer oneself, and learn what the teacher would have said at every token.

    Args:
        demonstrations: Canonical demonstrations to learn from; with on_policy their prompts are answered.
        eval_demonstrations: Canonical demonstrations to measure on, likewise.
        adapter: The LoRA adapter, the metrics of the training, and the curve of what was measured on held-out ones.
        model: The student, merged, as plain transformers loads it.
        metrics: Held-out loss before and after, with intervals, and the steps that were taken.
        tensorboard: Event files.
        large_model_reference: The student; with on_policy what a supervised phase made of it.
        teacher_model_reference: From Preprocess Inputs: the teacher, which is loaded with on_policy.
        large_model_fingerprint: From Preprocess Inputs. When empty, kfp's cache goes by the model's name.
        teacher_fingerprint: From Preprocess Inputs, likewise of the teacher.
        evaluation_prompts: Prompts on which answers will be compared; where others are enough, these have no say in which
            checkpoint is returned.
        train_steps: Optimizer steps on the teacher's answers.
        learning_rate_multiplier: Times the base learning rate.
        evaluation_interval: Steps between measurements on held-out prompts.
        enable_early_stopping: Stop when what is measured was no lower than before in three measurements in a row.
        enable_checkpoint_selection: Return the checkpoint at which it was lowest (true, default), or the last one (false).
        lora_dim: Rank of the LoRA adapter; 0 for full fine-tuning.
        batch_size: Demonstrations, or prompts, a step, on all GPUs together.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        seed: Of the adapter, the order of the prompts, and the samples.
        dtype: auto, float32 or bfloat16, for frozen weights and matrix products.
        warm_start_adapter: Folder of the adapter that the training starts from; empty for a new one. With on_policy the
            supervised phase before did.
        warm_start_fingerprint: From Preprocess Inputs.
        checkpoint_interval: Minutes between checkpoints, by which a step that was stopped goes on; 0 for none.
        budget: From Validate Inputs: what the run may take, and its plan; empty for no limit.
        on_policy: Learn on the student's own answers, by the reverse KL to the teacher, and not from demonstrations.
        on_policy_train_steps: Optimizer steps then.
        start_model: The folder that large_model_reference names after a supervised phase, for steps that share no storage:
            what is an input is fetched.
    """
    from functools import partial

    from rlhf_tuning.distributed import processes
    from rlhf_tuning.models.start_model import times_of
    from rlhf_tuning.planning.run_budget import step_budget
    from rlhf_tuning.step import log_metrics, running_step
    from rlhf_tuning.training import distillation, supervised
    from rlhf_tuning.training.checkpoint_store import beside_the_runs

    inputs = [demonstrations, eval_demonstrations, *times_of(large_model_reference)]
    with running_step("Student Trainer", inputs=inputs, outputs=[adapter, model]) as clock:
        configure = (
            partial(
                distillation.DistillationConfig,
                teacher_model_reference=teacher_model_reference,
                on_policy_train_steps=on_policy_train_steps,
            )
            if on_policy
            else partial(supervised.SupervisedConfig, train_steps=train_steps, warm_start_adapter=warm_start_adapter)
        )
        config = configure(
            large_model_reference=large_model_reference,
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
            checkpoint_interval=checkpoint_interval,
        )
        found = processes.run(
            distillation.train_student if on_policy else supervised.train_supervised,
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
            "teacher_model": teacher_model_reference,
            "teacher_fingerprint": teacher_fingerprint,
            "demonstration_rows": demonstrations.metadata.get("rows", 0),
            "demonstration_fingerprint": demonstrations.metadata.get("fingerprint", ""),
            "seed": seed,
            "warm_start_fingerprint": warm_start_fingerprint,
        }
        adapter.metadata.update(made_from)
        model.metadata.update(made_from)
