"""Smoke Test (trainer): what a step in the trainer image can do with the machine's GPUs."""

from kfp import dsl

from rlhf_tuning.images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def smoke_trainer(
    checks_before: dsl.Input[dsl.Artifact],
    checks: dsl.Output[dsl.Artifact],
    probe_object: str = "",
    expects_gpu: bool = True,
) -> None:
    """Read what the step before wrote, and try the driver, every GPU, a matrix product, and a step of training on all.

    Args:
        checks_before: The checks of Smoke Test (light).
        checks: JSON: those, and every check of this step.
        probe_object: A gs:// object to read; empty for none.
        expects_gpu: Whether a machine without a GPU is a failure.
    """
    from rlhf_tuning.smoke.checks import check_handed_over, check_place, write_checks
    from rlhf_tuning.smoke.devices import SmokeConfig, check_devices
    from rlhf_tuning.step import running_step, say

    step = "Trainer image"
    with running_step("Smoke Test (trainer)"):
        handed_over, before = check_handed_over(step, checks_before.path)
        found = [
            handed_over,
            *check_place(step, artifact_path=checks.path, probe_object=probe_object),
            *check_devices(SmokeConfig(expects_gpu=expects_gpu), step),
        ]
        for check in found:
            say(f"{check.state}: {check.name}: {check.seen}")
        write_checks([*before, *found], checks.path)
