"""Compare Methods: which way of tuning is worth what it costs, on the same data, prompts and judges?"""

from kfp import dsl

from rlhf_tuning.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def compare_methods(
    base_predictions: dsl.Input[dsl.Dataset],
    supervised_predictions: dsl.Input[dsl.Dataset],
    supervised_model: dsl.Input[dsl.Model],
    supervised_adapter: dsl.Input[dsl.Model],
    dpo_predictions: dsl.Input[dsl.Dataset],
    dpo_model: dsl.Input[dsl.Model],
    dpo_adapter: dsl.Input[dsl.Model],
    rlhf_predictions: dsl.Input[dsl.Dataset],
    rlhf_model: dsl.Input[dsl.Model],
    rlhf_adapter: dsl.Input[dsl.Model],
    reward_model: dsl.Input[dsl.Model],
    judging_reward_model: dsl.Input[dsl.Model],
    evaluation_prompts: dsl.Input[dsl.Dataset],
    choices: dsl.Input[dsl.Dataset],
    results: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    large_model_reference: str,
    labels: dict[str, str],
    large_model_fingerprint: str = "",
    best_of: int = 8,
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    inference_engine: str = "auto",
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
) -> None:
    """Hold each method's answers against each other's, and say in one sentence what to take.

    Args:
        base_predictions: The answers of the base model.
        supervised_predictions: Those of the model of supervised tuning, to the same prompts.
        supervised_model: That model, merged.
        supervised_adapter: The adapter, if any, with the settings and metrics of the training.
        dpo_predictions: Those of the model of preference tuning.
        dpo_model: That model.
        dpo_adapter: Likewise.
        rlhf_predictions: Those of the model of reinforcement learning.
        rlhf_model: That model.
        rlhf_adapter: Likewise.
        reward_model: What reinforcement learning has optimised, and best of n chooses by.
        judging_reward_model: A reward model that learnt from preferences of its own, and only judges.
        evaluation_prompts: The prompts, canonical.
        choices: Canonical preferences that nothing was trained on, to hold the judges against.
        results: JSON: all numbers.
        metrics: The win rate of each method against the base model, by the judge that decides.
        report: One self-contained HTML page.
        summary: The tables, for people.
        large_model_reference: The base model, to which KL is measured.
        labels: How people read the methods, by their names: supervised, dpo, rlhf.
        large_model_fingerprint: From Preprocess Inputs. When empty, kfp's cache goes by the model's name.
        best_of: From how many answers of the base model the one with the highest reward is chosen, to be compared too.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        temperature: At which the answers were sampled.
        seed: Of the trainings and of those answers.
        inference_engine: What samples them: own, vllm or auto.
        scorer: A program that knows the true quality, such as house_style for the sample; empty for none.
        judge: Language model that compares the answers: language_model, gemini or local_model; empty for none.
        judge_model: The language model that judges.
        judge_endpoint: Base URL of its server.
        judge_key_secret: Secret that holds the key of that server.
        judge_rubric: What a better answer is: text, or the name of a text file; a general rubric when empty.
        judge_max_calls: Most requests to the server, for all pairs of methods together.
        judge_max_cost: Most that they may cost, in the currency of judge_price; 0 for no limit.
        judge_price: What a million tokens cost there, of questions and answers.
        dtype: auto, float32 or bfloat16.
    """
    import json

    from rlhf_tuning.evaluation.evaluate import EvaluationConfig
    from rlhf_tuning.evaluation.method_comparison import BASE
    from rlhf_tuning.reports.method_comparison_run import BestOfN, Tuned, write_comparison
    from rlhf_tuning.step import running_step
    from rlhf_tuning.step_times import seconds_to

    made = {
        "supervised": (supervised_model, supervised_adapter, supervised_predictions),
        "dpo": (dpo_model, dpo_adapter, dpo_predictions),
        "rlhf": (rlhf_model, rlhf_adapter, rlhf_predictions),
    }
    inputs = [base_predictions, judging_reward_model, *(artifact for of_one in made.values() for artifact in of_one)]
    with running_step("Compare Methods", inputs=inputs, outputs=[results]):
        config = EvaluationConfig(
            large_model_reference=large_model_reference,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            temperature=temperature,
            seed=seed,
            inference_engine=inference_engine,
            scorer=scorer,
            judge=judge,
            judge_model=judge_model,
            judge_endpoint=judge_endpoint,
            judge_key_secret=judge_key_secret,
            judge_rubric=judge_rubric,
            judge_max_calls=judge_max_calls,
            judge_max_cost=judge_max_cost,
            judge_price=judge_price,
            dtype=dtype,
        )
        found = write_comparison(
            config,
            {
                name: Tuned(
                    label=labels[name],
                    model_dir=model.path,
                    adapter_dir=adapter.path,
                    predictions_path=predictions.path,
                    seconds=seconds_to(model.metadata),
                )
                for name, (model, adapter, predictions) in made.items()
            },
            BestOfN(samples=best_of, reward_model_dir=reward_model.path, seconds=seconds_to(reward_model.metadata)),
            base_predictions_path=base_predictions.path,
            prompts_path=evaluation_prompts.path,
            choices_path=choices.path,
            judging_reward_model_dir=judging_reward_model.path,
            data=json.loads(choices.metadata["divided"]),
            page=report.path,
            results=results.path,
            summary=summary.path,
        )
        for method in found.methods[1:]:
            if found.decisive:
                rate = found.decisive.duel(method.name, BASE).rate
                metrics.log_metric(f"{method.name}_win_rate", rate.rate)
