"""RLHF on the preferences of a judge: two models answer, the judge prefers, then the whole job. Parameters as Vertex's."""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_pipelines import rlhf_pipeline as whole_job
from rlhf_pipelines.first_steps import first_steps
from rlhf_pipelines.phases import preference_labels
from rlhf_pipelines.wiring import Values, takes_parameters


class RlaifOutputs(NamedTuple):
    """The Vertex job's two outputs, the labels, and what a person wants to look at."""

    model_resource_name: str
    endpoint_resource_name: str
    labelled_preferences: dsl.Dataset
    judgements: dsl.Dataset
    summary: dsl.Markdown
    report: dsl.HTML
    data_report: dsl.HTML


def for_target(target: str) -> Any:
    """Return the pipeline for a target: it nests the whole job of that target, for preferences that a step has made."""
    tune_whole = whole_job.for_target(target, labelled_preferences=dsl.Input[dsl.Dataset])

    @dsl.pipeline(
        name="rlaif-pipeline",
        display_name="RLAIF",
        description="Tunes a language model with the preferences of a judge between the answers of two models.",
    )
    @takes_parameters("rlaif_pipeline")
    def rlaif_pipeline(values: Values) -> RlaifOutputs:
        """Tune a language model with the preferences of a judge.

        Returns:
            model_resource_name: The registered model.
            endpoint_resource_name: The endpoint, or empty where there is none.
            labelled_preferences: The judge's preferences, a dataset that other runs can learn from.
            judgements: What both models and the judge said to each prompt, ties too.
            summary: The comparison with the champion, or with the base model, and the gate's decision, as text.
            report: The whole report, as one HTML page.
            data_report: What is in the data, labels included, as one HTML page.
        """
        # The whole job holds the budget against its forecast, when it has the labels.
        inputs, models = first_steps(values, target=target, max_hours=0.0, max_cost=0.0)
        rubric = {"judge_rubric": inputs.outputs["judge_rubric"]}
        labels = preference_labels(
            **values.adding(models.outputs).of(
                preference_labels,
                prompt_dataset=values["preference_prompt_dataset"],
                prompt_fingerprint=inputs.outputs["preference_prompt_fingerprint"],
                human_preference_fingerprint=inputs.outputs["human_preference_fingerprint"],
                **rubric,
            )
        ).set_display_name("AI Feedback")
        tuned = tune_whole(
            **values.of(
                tune_whole,
                preference_dataset="",
                labelled_preferences=labels.outputs["labelled_preferences"],
                **rubric,
            )
        ).set_display_name("Reinforcement Learning from AI Feedback")
        return RlaifOutputs(
            model_resource_name=tuned.outputs["model_resource_name"],
            endpoint_resource_name=tuned.outputs["endpoint_resource_name"],
            labelled_preferences=labels.outputs["labelled_preferences"],
            judgements=labels.outputs["judgements"],
            summary=tuned.outputs["summary"],
            report=tuned.outputs["report"],
            data_report=tuned.outputs["data_report"],
        )

    return rlaif_pipeline


rlaif_pipeline = for_target("local")
