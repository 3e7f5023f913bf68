"""Smoke Test (light): what a step in the light image can read and write here."""

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def smoke_light(
    checks: dsl.Output[dsl.Artifact],
    probe_object: str = "",
) -> None:
    """Find out who the step is, what is mounted, and whether it can write artifacts and read Cloud Storage.

    Args:
        checks: JSON: every check, with what was seen and what to do.
        probe_object: A gs:// object to read; empty for none.
    """
    from rlhf_tuning.smoke.checks import check_place, write_checks
    from rlhf_tuning.step import running_step, say

    with running_step("Smoke Test (light)"):
        found = check_place("Light image", artifact_path=checks.path, probe_object=probe_object)
        for check in found:
            say(f"{check.state}: {check.name}: {check.seen}")
        write_checks(found, checks.path)
