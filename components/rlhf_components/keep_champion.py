"""Keep Champion: what a run does instead of deploying when the tuned model is not shown to be better."""

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def keep_champion(champion: str, model_resource_name: str) -> str:
    """Say that no endpoint was touched.

    Args:
        champion: From Find Champion.
        model_resource_name: The version that was uploaded.

    Returns:
        Empty: nothing was deployed.
    """
    from rlhf_tuning.step import running_step, say

    with running_step("Keep Champion"):
        say(
            f"{model_resource_name} is not promoted, so it is not deployed: {champion or 'the base model'} stays champion, "
            "and no endpoint was touched"
        )
    return ""
