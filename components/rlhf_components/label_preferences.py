"""Label Preferences: two models answer prompts, and a judge says which answer is better."""

from kfp import dsl

from rlhf_tuning.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def label_preferences(
    prompts: dsl.Input[dsl.Dataset],
    labelled_preferences: dsl.Output[dsl.Dataset],
    judgements: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    large_model_a_reference: str,
    large_model_b_reference: str,
    large_model_a_fingerprint: str = "",
    large_model_b_fingerprint: str = "",
    sampling_strategy: str = "temperature_sampling",
    human_preference_dataset: str = "",
    human_preference_fingerprint: str = "",
    instruction: str = "",
    prompt_sequence_length: int = 512,
    target_sequence_length: int = 64,
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    dtype: str = "auto",
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
    max_bad_rows: int = 0,
) -> None:
    """Let both models answer and the judge prefer, and leave out what it does not prefer in both orders.

    Args:
        prompts: Canonical prompt rows.
        labelled_preferences: The judge's preferences as a dataset, to be looked at, edited, and learnt from.
        judgements: What both models and the judge said to each prompt, ties too.
        metrics: How many prompts have a preference, how many are ties, and how often the judge agrees with people.
        large_model_a_reference: From Preprocess Inputs: the first model.
        large_model_b_reference: From Preprocess Inputs: the second model, which samples by another seed.
        large_model_a_fingerprint: From Preprocess Inputs. When empty, kfp's cache goes by the model's name.
        large_model_b_fingerprint: From Preprocess Inputs, likewise.
        sampling_strategy: temperature_sampling, or greedy for the likeliest token each time.
        human_preference_dataset: Human preferences, of which some say what the judge is worth; empty for none.
        human_preference_fingerprint: From Validate Inputs; other content is refused. When empty, kfp goes by the path.
        instruction: Put before every text prompt of those; the default context of chat rows.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        temperature: Of the samples.
        batch_size: Most prompts of a batch.
        seed: Of the samples.
        dtype: auto, float32 or bfloat16.
        inference_engine: What samples the answers: own, vllm or auto.
        scorer: A program that prefers where there is no judge, such as house_style for the sample.
        judge: Language model that prefers: language_model, gemini or local_model.
        judge_model: Its name.
        judge_endpoint: Base URL of its server.
        judge_key_secret: Secret of Google's Secret Manager that holds the key; the environment variable RLHF_JUDGE_API_KEY
            when empty.
        judge_rubric: What a better answer is: text, or the name of a text file; a general rubric when empty.
        judge_max_calls: Most requests to the server, repeated ones included: two for each pair.
        judge_max_cost: Most that they may cost, in the currency of judge_price; 0 for no limit.
        judge_price: What a million tokens cost there, of questions and answers.
        max_bad_rows: So many bad rows of the human preferences are set aside.
    """
    from pathlib import Path

    from rlhf_tuning.labelling import preferences
    from rlhf_tuning.step import log_metrics, running_step, say

    with running_step("Label Preferences", inputs=[prompts], outputs=[labelled_preferences, judgements]):
        config = preferences.PreferenceLabelConfig(
            large_model_a_reference=large_model_a_reference,
            large_model_b_reference=large_model_b_reference,
            sampling_strategy=sampling_strategy,
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
            temperature=temperature,
            batch_size=batch_size,
            seed=seed,
            dtype=dtype,
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
        )
        found = preferences.label_preferences(
            config,
            prompts_path=prompts.path,
            preferences_path=labelled_preferences.path,
            judgements_path=judgements.path,
            # Beside the runs: a retry, and a run that is started again, finds there what was answered.
            work_dir=str(Path(judgements.path).parents[2] / ".answers"),
            human_preference_dataset=human_preference_dataset,
            human_preference_fingerprint=human_preference_fingerprint,
            instruction=instruction,
            max_bad_rows=max_bad_rows,
        )
        for line in found.lines():
            say(line)
        labelled_preferences.metadata.update(
            rows=found.rows,
            warning=found.warning(),
            labelled_by=found.judge,
            model_a=large_model_a_reference,
            model_a_fingerprint=large_model_a_fingerprint,
            model_b=large_model_b_reference,
            model_b_fingerprint=large_model_b_fingerprint,
            prompt_fingerprint=prompts.metadata.get("fingerprint", ""),
        )
        log_metrics(metrics, found.metrics())
