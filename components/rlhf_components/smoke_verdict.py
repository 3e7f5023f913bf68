"""Smoke Verdict: the run fails where something does not work."""

from typing import NamedTuple

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def smoke_verdict(
    report: dsl.Input[dsl.HTML],
    failed: str,
) -> NamedTuple("Outputs", [("outcome", str)]):  # type: ignore[valid-type]
    """End the run well, or with every line of what does not work.

    Args:
        report: The page, which is named in the message.
        failed: From Smoke Report.

    Returns:
        outcome: That all works.
    """
    from rlhf_tuning.errors import RunError
    from rlhf_tuning.step import running_step

    with running_step("Smoke Verdict"):
        if failed:
            raise RunError(f"Not everything works here:\n{failed}\nThe whole page: {report.uri}")
    return ("All that a tuning run needs works here.",)
