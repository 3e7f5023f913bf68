"""Smoke Report: a page that says what works here and, for what does not, what to do."""

from typing import NamedTuple

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def smoke_report(
    checks: dsl.Input[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> NamedTuple("Outputs", [("failed", str)]):  # type: ignore[valid-type]
    """Write the page. The step succeeds whatever it says, since backends keep the artifacts of those alone that do.

    Args:
        checks: The checks of both images.
        report: One self-contained HTML page.

    Returns:
        failed: What does not work, a line each; empty where all works.
    """
    from rlhf_tuning.smoke.checks import read_checks
    from rlhf_tuning.smoke.page import write_smoke_page
    from rlhf_tuning.step import running_step

    with running_step("Smoke Report"):
        failed = write_smoke_page(read_checks(checks.path), report.path)
    return (failed,)
