"""Find Champion: which model must the tuned one beat?"""

from typing import NamedTuple

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def find_champion(
    target: str,
    large_model_reference: str,
    large_model_fingerprint: str = "",
    model_display_name: str = "",
    registry_dir: str = "",
    project: str = "",
    location: str = "",
    run_project: str = "",
    run_location: str = "",
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs", [("champion", str), ("model_reference", str), ("model_fingerprint", str), ("earlier_tries", int)]
):
    """Find the version with the alias `champion`; before the first one, and where there is no registry, the base model.

    Never cached: the champion may change.

    Args:
        target: Where models are registered: local, vertex or kubeflow.
        large_model_reference: Base model.
        large_model_fingerprint: From Preprocess Inputs; handed on for the base model where there is no champion.
        model_display_name: Name in the registry; made from the base model's name when empty.
        registry_dir: Folder of the local registry; its default place when empty.
        project: Google Cloud project of the registry; the run's own when empty.
        location: Google Cloud region of the registry; the run's own when empty.
        run_project: Google Cloud project in which the pipeline runs, where it runs there.
        run_location: Google Cloud region in which the pipeline runs, where it runs there.

    Returns:
        champion: Its resource name; empty for the base model.
        model_reference: The champion's weights, or the base model.
        model_fingerprint: Changes when those weights do.
        earlier_tries: How many tuned models were already held against it and did not win.
    """
    from rlhf_tuning.promotion.champion import Place, model_to_beat
    from rlhf_tuning.step import running_step, say

    with running_step("Find Champion"):
        place = Place(registry_dir=registry_dir, project=project or run_project, location=location or run_location)
        found = model_to_beat(
            target,
            model_display_name=model_display_name,
            large_model_reference=large_model_reference,
            large_model_fingerprint=large_model_fingerprint,
            place=place,
        )
        say(f"The model to beat is {found.champion or 'the base model'}")
    return (found.champion, found.model, found.fingerprint, found.earlier_tries)
