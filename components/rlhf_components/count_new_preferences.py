"""Count New Preferences: is there enough new to tune again?"""

from typing import NamedTuple

from kfp import dsl

from rlhf_tuning.images import LIGHT_IMAGE


@dsl.component(base_image=LIGHT_IMAGE, install_kfp_package=False)
def count_new_preferences(
    target: str,
    preference_dataset: str,
    large_model_reference: str,
    feedback_dataset: str = "",
    model_display_name: str = "",
    instruction: str = "",
    max_bad_rows: int = 0,
    lora_dim: int = 16,
    registry_dir: str = "",
    project: str = "",
    location: str = "",
    run_project: str = "",
    run_location: str = "",
    min_new_preferences: int = 100,
    warm_start: bool = False,
    warm_start_adapter: str = "",
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs", [("enough", bool), ("message", str), ("champion", str), ("warm_start_adapter", str)]
):
    """Count the preferences, and the feedback, that the champion was not trained on, by their content.

    Never cached: the content behind a path may change, and so may the champion.

    Args:
        target: Where models are registered: local, vertex or kubeflow.
        preference_dataset: Human preferences.
        feedback_dataset: Answers with labels or ratings beside them; empty for none.
        large_model_reference: Base model, whose name is that of the model when it has none of its own.
        model_display_name: Name in the registry.
        instruction: Put before every text prompt; the default context of chat rows.
        max_bad_rows: So many bad rows of the dataset are set aside.
        lora_dim: Rank of the policy's adapter.
        registry_dir: Folder of the local registry; its default place when empty.
        project: Google Cloud project of the registry; the run's own when empty.
        location: Google Cloud region of the registry; the run's own when empty.
        run_project: Google Cloud project in which the pipeline runs, where it runs there.
        run_location: Google Cloud region in which the pipeline runs, where it runs there.
        min_new_preferences: So many new preferences, with the rows of feedback, are enough.
        warm_start: Whether the policy starts from the champion's adapter.
        warm_start_adapter: Adapter to start from where the champion's is not used.

    Returns:
        enough: Whether to tune.
        message: Why, for people.
        champion: The present champion; empty before the first run.
        warm_start_adapter: What the policy starts from; empty for the base model.
    """
    from rlhf_tuning.promotion import recurring
    from rlhf_tuning.step import running_step, say

    with running_step("Count New Preferences"):
        config = recurring.RecurringConfig(
            preference_dataset=preference_dataset,
            feedback_dataset=feedback_dataset,
            large_model_reference=large_model_reference,
            model_display_name=model_display_name,
            instruction=instruction,
            max_bad_rows=max_bad_rows,
            lora_dim=lora_dim,
            registry_dir=registry_dir,
            project=project or run_project,
            location=location or run_location,
            min_new_preferences=min_new_preferences,
            warm_start=warm_start,
            warm_start_adapter=warm_start_adapter,
        )
        outcome = recurring.count_new_preferences(config, target=target)
        say(outcome.message)
    return (outcome.enough, outcome.message, outcome.champion, outcome.warm_start_adapter)
