"""Evaluate Tuned Model: is it better than the base, and how far has it moved?"""

from typing import Optional

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
    eval_preferences: Optional[dsl.Input[dsl.Dataset]] = None,
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    temperature: float = 1.0,
    scorer: str = "",
    judge: str = "",
    judge_model: str = "",
    judge_endpoint: str = "",
    judge_rubric: str = "",
    judge_max_calls: int = 1000,
    dtype: str = "auto",
) -> None:
    """Compare the tuned model's answers with the base model's, prompt by prompt.

    Args:
        base_predictions: The base model's answers.
        tuned_predictions: The tuned model's answers to the same prompts.
        model: The tuned model, merged.
        adapter: The policy's adapter, with the metrics of phase 2.
        reward_model: The reward model, with the metrics of phase 1.
        evaluation: JSON: the headline numbers, the judges, and every answer with its scores.
        metrics: The headline numbers.
        report: One self-contained HTML page.
        summary: What a person reads at the end of the run.
        large_model_reference: Base model.
        eval_preferences: Canonical preference rows that were held out of training, to score every judge by.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        temperature: At which the answers were sampled.
        scorer: A program that knows the true quality, such as house_style for the sample; empty for none.
        judge: Language model that compares the answers: language_model (any OpenAI-compatible server), gemini, or
            local_model; empty for none. Its key is the environment variable RLHF_JUDGE_API_KEY.
        judge_model: The language model that judges.
        judge_endpoint: Base URL of the server, such as https://api.openai.com/v1; another than Google's for gemini.
        judge_rubric: What a better answer is: text, or the name of a text file; a general rubric when empty.
        judge_max_calls: Most requests to the server, repeated ones included.
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
            judge=judge,
            judge_model=judge_model,
            judge_endpoint=judge_endpoint,
            judge_rubric=judge_rubric,
            judge_max_calls=judge_max_calls,
            dtype=dtype,
        )
        pairs, judges = comparison.evaluate_policy(
            config,
            judges=comparison.judges_of(config, reward_model_dir=reward_model.path),
            tuned_model_dir=model.path,
            base_predictions_path=base_predictions.path,
            tuned_predictions_path=tuned_predictions.path,
            eval_preferences_path=eval_preferences.path if eval_preferences else "",
        )
        numbers = comparison.write_evaluation(config, pairs, evaluation.path, judges=judges)
        comparison.write_summary(config, pairs, summary.path, judges=judges)
        write_run_report(
            pairs,
            scorer_name=comparison.scorer_name(scorer),
            reward_model_dir=reward_model.path,
            adapter_dir=adapter.path,
            data=data_sources(reward_model.metadata, model.metadata, base_predictions.metadata),
            path=report.path,
            judges=judges,
        )
        for name, value in numbers.items():
            metrics.log_metric(name, value)
