"""Evaluate Tuned Model: is it better than the champion, how far has it moved, may it take the champion's place?"""

from typing import NamedTuple, Optional

from kfp import dsl

from rlhf_tuning.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def evaluate(
    champion_predictions: dsl.Input[dsl.Dataset],
    tuned_predictions: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    adapter: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    decision: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    large_model_reference: str,
    reward_model: Optional[dsl.Input[dsl.Model]] = None,
    held_out_reward_model: Optional[dsl.Input[dsl.Model]] = None,
    eval_preferences: Optional[dsl.Input[dsl.Dataset]] = None,
    eval_demonstrations: Optional[dsl.Input[dsl.Dataset]] = None,
    start_model: Optional[dsl.Input[dsl.Artifact]] = None,
    base_model_reference: str = "",
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    inference_engine: str = "auto",
    scorer: str = "",
    true_rewards: str = "",
    judge: str = "",
    judge_model: str = "",
    judge_endpoint: str = "",
    judge_key_secret: str = "",
    judge_rubric: str = "",
    judge_max_calls: int = 1000,
    judge_max_cost: float = 0.0,
    judge_price: float = 0.0,
    dtype: str = "auto",
    champion: str = "",
    earlier_tries: int = 0,
    champion_reference: str = "",
    data_warnings: str = "",
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
    gate_max_regression: float = 0.1,
    regression_suite: str = "",
    regression_fingerprint: str = "",
    require_approval: bool = False,
) -> NamedTuple("Outputs", [("promote", bool)]):  # type: ignore[valid-type]
    """Compare the tuned model's answers with the champion's, prompt by prompt, and decide which is champion from now on.

    Args:
        champion_predictions: The answers of the champion; before the first one, of the base model.
        tuned_predictions: The tuned model's answers to the same prompts.
        model: The tuned model, merged.
        adapter: The adapter, if any, with the settings and metrics of the training.
        evaluation: JSON: the headline numbers, the judges, and every answer with its scores.
        decision: JSON: whether the tuned model is promoted, and each condition with its value, its limit, and what would
            change it.
        metrics: The headline numbers.
        report: One self-contained HTML page.
        summary: What a person reads at the end of the run.
        large_model_reference: The model that the training started from, to which KL is measured.
        reward_model: The reward model, with the metrics of phase 1, where the method learnt from one.
        held_out_reward_model: A reward model that learnt from other preferences and was never optimised against.
        eval_preferences: Canonical preference rows that were held out of training, to score every judge by.
        eval_demonstrations: Canonical demonstrations that were held out of training: how probable either model finds their
            answers, where the method learnt from such.
        start_model: The folder that large_model_reference names after a supervised phase, for steps that share no storage:
            what is an input is fetched.
        base_model_reference: The base model, where a supervised phase made another of it: then that one and the base model
            are compared too.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        temperature: At which the answers were sampled.
        seed: Of those answers.
        inference_engine: What samples them: own, vllm or auto.
        scorer: A program that knows the true quality, such as house_style for the sample; empty for none.
        true_rewards: Rewards that say what a good answer is, and judge where no scorer does, as a JSON list; empty for none.
        judge: Language model that compares the answers: language_model (any OpenAI-compatible server), gemini, or
            local_model; empty for none.
        judge_model: The language model that judges.
        judge_endpoint: Base URL of the server, such as https://api.openai.com/v1; another than Google's for gemini.
        judge_key_secret: Secret of Google's Secret Manager that holds the key, projects/P/secrets/S/versions/V; the
            environment variable RLHF_JUDGE_API_KEY when empty.
        judge_rubric: What a better answer is: text, or the name of a text file; a general rubric when empty.
        judge_max_calls: Most requests to the server, repeated ones included.
        judge_max_cost: Most that they may cost, in the currency of judge_price; 0 for no limit.
        judge_price: What a million tokens cost there, of questions and answers.
        dtype: auto, float32 or bfloat16.
        champion: From Find Champion.
        earlier_tries: From Find Champion; each makes the proof that is asked for stricter.
        champion_reference: From Find Champion: its weights, by which demonstrations are measured; the base model when empty.
        data_warnings: From Validate Inputs; shown in the report.
        gate_win_rate_margin: Win rate beyond one half that must be shown.
        gate_reward_model_margin: The same where only the held-out reward model judges; the larger of the two counts.
        gate_min_prompts: Fewest prompts with a verdict.
        gate_min_judged_share: Least share of the pairs that a judge must have judged.
        gate_max_kl: Most nats of that KL over an answer, on average; 0 for no limit.
        gate_max_length_ratio: Most that the mean length may grow or shrink, as a factor; 0 for no limit. It is held against
            the supervised model's where there is one.
        gate_max_equal_length_loss: Win rate below one half to rule out, had all answers been equally long; 0 for no limit.
        gate_max_judge_loss: Win rate below one half to rule out by each other judge that people agree with; 0 for no limit.
        gate_max_unfinished_rise: Rise of the share of answers cut at the length limit to rule out; 0 for no limit.
        gate_max_empty_rise: Rise of the share of empty answers to rule out; 0 for no limit.
        gate_max_repetitive_rise: Rise of the share of repetitive answers to rule out; 0 for no limit.
        gate_max_refusal_rise: Rise of the share of refusals to rule out, unless people prefer them; 0 for no limit.
        gate_max_regression: Fall of the share of the regression suite that passes to rule out; 0 for no limit.
        regression_suite: General prompts on which the tuned model may not be worse than the base model: general for ours, or
            a file of one's own; empty for none.
        regression_fingerprint: From Validate Inputs: changes with the content of that suite, for the cache.
        require_approval: Whether a person approves what the gate promotes, which the report then says.

    Returns:
        promote: Whether the gate lets the tuned model take the champion's place.
    """
    from rlhf_tuning.evaluation import evaluate as comparison
    from rlhf_tuning.evaluation.beside_teacher import Teacher, size_of
    from rlhf_tuning.evaluation.export_check import check_export, condition_of
    from rlhf_tuning.evaluation.gate import decision_text
    from rlhf_tuning.evaluation.phase_answers import answer_before
    from rlhf_tuning.evaluation.phase_gains import SUPERVISED, gains_text, sizes_text
    from rlhf_tuning.evaluation.regression_answers import answer_suite
    from rlhf_tuning.models.reward_model import saved_in
    from rlhf_tuning.models.start_model import made_from, record_of
    from rlhf_tuning.models.tokenizer import same_tokens
    from rlhf_tuning.planning.run_budget import stopped_in
    from rlhf_tuning.reports.run_report import data_sources, lineage, write_run_report
    from rlhf_tuning.reports.saved_report import add_report
    from rlhf_tuning.rewards.as_judge import rewards_as_judges
    from rlhf_tuning.step import log_metrics, running_step, write_log

    learnt = [reward_model, held_out_reward_model, eval_preferences, eval_demonstrations]
    inputs = [champion_predictions, tuned_predictions, model, *learnt]
    with running_step("Evaluate Tuned Model", inputs=inputs, outputs=[evaluation]) as clock:
        config = comparison.EvaluationConfig(
            large_model_reference=large_model_reference,
            base_model_reference=base_model_reference,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            temperature=temperature,
            seed=seed,
            inference_engine=inference_engine,
            scorer=scorer,
            true_rewards=true_rewards,
            judge=judge,
            judge_model=judge_model,
            judge_endpoint=judge_endpoint,
            judge_key_secret=judge_key_secret,
            judge_rubric=judge_rubric,
            judge_max_calls=judge_max_calls,
            judge_max_cost=judge_max_cost,
            judge_price=judge_price,
            dtype=dtype,
            champion=champion,
            gate_win_rate_margin=gate_win_rate_margin,
            gate_reward_model_margin=gate_reward_model_margin,
            gate_min_prompts=gate_min_prompts,
            gate_min_judged_share=gate_min_judged_share,
            gate_max_kl=gate_max_kl,
            gate_max_length_ratio=gate_max_length_ratio,
            gate_max_equal_length_loss=gate_max_equal_length_loss,
            gate_max_judge_loss=gate_max_judge_loss,
            gate_max_unfinished_rise=gate_max_unfinished_rise,
            gate_max_empty_rise=gate_max_empty_rise,
            gate_max_repetitive_rise=gate_max_repetitive_rise,
            gate_max_refusal_rise=gate_max_refusal_rise,
            gate_max_regression=gate_max_regression,
            regression_suite=regression_suite,
            require_approval=require_approval,
        )
        export = check_export(
            large_model_reference,
            model_dir=model.path,
            adapter_dir=adapter.path,
            predictions_path=tuned_predictions.path,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
        )
        reward_dir, learnt_from = (reward_model.path, reward_model.metadata) if reward_model else ("", {})
        held_out_dir = saved_in(held_out_reward_model.path) if held_out_reward_model else ""
        answered = (champion_predictions.path, tuned_predictions.path)
        asked = [
            *rewards_as_judges(config, answered),
            *comparison.judges_of(config, reward_model_dir=reward_dir, held_out_reward_model_dir=held_out_dir),
        ]
        teacher = Teacher.of(eval_demonstrations.metadata) if eval_demonstrations else None
        phases = None
        if config.is_supervised or teacher:
            at_hand = teacher.reference if teacher and teacher.is_loaded else ""
            phases = answer_before(
                config,
                *answered,
                tuned_model_dir=model.path,
                taught_path=eval_demonstrations.path if teacher and eval_demonstrations else "",
                teacher_reference=at_hand if at_hand and same_tokens(large_model_reference, at_hand) else "",
            )
        suite = answer_suite(config, tuned_model_dir=model.path)
        if suite:
            asked = suite.asked_of(asked, judge)
        # A judge's labels are no choices of people, by whom judges could be judged.
        by_people = eval_preferences if eval_preferences and not eval_preferences.metadata.get("labelled_by") else None
        pairs, judges = comparison.evaluate_policy(
            config,
            judges=phases.asked_of(asked) if phases else asked,
            tuned_model_dir=model.path,
            base_predictions_path=champion_predictions.path,
            tuned_predictions_path=tuned_predictions.path,
            eval_preferences_path=by_people.path if by_people else "",
            eval_demonstrations_path=eval_demonstrations.path if eval_demonstrations else "",
            champion_reference=champion_reference or large_model_reference,
        )
        gains = phases.gains(pairs) if phases else []
        regression = suite.found() if suite else None
        sizes = []
        if teacher:
            pace = "tokens_per_second"
            sizes = [
                size_of("the student", model.path, tuned_predictions.metadata.get(pace)),
                size_of("the teacher", teacher.reference if teacher.is_loaded else "", teacher.tokens_per_second),
                size_of(
                    config.opponent,
                    champion_reference or large_model_reference,
                    champion_predictions.metadata.get(pace),
                ),
            ]
        numbers = comparison.write_evaluation(
            config,
            pairs,
            evaluation.path,
            judges=judges,
            regression=regression,
            teacher=teacher.as_manifest() if teacher else None,
        )
        decided = comparison.decide_promotion(
            config,
            pairs,
            decision.path,
            judges=judges,
            also=[condition_of(export)],
            eval_preferences_path=eval_preferences.path if eval_preferences else "",
            adapter_dir=adapter.path,
            earlier_tries=earlier_tries,
            start_answers=phases.answers_of(SUPERVISED) if phases else (),
            regression=regression,
        )
        start_dir = large_model_reference if config.is_supervised else ""
        ended = stopped_in(record_of(start_dir), reward_dir, held_out_dir, adapter.path)
        said = gains_text(gains)
        comparison.write_summary(
            config,
            pairs,
            summary.path,
            decision=decided,
            judges=judges,
            gains=said,
            sizes=sizes_text(sizes),
            budget=ended,
        )
        start = made_from(start_dir) if start_dir else None
        run_report = write_run_report(
            pairs,
            scorer_name=config.scorer_name,
            reward_model_dir=reward_dir,
            adapter_dir=adapter.path,
            data=data_sources(learnt_from, model.metadata, champion_predictions.metadata, start),
            made_from=lineage(learnt_from, model.metadata, champion_predictions.metadata, champion, start),
            path=report.path,
            judges=judges,
            decision=decided,
            opponent=config.opponent,
            start_dir=start_dir,
            gains=gains,
            sizes=sizes,
            regression=regression,
            data_warnings=data_warnings.splitlines(),
            times=clock.times(),
            budget=ended,
        )
        add_report(run_report, evaluation.path)
        log_metrics(metrics, numbers | {"promoted": float(decided.promote)})
        write_log(decision_text(decided))
    return (decided.promote,)
