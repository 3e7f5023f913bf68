"""Preference tuning: training without a reward model, evaluation, upload. Parameters as Google's, where it has them.

A supervised phase may come before: its model then takes the base model's place, and is the reference.
"""

from typing import Any

from kfp import dsl

from rlhf_components import train_reward_model
from rlhf_pipelines import evaluate_and_promote
from rlhf_pipelines.first_steps import first_steps
from rlhf_pipelines.phases import fetched_by, preference_phase_with, supervised_first
from rlhf_pipelines.wiring import Values, takes_parameters


def for_target(target: str) -> Any:
    """Return the pipeline for a target: they differ in where the tuned model goes."""
    fetched = fetched_by(target)
    preference_phase = preference_phase_with(**fetched)
    promote_if_better = evaluate_and_promote.for_target(
        target,
        held_out_reward_model=dsl.Input[dsl.Model],
        eval_preferences=dsl.Input[dsl.Dataset],
        **fetched,
    )

    @dsl.pipeline(
        name="preference-tuning-pipeline",
        display_name="Preference tuning",
        description="Tunes a language model on people's choices between two answers (DPO), or on thumbs and ratings of "
        "single answers (KTO), without a reward model; a supervised phase may come before.",
    )
    @takes_parameters("preference_tuning_pipeline")
    def preference_tuning_pipeline(values: Values) -> evaluate_and_promote.TuningOutputs:
        """Tune a language model on people's choices between two answers, or on what they thought of single ones.

        Returns:
            model_resource_name: The registered model.
            endpoint_resource_name: The endpoint, or empty where there is none.
            summary: The comparison with the champion, or with the base model, and the gate's decision, as text.
            report: The whole report, as one HTML page.
            data_report: What is in the data, as one HTML page.
        """
        inputs, models = first_steps(values, method="preference", target=target, tunes_on_preferences=True)
        # Its prompts are the preferences' own.
        values = values.adding(inputs.outputs).adding(models.outputs).adding({"prompt_dataset": ""})
        values = supervised_first(values, target, lora_dim=values["adapter_size"])
        tuned = preference_phase(**values.of(preference_phase)).set_display_name("Preference Tuning")
        values = values.adding(tuned.outputs)
        judge = train_reward_model(
            **values.of(
                train_reward_model,
                large_model_reference=values["reward_model_reference"],
                large_model_fingerprint=values["reward_model_fingerprint"],
                held_out=True,
            )
        ).set_display_name("Held-out Reward Model Trainer")
        values = values.adding({"held_out_reward_model": judge.outputs["reward_model"]})
        outcome = promote_if_better(**values.of(promote_if_better)).set_display_name("Evaluate and Promote")
        return evaluate_and_promote.tuning_outputs(outcome, inputs)

    return preference_tuning_pipeline


preference_tuning_pipeline = for_target("local")
