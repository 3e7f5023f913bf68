"""Validate Inputs: refuse bad parameters and bad data before anything is spent."""

from typing import NamedTuple, Optional

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def validate_inputs(
    data_report: dsl.Output[dsl.HTML],
    problems: dsl.Output[dsl.Dataset],
    bad_rows: dsl.Output[dsl.Dataset],
    prompt_dataset: str = "",
    preference_dataset: str = "",
    eval_dataset: str = "",
    dataset_uri: str = "",
    evaluation_data_uri: str = "",
    supervised_dataset: str = "",
    supervise_on_preferred: bool = False,
    feedback_dataset: str = "",
    instruction: str = "",
    default_context: str = "",
    large_model_reference: str = "",
    accelerator_type: str = "GPU",
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    reward_model_learning_rate_multiplier: float = 1.0,
    reinforcement_learning_rate_multiplier: float = 1.0,
    reward_model_train_steps: int = 1000,
    reinforcement_learning_train_steps: int = 1000,
    train_steps: int = 300,
    learning_rate_multiplier: float = 1.0,
    supervised_train_steps: int = 300,
    supervised_learning_rate_multiplier: float = 1.0,
    evaluation_interval: int = 20,
    enable_checkpoint_selection: str = "default",
    max_context_length: str = "",
    tuning_method: str = "tune_v2",
    beta: float = 0.1,
    epoch_count: float = 1.0,
    adapter_size: int = 16,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    rpo_alpha: float = 0.0,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    kl_coeff: float = 0.1,
    rl_algorithm: str = "rloo",
    lora_dim: int = 16,
    reward_lora_dim: int = 16,
    batch_size: int = 64,
    num_generations: int = 4,
    temperature: float = 1.0,
    seed: int = 0,
    eval_prompts: int = 200,
    scorer: str = "",
    judge: str = "",
    judge_model: str = "",
    judge_endpoint: str = "",
    judge_key_secret: str = "",
    judge_rubric: str = "",
    judge_max_calls: int = 1000,
    judge_max_cost: float = 0.0,
    judge_price: float = 0.0,
    dtype: str = "auto",
    max_bad_rows: int = 0,
    serving_machine: str = "",
    serving_endpoint: str = "dedicated",
    rollout_engine: str = "auto",
    inference_engine: str = "auto",
    held_out_reward_model_share: float = 0.25,
    watch_interval: int = 0,
    watch_prompts: int = 64,
    reward_model_max_epochs: float = 2.0,
    min_reward_model_accuracy: float = 0.5,
    max_kl: float = 200.0,
    dynamic_sampling: int = 0,
    num_iterations: int = 1,
    target_kl: float = 0.0,
    rewards: str = "",
    reward_clip_range: float = 0.0,
    missing_eos_penalty: float = 0.0,
    gate_win_rate_margin: float = 0.0,
    gate_reward_model_margin: float = 0.1,
    gate_min_prompts: int = 50,
    gate_min_judged_share: float = 0.8,
    gate_max_kl: float = 50.0,
    gate_max_length_ratio: float = 3.0,
    gate_max_equal_length_loss: float = 0.1,
    gate_max_judge_loss: float = 0.1,
    gate_max_unfinished_rise: float = 0.15,
    gate_max_empty_rise: float = 0.1,
    gate_max_repetitive_rise: float = 0.1,
    gate_max_refusal_rise: float = 0.1,
    teacher_model_reference: str = "",
    teacher: str = "local_model",
    teacher_endpoint: str = "",
    teacher_key_secret: str = "",
    teacher_max_calls: int = 10000,
    teacher_max_cost: float = 0.0,
    teacher_price: float = 0.0,
    keep_answers: bool = True,
    on_policy: bool = False,
    on_policy_train_steps: int = 100,
    preference_prompt_dataset: str = "",
    human_preference_dataset: str = "",
    task_type: str = "",
    sampling_strategy: str = "temperature_sampling",
    large_model_a_reference: str = "",
    large_model_b_reference: str = "",
    labelled_preferences: Optional[dsl.Input[dsl.Dataset]] = None,
    gate_max_regression: float = 0.1,
    regression_suite: str = "",
    tunes_on_preferences: bool = False,
    reward_model_reference: str = "",
    max_hours: float = 0.0,
    max_cost: float = 0.0,
    price_per_hour: float = 0.0,
    train_until_budget: bool = False,
    target: str = "",
    registry_dir: str = "",
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [
        ("prompt_fingerprint", str),
        ("preference_fingerprint", str),
        ("demonstration_fingerprint", str),
        ("eval_fingerprint", str),
        ("data_warnings", str),
        ("judge_rubric", str),
        ("rewards", str),
        ("held_out_fingerprint", str),
        ("preference_prompt_fingerprint", str),
        ("feedback_fingerprint", str),
        ("budget", str),
        ("regression_fingerprint", str),
        ("human_preference_fingerprint", str),
    ],
):
    """Read every row of every dataset, refuse bad ones, and fingerprint the content.

    Never cached: the content behind a path may change. Its fingerprints are arguments of every later step, so that those
    run again exactly when the content did change.

    Args:
        data_report: What is in the data, as one HTML page.
        problems: Every problem, one JSON object a line.
        bad_rows: The bad rows, as they stand in their files.
        prompt_dataset: Prompts without labels; empty when the pipeline uses none.
        preference_dataset: Human preferences; empty when the pipeline uses none.
        eval_dataset: Evaluation rows; empty for a held-out split.
        dataset_uri: Demonstrations to learn from; empty when the pipeline uses none.
        evaluation_data_uri: Demonstrations to measure on; empty for a held-out split.
        supervised_dataset: Demonstrations of a supervised phase before others; empty when there is none.
        supervise_on_preferred: Whether that phase learns the preferred answers instead.
        feedback_dataset: Answers with a label or a rating each; empty when the pipeline uses none.
        instruction: Put before every text prompt; the default context of chat rows.
        default_context: The same, of dataset_uri and evaluation_data_uri.
        large_model_reference: Base model, whose tokens are counted; empty to count characters.
        accelerator_type: Only GPU is supported.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        reward_model_learning_rate_multiplier: Times the base learning rate of phase 1.
        reinforcement_learning_rate_multiplier: Times the base learning rate of phase 2.
        reward_model_train_steps: Most optimizer steps of phase 1.
        reinforcement_learning_train_steps: Optimizer steps of phase 2.
        train_steps: Optimizer steps of supervised tuning.
        learning_rate_multiplier: Times the base learning rate of supervised tuning.
        supervised_train_steps: Optimizer steps of the supervised phase.
        supervised_learning_rate_multiplier: Times the base learning rate of the supervised phase.
        evaluation_interval: Steps between measurements of the held-out loss.
        enable_checkpoint_selection: Whether the best checkpoint is returned.
        max_context_length: Has no meaning; must be empty.
        tuning_method: Only tune_v2.
        beta: How strongly preference tuning holds the model to the base model.
        epoch_count: Times that preference tuning sees each preference.
        adapter_size: LoRA rank in preference tuning.
        loss_type: Loss of preference tuning.
        label_smoothing: Share of preferences that are taken to be the wrong way round.
        rpo_alpha: Weight of a supervised term on the chosen answers.
        desirable_weight: Weight of an answer that was liked.
        undesirable_weight: Weight of an answer that was not liked.
        kl_coeff: Strength of the KL penalty.
        rl_algorithm: rloo or grpo.
        lora_dim: LoRA rank of the policy.
        reward_lora_dim: LoRA rank of the reward model.
        batch_size: Rows a step.
        num_generations: Answers sampled to each prompt.
        temperature: Of the samples.
        seed: Of every random choice.
        eval_prompts: Most prompts to hold out.
        scorer: A program that knows the true quality.
        judge: Kind of language model that compares answers.
        judge_model: The language model that judges.
        judge_endpoint: Base URL of its server.
        judge_key_secret: Secret that holds the key of that server; read here to end the run early if it cannot be.
        judge_rubric: What a better answer is: text, or the name of a text file.
        judge_max_calls: Most requests to the server.
        judge_max_cost: Most that they may cost, in the currency of judge_price; 0 for no limit.
        judge_price: What a million tokens cost there, of questions and answers.
        dtype: auto, float32 or bfloat16.
        max_bad_rows: So many bad rows of each dataset are set aside.
        serving_machine: What the tuned model is to be served on; the cheapest that it fits on when empty.
        serving_endpoint: What a new endpoint on Vertex is: dedicated or shared.
        rollout_engine: What samples answers in training.
        inference_engine: What samples answers in bulk.
        held_out_reward_model_share: Share of the preferences' prompts for the held-out reward model.
        watch_interval: Steps between looks of the watch.
        watch_prompts: Prompts of the watch.
        reward_model_max_epochs: Most times that the reward model sees each preference.
        min_reward_model_accuracy: What the reward model's accuracy must be shown to exceed.
        max_kl: Nats of KL past which reinforcement learning fails.
        dynamic_sampling: Most times that prompts of a step are replaced by others.
        num_iterations: Steps that learn from each batch of samples.
        target_kl: Nats of KL to which kl_coeff adapts.
        rewards: Rewards of one's own beside the reward model.
        reward_clip_range: What the sum of the rewards is held within.
        missing_eos_penalty: Taken off the reward of an answer that was cut off.
        gate_win_rate_margin: Win rate beyond one half that a promotion takes.
        gate_reward_model_margin: The same where a reward model judges.
        gate_min_prompts: Fewest prompts with a verdict for a promotion.
        gate_min_judged_share: Least share of the pairs that a judge must have judged.
        gate_max_kl: Most nats of KL for a promotion.
        gate_max_length_ratio: Most that answers may grow or shrink for a promotion.
        gate_max_equal_length_loss: Win rate below one half to rule out at equal length.
        gate_max_judge_loss: Win rate below one half to rule out by the other judges.
        gate_max_unfinished_rise: Rise of unfinished answers to rule out.
        gate_max_empty_rise: Rise of empty answers to rule out.
        gate_max_repetitive_rise: Rise of repetitive answers to rule out.
        gate_max_refusal_rise: Rise of refusals to rule out.
        gate_max_regression: Fall of the share of the regression suite that passes to rule out.
        regression_suite: General prompts on which the tuned model may not be worse than the base model.
        teacher_model_reference: The teacher of a distillation, that answers the prompts of dataset_uri; empty where there is
            none.
        teacher: Where it is: local_model, language_model or gemini.
        teacher_endpoint: Base URL of its server.
        teacher_key_secret: Secret that holds the key of that server; read here to end the run early if it cannot be.
        teacher_max_calls: Most requests to that server.
        teacher_max_cost: Most that they may cost.
        teacher_price: What a million tokens cost there.
        keep_answers: Whether answers that rows bring are kept.
        on_policy: Whether the student learns on its own answers afterwards, for which the teacher must have its tokens.
        on_policy_train_steps: Optimizer steps that it does so for.
        preference_prompt_dataset: Prompts whose answers a judge is to compare; empty when the pipeline uses none.
        human_preference_dataset: Human preferences that say what the judge is worth; empty for none.
        task_type: What these prompts ask for: the rubric where none is given.
        sampling_strategy: How they are answered.
        large_model_a_reference: The first model that answers them.
        large_model_b_reference: The second one.
        labelled_preferences: From Label Preferences, in the place of preference_dataset.
        tunes_on_preferences: Whether a model is tuned on preferences or feedback, and not on a reward learnt from them.
        reward_model_reference: Base model of the reward model; empty for the policy's own.
        max_hours: Hours that the steps of the run may take together; 0 for no limit.
        max_cost: What they may cost; 0 for no limit.
        price_per_hour: What the machine that trains costs, in the currency of max_cost.
        train_until_budget: Whether the run begins though its forecast exceeds that.
        target: Where the run registers its model; into the local registry, which is checked, where it is local.
        registry_dir: Folder of that registry; its default place when empty.

    Returns:
        prompt_fingerprint: Fingerprint of the prompts' content.
        preference_fingerprint: Fingerprint of the preferences' content.
        demonstration_fingerprint: Fingerprint of the demonstrations' content.
        eval_fingerprint: Fingerprint of the evaluation rows' content.
        data_warnings: What is wrong with valid data, a line each.
        judge_rubric: What a better answer is, in words, as the content behind a name may change; empty without a judge.
        rewards: Rewards of one's own with the content of the files that they name, likewise.
        held_out_fingerprint: Fingerprint of the prompts where some are held out; empty where an evaluation dataset is given,
            so that other prompts do not have phase 1 done again.
        preference_prompt_fingerprint: Fingerprint of the content of the prompts that a judge's preferences are for.
        feedback_fingerprint: Fingerprint of the feedback's content.
        budget: What the run may take and its plan, by which every training ends in time; empty where there is no limit.
        regression_fingerprint: Fingerprint of the regression suite's content; empty without one.
        human_preference_fingerprint: Fingerprint of the content of the preferences that say what the judge is worth.
    """
    from dataclasses import asdict
    from pathlib import Path

    from rlhf_tuning import environment
    from rlhf_tuning.evaluation.judges import check_judge, check_server
    from rlhf_tuning.evaluation.judges.role import TEACHER
    from rlhf_tuning.evaluation.regression_suite import check_suite
    from rlhf_tuning.labelling.tasks import check_labelling, task_rubric
    from rlhf_tuning.labelling.teacher import check_teacher
    from rlhf_tuning.limits import (
        check_exploration,
        check_label_smoothing,
        check_limits,
        check_preferences,
        check_samples,
        check_target_kl,
        check_weights,
    )
    from rlhf_tuning.parameters import Value
    from rlhf_tuning.planning.run_budget import check_run
    from rlhf_tuning.registry import check_writable
    from rlhf_tuning.rewards import check_access, read_rewards
    from rlhf_tuning.step import running_step
    from rlhf_tuning.validation import ValidationConfig, validate_data

    preference_dataset = labelled_preferences.path if labelled_preferences else preference_dataset
    with running_step("Validate Inputs"):
        settings: dict[str, Value] = {
            "accelerator_type": accelerator_type,
            "reward_model_learning_rate_multiplier": reward_model_learning_rate_multiplier,
            "reinforcement_learning_rate_multiplier": reinforcement_learning_rate_multiplier,
            "learning_rate_multiplier": learning_rate_multiplier,
            "supervised_learning_rate_multiplier": supervised_learning_rate_multiplier,
            "evaluation_interval": evaluation_interval,
            "enable_checkpoint_selection": enable_checkpoint_selection,
            "max_context_length": max_context_length,
            "tuning_method": tuning_method,
            "beta": beta,
            "epoch_count": epoch_count,
            "adapter_size": adapter_size,
            "loss_type": loss_type,
            "label_smoothing": label_smoothing,
            "rpo_alpha": rpo_alpha,
            "desirable_weight": desirable_weight,
            "undesirable_weight": undesirable_weight,
            "kl_coeff": kl_coeff,
            "rl_algorithm": rl_algorithm,
            "lora_dim": lora_dim,
            "reward_lora_dim": reward_lora_dim,
            "num_generations": num_generations,
            "temperature": temperature,
            "seed": seed,
            "scorer": scorer,
            "sampling_strategy": sampling_strategy,
            "on_policy_train_steps": on_policy_train_steps,
            "teacher_max_cost": teacher_max_cost,
            "teacher_price": teacher_price,
            "dtype": dtype,
            "serving_machine": serving_machine,
            "serving_endpoint": serving_endpoint,
            "rollout_engine": rollout_engine,
            "inference_engine": inference_engine,
            "watch_interval": watch_interval,
            "min_reward_model_accuracy": min_reward_model_accuracy,
            "max_kl": max_kl,
            "dynamic_sampling": dynamic_sampling,
            "num_iterations": num_iterations,
            "target_kl": target_kl,
            "reward_clip_range": reward_clip_range,
            "missing_eos_penalty": missing_eos_penalty,
            "gate_win_rate_margin": gate_win_rate_margin,
            "gate_reward_model_margin": gate_reward_model_margin,
            "gate_min_prompts": gate_min_prompts,
            "gate_min_judged_share": gate_min_judged_share,
            "gate_max_kl": gate_max_kl,
            "gate_max_length_ratio": gate_max_length_ratio,
            "gate_max_equal_length_loss": gate_max_equal_length_loss,
            "gate_max_judge_loss": gate_max_judge_loss,
            "gate_max_unfinished_rise": gate_max_unfinished_rise,
            "gate_max_empty_rise": gate_max_empty_rise,
            "gate_max_repetitive_rise": gate_max_repetitive_rise,
            "gate_max_refusal_rise": gate_max_refusal_rise,
            "gate_max_regression": gate_max_regression,
            "regression_suite": regression_suite,
            "max_hours": max_hours,
            "max_cost": max_cost,
            "price_per_hour": price_per_hour,
            "train_until_budget": train_until_budget,
            "reward_model_reference": reward_model_reference,
        }
        check_limits(**settings)
        check_label_smoothing(label_smoothing=label_smoothing, loss_type=loss_type)
        if tunes_on_preferences:
            check_preferences(
                preference_dataset=preference_dataset,
                feedback_dataset=feedback_dataset,
                loss_type=loss_type,
                supervise_on_preferred=supervise_on_preferred,
            )
            check_weights(
                loss_type=loss_type,
                rpo_alpha=rpo_alpha,
                desirable_weight=desirable_weight,
                undesirable_weight=undesirable_weight,
                batch_size=batch_size,
            )
        if prompt_dataset and (preference_dataset or preference_prompt_dataset or rewards):
            check_exploration(temperature)
            check_target_kl(target_kl=target_kl, kl_coeff=kl_coeff)
        elif (tunes_on_preferences or dataset_uri) and not teacher_model_reference:
            check_samples(temperature)
        for_task = task_rubric(task_type) if judge else ""
        rubric = check_judge(
            judge=judge,
            judge_model=judge_model,
            judge_endpoint=judge_endpoint,
            judge_key_secret=judge_key_secret,
            judge_rubric=judge_rubric or for_task,
            judge_max_calls=judge_max_calls,
            judge_max_cost=judge_max_cost,
            judge_price=judge_price,
        )
        check_server(judge, judge_key_secret)
        if teacher_model_reference:
            check_teacher(
                teacher=teacher,
                teacher_endpoint=teacher_endpoint,
                teacher_key_secret=teacher_key_secret,
                teacher_max_cost=teacher_max_cost,
                teacher_price=teacher_price,
            )
            TEACHER.key(teacher_key_secret)
        if preference_prompt_dataset:
            base = large_model_reference
            check_labelling(
                judge=judge,
                scorer=scorer,
                sampling_strategy=sampling_strategy,
                temperature=temperature,
                same=(large_model_a_reference or base) == (large_model_b_reference or base),
            )
        regression_fingerprint = check_suite(
            regression_suite,
            judge=judge,
            gate_max_regression=gate_max_regression,
            gate_max_judge_loss=gate_max_judge_loss,
        )
        rewards = read_rewards(rewards)
        check_access(rewards)
        if target == "local":
            check_writable(Path(registry_dir).expanduser() if registry_dir else None)
        # It counts by the choices of people that it is held against, of which feedback has none.
        held_out_judges = held_out_reward_model_share and (preference_dataset or eval_dataset or not feedback_dataset)
        config = ValidationConfig(
            prompt_dataset=prompt_dataset,
            preference_dataset=preference_dataset,
            eval_dataset=eval_dataset,
            dataset_uri=dataset_uri,
            evaluation_data_uri=evaluation_data_uri,
            supervised_dataset=supervised_dataset,
            supervise_on_preferred=supervise_on_preferred,
            feedback_dataset=feedback_dataset,
            instruction=instruction,
            default_context=default_context,
            large_model_reference=large_model_reference,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            reward_model_train_steps=reward_model_train_steps,
            reinforcement_learning_train_steps=reinforcement_learning_train_steps,
            train_steps=train_steps,
            supervised_train_steps=supervised_train_steps,
            batch_size=batch_size,
            eval_prompts=eval_prompts,
            watch_prompts=watch_prompts,
            held_out_reward_model_share=held_out_reward_model_share,
            reward_model_max_epochs=reward_model_max_epochs,
            max_bad_rows=max_bad_rows,
            gate_min_prompts=gate_min_prompts,
            teacher_model_reference=teacher_model_reference,
            teacher=teacher,
            teacher_max_calls=teacher_max_calls,
            keep_answers=keep_answers,
            on_policy=on_policy,
            registry_dir=registry_dir,
            preference_prompt_dataset=preference_prompt_dataset,
            human_preference_dataset=human_preference_dataset,
            tunes_on_preferences=tunes_on_preferences,
            rewards=rewards,
            epoch_count=epoch_count,
            independent_judge=bool(scorer or judge or held_out_judges or dataset_uri),
            rewards_judge=bool(rewards) and not (preference_dataset or feedback_dataset or scorer),
        )
        check = validate_data(
            config, report_path=data_report.path, problems_path=problems.path, bad_rows_path=bad_rows.path
        )
        data_report.metadata.update(
            prompt_fingerprint=check.prompt_fingerprint,
            preference_fingerprint=check.preference_fingerprint,
            demonstration_fingerprint=check.demonstration_fingerprint,
            feedback_fingerprint=check.feedback_fingerprint,
            eval_fingerprint=check.eval_fingerprint,
            warnings=len(check.warnings),
        )
        budget = check_run(
            settings | asdict(config), machine=environment.MACHINE, tunes_on_preferences=tunes_on_preferences
        )
    told = [*check.warnings, *([labelled_preferences.metadata["warning"]] if labelled_preferences else [])]
    warnings = "\n".join(told)
    held_out = "" if eval_dataset else check.prompt_fingerprint
    return (
        check.prompt_fingerprint,
        check.preference_fingerprint,
        check.demonstration_fingerprint,
        check.eval_fingerprint,
        warnings,
        rubric,
        rewards,
        held_out,
        check.preference_prompt_fingerprint,
        check.feedback_fingerprint,
        budget,
        regression_fingerprint,
        check.human_preference_fingerprint,
    )
