"""What follows training, whatever the method: is the tuned model better than the champion? Then it takes its place.

The tuning pipelines nest it. A method hands over its model and what it learnt from; the rest is the same for all.
"""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components import evaluate, find_champion, infer
from rlhf_pipelines.upload_phases import RUN_PLACE, TUNED, UPLOAD_PHASES
from rlhf_pipelines.wiring import Values, takes_inputs


class PromotionOutputs(NamedTuple):
    """The Vertex job's two outputs, and what a person wants to look at."""

    model_resource_name: str
    endpoint_resource_name: str
    summary: dsl.Markdown
    report: dsl.HTML


class TuningOutputs(NamedTuple):
    """What most tuning pipelines hand on: the same, and what is in the data."""

    model_resource_name: str
    endpoint_resource_name: str
    summary: dsl.Markdown
    report: dsl.HTML
    data_report: dsl.HTML


def tuning_outputs(outcome: Any, inputs: Any) -> TuningOutputs:
    """Return the outputs of a pipeline whose data was validated by `inputs`, and whose model was promoted by `outcome`."""
    promoted = {name: outcome.outputs[name] for name in PromotionOutputs._fields}
    return TuningOutputs(**promoted, data_report=inputs.outputs["data_report"])


def for_target(target: str, **artifacts: Any) -> Any:
    """Return the pipeline for a target and a method.

    Args:
        target: Says where champions are, and where the tuned model goes.
        artifacts: What the method has besides its model, by the names of the evaluation's optional inputs: what it learnt
            its reward from, what may judge. Their types, such as `dsl.Input[dsl.Model]`. They are chosen here, since kfp's
            local runner cannot hand an absent artifact to a nested pipeline.
    """
    upload_phase = UPLOAD_PHASES[target](artifacts)

    @dsl.pipeline(
        name="evaluate-and-promote",
        description="Compares the tuned model with the champion, decides which is champion, and uploads.",
    )
    @takes_inputs(
        find_champion,
        evaluate,
        upload_phase,
        **artifacts,
        **TUNED,
        evaluation_prompts=dsl.Input[dsl.Dataset],
        base_model_reference=str,
        base_model_fingerprint=str,
        data_warnings=str,
        regression_fingerprint=str,
        seed=int,
        inference_engine=str,
    )
    def evaluate_and_promote(values: Values) -> PromotionOutputs:
        """Answer with both models, compare, decide, and put the tuned model where it belongs."""
        place = RUN_PLACE if target == "vertex" else {}
        # Which may be another than the model that the training started from: see `choose_start`.
        base = {"large_model_reference": values["base_model_reference"]}
        champion = (
            find_champion(
                **values.of(
                    find_champion,
                    target=target,
                    **base,
                    large_model_fingerprint=values["base_model_fingerprint"],
                    **place,
                )
            )
            .set_display_name("Find Champion")
            .set_caching_options(False)
        )
        prompts = values["evaluation_prompts"]
        champion_answers = infer(
            **values.without("model").of(
                infer,
                prompts=prompts,
                large_model_reference=champion.outputs["model_reference"],
                large_model_fingerprint=champion.outputs["model_fingerprint"],
                label="champion",
            )
        ).set_display_name("Perform Inference (champion)")
        tuned_answers = infer(**values.of(infer, prompts=prompts)).set_display_name("Perform Inference (tuned model)")
        comparison = evaluate(
            **values.of(
                evaluate,
                champion_predictions=champion_answers.outputs["predictions"],
                tuned_predictions=tuned_answers.outputs["predictions"],
                champion=champion.outputs["champion"],
                earlier_tries=champion.outputs["earlier_tries"],
                champion_reference=champion.outputs["model_reference"],
            )
        ).set_display_name("Evaluate Tuned Model")
        values = values.adding(champion.outputs).adding(comparison.outputs)
        # Not cached: a registry may have lost what an earlier run put there. The same content makes one version.
        upload = (
            upload_phase(**values.of(upload_phase, **base))
            .set_display_name("Upload and Deploy Tuned Model")
            .set_caching_options(False)
        )
        return PromotionOutputs(
            model_resource_name=upload.outputs["model_resource_name"],
            endpoint_resource_name=upload.outputs["endpoint_resource_name"],
            summary=comparison.outputs["summary"],
            report=comparison.outputs["report"],
        )

    return evaluate_and_promote
