"""The whole job: reward model, reinforcement learning, evaluation, upload. Parameters as the Vertex RLHF job had them.

A supervised phase may come before: its model then takes the base model's place.
"""

from typing import Any

from kfp import dsl

from rlhf_components import train_reward_model
from rlhf_pipelines import evaluate_and_promote
from rlhf_pipelines.first_steps import first_steps
from rlhf_pipelines.phases import fetched_by, reinforcement_phase_with, reward_model_phase_with, supervised_first
from rlhf_pipelines.wiring import Values, takes_parameters


def for_target(target: str, **labelled: Any) -> Any:
    """Return the pipeline for a target: they differ in where the tuned model goes, and in what steps share.

    Args:
        target: Where it runs.
        labelled: `labelled_preferences` and its type, where a pipeline that nests this one has made the preferences.
    """
    fetched = fetched_by(target)
    reward_models = {"reward_model": dsl.Input[dsl.Model], "held_out_reward_model": dsl.Input[dsl.Model]}
    reward_model_phase = reward_model_phase_with(**fetched, **labelled)
    reinforcement_phase = reinforcement_phase_with(**fetched, **reward_models)
    promote_if_better = evaluate_and_promote.for_target(
        target,
        **reward_models,
        eval_preferences=dsl.Input[dsl.Dataset],
        **fetched,
    )

    @dsl.pipeline(
        name="rlhf-pipeline",
        display_name="RLHF",
        description="Tunes a language model with human preferences, in two phases: reward model, reinforcement learning; a "
        "supervised phase may come before.",
    )
    @takes_parameters("rlhf_pipeline", **labelled)
    def rlhf_pipeline(values: Values) -> evaluate_and_promote.TuningOutputs:
        """Tune a language model with human preferences.

        Returns:
            model_resource_name: The registered model.
            endpoint_resource_name: The endpoint, or empty where there is none.
            summary: The comparison with the champion, or with the base model, and the gate's decision, as text.
            report: The whole report, as one HTML page.
            data_report: What is in the data, as one HTML page.
        """
        inputs, models = first_steps(values, target=target)
        # What a step found goes on under its name, and takes the place of what was given: a commit for a hub id, a rubric's
        # words for its file.
        values = supervised_first(values.adding(inputs.outputs).adding(models.outputs), target)
        reward_base = {
            "large_model_reference": values["reward_model_reference"],
            "large_model_fingerprint": values["reward_model_fingerprint"],
        }
        phase_1 = reward_model_phase(**values.of(reward_model_phase, **reward_base)).set_display_name(
            "Train Reward Model"
        )
        values = values.adding(phase_1.outputs)
        held_out = train_reward_model(**values.of(train_reward_model, **reward_base, held_out=True)).set_display_name(
            "Held-out Reward Model Trainer"
        )
        values = values.adding({"held_out_reward_model": held_out.outputs["reward_model"]})
        phase_2 = reinforcement_phase(**values.of(reinforcement_phase)).set_display_name("Reinforcement Learning")
        outcome = promote_if_better(**values.adding(phase_2.outputs).of(promote_if_better)).set_display_name(
            "Evaluate and Promote"
        )
        return evaluate_and_promote.tuning_outputs(outcome, inputs)

    return rlhf_pipeline


rlhf_pipeline = for_target("local")
