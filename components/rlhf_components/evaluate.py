"""Evaluate Tuned Model: is it better than the base, and how far has it moved?"""

from kfp import dsl

from rlhf_components.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def evaluate(
    base_predictions: dsl.Input[dsl.Dataset],
    tuned_predictions: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    adapter: dsl.Input[dsl.Model],
    reward_model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    large_model_reference: str,
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    temperature: float = 1.0,
    scorer: str = "",
    dtype: str = "auto",
) -> None:
    """Compare the tuned model's answers with the base model's, prompt by prompt.

    Args:
        base_predictions: The base model's answers.
        tuned_predictions: The tuned model's answers to the same prompts.
        model: The tuned model, merged.
        adapter: The policy's adapter, with the metrics of phase 2.
        reward_model: The reward model, with the metrics of phase 1.
        evaluation: JSON: the headline numbers, and every answer with its scores.
        metrics: The headline numbers.
        report: One self-contained HTML page.
        summary: What a person reads at the end of the run.
        large_model_reference: Base model.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        temperature: At which the answers were sampled.
        scorer: A program that knows the true quality, such as house_style for the sample; empty for none.
        dtype: auto, float32 or bfloat16.
    """
    from rlhf_tuning import evaluation as comparison
    from rlhf_tuning.run_report import data_sources, write_run_report
    from rlhf_tuning.step import running_step

    with running_step("Evaluate Tuned Model"):
        config = comparison.EvaluationConfig(
            large_model_reference=large_model_reference,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            temperature=temperature,
            scorer=scorer,
            dtype=dtype,
        )
        pairs = comparison.evaluate_policy(
            config,
            tuned_model_dir=model.path,
            reward_model_dir=reward_model.path,
            base_predictions_path=base_predictions.path,
            tuned_predictions_path=tuned_predictions.path,
        )
        numbers = comparison.write_evaluation(config, pairs, evaluation.path)
        comparison.write_summary(config, pairs, summary.path)
        write_run_report(
            pairs,
            scorer_name=comparison.scorer_name(scorer),
            reward_model_dir=reward_model.path,
            adapter_dir=adapter.path,
            data=data_sources(reward_model.metadata, model.metadata, base_predictions.metadata),
            path=report.path,
        )
        for name, value in numbers.items():
            metrics.log_metric(name, value)
