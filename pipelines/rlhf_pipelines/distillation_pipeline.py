"""Distillation: a teacher labels prompts, a student learns its answers. Parameters as Vertex's old job had them.

With `on_policy` the student then answers by itself, and learns on its own answers. What it learnt before takes the base
model's place.
"""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components import train_student
from rlhf_pipelines import evaluate_and_promote
from rlhf_pipelines.first_steps import first_steps
from rlhf_pipelines.phases import demonstration_labels, fetched_by, started_from, student_start
from rlhf_pipelines.wiring import Values, takes_parameters


class DistillationOutputs(NamedTuple):
    """Where the model and the labels are, and what a person wants to look at."""

    model_resource_name: str
    endpoint_resource_name: str
    labels: dsl.Dataset
    summary: dsl.Markdown
    report: dsl.HTML
    data_report: dsl.HTML


def for_target(target: str) -> Any:
    """Return the pipeline for a target: they differ in where the student goes."""
    promote_if_better = evaluate_and_promote.for_target(
        target, eval_demonstrations=dsl.Input[dsl.Dataset], **fetched_by(target)
    )

    @dsl.pipeline(
        name="distillation-pipeline",
        display_name="Distillation",
        description="Lets a large language model answer prompts, and tunes a small one on its answers.",
    )
    @takes_parameters("distillation_pipeline")
    def distillation_pipeline(values: Values) -> DistillationOutputs:
        """Tune a small language model on the answers of a large one.

        Returns:
            model_resource_name: The registered student.
            endpoint_resource_name: The endpoint, or empty where there is none.
            labels: The prompts with their answers, a dataset that other runs can learn from.
            summary: The comparison with the champion, or with the untuned student, and the gate's decision, as text.
            report: The whole report, as one HTML page.
            data_report: What is in the data, as one HTML page.
        """
        values = values.adding({"large_model_reference": values["student_model_reference"]})
        inputs, models = first_steps(values, method="distilled", target=target)
        values = values.adding(inputs.outputs).adding(models.outputs)
        labels = demonstration_labels(**values.of(demonstration_labels)).set_display_name("Labels by the Teacher")
        values = values.adding(labels.outputs)
        start = student_start(**values.of(student_start)).set_display_name("Supervised Tuning")
        values = started_from(start, values, target)
        tuned = train_student(**values.of(train_student)).set_display_name("Student Trainer")
        outcome = promote_if_better(
            **values.adding(tuned.outputs).of(
                promote_if_better,
                instruction=values["default_context"],
                temperature=1.0,  # the teacher's is another
                # A student that is to answer as another model does moves as far as the two are apart.
                gate_max_kl=0.0,
                gate_max_length_ratio=0.0,
            )
        ).set_display_name("Evaluate and Promote")
        return DistillationOutputs(
            model_resource_name=outcome.outputs["model_resource_name"],
            endpoint_resource_name=outcome.outputs["endpoint_resource_name"],
            labels=labels.outputs["labels"],
            summary=outcome.outputs["summary"],
            report=outcome.outputs["report"],
            data_report=inputs.outputs["data_report"],
        )

    return distillation_pipeline


distillation_pipeline = for_target("local")
