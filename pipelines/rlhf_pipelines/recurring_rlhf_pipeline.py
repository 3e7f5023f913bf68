"""A tune that recurs: the whole job again, but only when enough new preferences have arrived since the champion."""

from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components import count_new_preferences, nothing_new
from rlhf_pipelines import rlhf_pipeline as whole_job
from rlhf_pipelines.upload_phases import RUN_PLACE
from rlhf_pipelines.wiring import Values, takes_parameters


class RecurringOutputs(NamedTuple):
    """The Vertex job's two outputs, of the new version or of the champion that stays; and which of the two it is.

    The reports are outputs of the steps: an artifact of a step under a condition cannot be the pipeline's everywhere.
    """

    model_resource_name: str
    endpoint_resource_name: str
    outcome: str


def for_target(target: str) -> Any:
    """Return the pipeline for a target: it nests the whole job of that target, and knows where champions are."""
    tune_whole = whole_job.for_target(target)

    @dsl.pipeline(
        name="recurring-rlhf-pipeline",
        display_name="Recurring RLHF",
        description="Tunes a language model again when enough new human preferences have arrived.",
    )
    @takes_parameters("recurring_rlhf_pipeline")
    def recurring_rlhf_pipeline(values: Values) -> RecurringOutputs:
        """Tune a language model with human preferences when enough of them are new.

        Returns:
            model_resource_name: The registered model; the champion when nothing is new.
            endpoint_resource_name: The endpoint, or empty where there is none.
            outcome: Whether enough was new, in words.
        """
        place = RUN_PLACE if target == "vertex" else {}
        count = (
            count_new_preferences(**values.of(count_new_preferences, target=target, **place))
            .set_display_name("Count New Preferences")
            .set_caching_options(False)
        )
        with dsl.If(count.outputs["enough"] == True, name="enough is new"):  # noqa: E712
            tune = tune_whole(
                **values.of(tune_whole, warm_start_adapter=count.outputs["warm_start_adapter"])
            ).set_display_name("Tune")
        with dsl.Else(name="nothing is new"):
            kept = (
                nothing_new(message=count.outputs["message"], champion=count.outputs["champion"])
                .set_display_name("Nothing New")
                .set_caching_options(False)
            )
        return RecurringOutputs(
            model_resource_name=dsl.OneOf(tune.outputs["model_resource_name"], kept.outputs["model_resource_name"]),
            endpoint_resource_name=dsl.OneOf(
                tune.outputs["endpoint_resource_name"], kept.outputs["endpoint_resource_name"]
            ),
            outcome=count.outputs["message"],
        )

    return recurring_rlhf_pipeline


recurring_rlhf_pipeline = for_target("local")
