"""The first thing to run on a new project or cluster: minutes and cents that show whether a tuning run could work there."""

from functools import cache
from typing import Any, NamedTuple

from kfp import dsl

from rlhf_components import smoke_light, smoke_report, smoke_trainer, smoke_verdict
from rlhf_pipelines.wiring import Values, takes_parameters


class SmokeOutputs(NamedTuple):
    """The page, and in words that all works."""

    smoke_report: dsl.HTML
    outcome: str


@cache
def for_target(target: str) -> Any:
    """Return the pipeline for a target: on a cluster, a step that trains runs on a GPU."""

    @dsl.pipeline(
        name="smoke-pipeline",
        display_name="Smoke test",
        description="Tries what a tuning run needs: storage, artifacts, disk, GPUs, training on all of them.",
    )
    @takes_parameters("smoke_pipeline")
    def smoke_pipeline(values: Values) -> SmokeOutputs:
        """Try what a tuning run needs.

        Returns:
            smoke_report: What works and, for what does not, what to do, as one HTML page.
            outcome: That all works; where something does not, the run fails and says what.
        """
        light = smoke_light(**values.of(smoke_light)).set_display_name("Smoke Test (light)").set_caching_options(False)
        trainer = (
            smoke_trainer(
                **values.of(smoke_trainer, checks_before=light.outputs["checks"], expects_gpu=target != "local")
            )
            .set_display_name("Smoke Test (trainer)")
            .set_caching_options(False)
        )
        page = (
            smoke_report(checks=trainer.outputs["checks"]).set_display_name("Smoke Report").set_caching_options(False)
        )
        verdict = (
            smoke_verdict(report=page.outputs["report"], failed=page.outputs["failed"])
            .set_display_name("Smoke Verdict")
            .set_caching_options(False)
        )
        return SmokeOutputs(smoke_report=page.outputs["report"], outcome=verdict.outputs["outcome"])

    return smoke_pipeline


smoke_pipeline = for_target("local")
