"""Nothing New: how a recurring run ends when there is not enough to learn from."""

from typing import NamedTuple

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def nothing_new(
    summary: dsl.Output[dsl.Markdown],
    message: str,
    champion: str,
) -> NamedTuple("Outputs", [("model_resource_name", str), ("endpoint_resource_name", str)]):  # type: ignore[valid-type]
    """Give the outputs that tuning would have had: the champion, and why it stays.

    Args:
        summary: The message, as text.
        message: From Count New Preferences.
        champion: From Count New Preferences.

    Returns:
        model_resource_name: The champion.
        endpoint_resource_name: Empty: nothing was deployed.
    """
    from pathlib import Path

    from rlhf_tuning.step import running_step

    with running_step("Nothing New"):
        Path(summary.path).write_text(message + "\n", encoding="utf-8")
    return (champion, "")
