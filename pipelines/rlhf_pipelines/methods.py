"""The ways to tune a model that `rlhf compare-methods` holds against each other. Imports no kfp."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlhf_tuning.parameters import Value


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to tune.

    Args:
        label: How people read it.
        pipeline: The pipeline that does it.
        data: Its parameters for data, to the files that they get, by their names in `MethodData`.
        training: What forecasts its time, one of `planning.budget.TRAININGS`.
        steps: Its parameter that says how long it trains.
        epochs: Whether that counts how often each row is seen, and not steps.
        own: Parameters that have other values here than elsewhere.
    """

    label: str
    pipeline: str
    data: Mapping[str, str]
    training: str
    steps: str
    epochs: bool = False
    own: Mapping[str, Value] = field(default_factory=dict)


#: In the order of how much there is to do, which decides between methods that are as good. To add one: its line here.
METHODS = {
    "supervised": Method(
        label="supervised tuning",
        pipeline="supervised_tuning_pipeline",
        data={"dataset_uri": "demonstrations"},
        training="supervised",
        steps="train_steps",
    ),
    "dpo": Method(
        label="DPO",
        pipeline="preference_tuning_pipeline",
        data={"preference_dataset": "preferences", "eval_dataset": "eval_prompts"},
        training="preference",
        steps="epoch_count",
        epochs=True,
        own={"held_out_reward_model_share": 0.0},  # the comparison has a judge of its own
    ),
    "rlhf": Method(
        label="RLHF",
        pipeline="rlhf_pipeline",
        data={"preference_dataset": "preferences", "prompt_dataset": "prompts", "eval_dataset": "eval_prompts"},
        training="reinforcement",
        steps="reinforcement_learning_train_steps",
    ),
}

#: That which comparisons of answers, and so all methods, have in common.
SHARED = ("large_model_reference", "instruction", "eval_prompts", "max_bad_rows", "scorer")

#: What the comparison itself says to each run.
SET_BY_COMPARISON = (
    "seed",
    "model_display_name",
    "registry_dir",
    "deploy_model",
    "regression_suite",
    "require_approval",
    "evaluation_data_uri",
    "default_context",
    "supervised_dataset",
    "feedback_dataset",
    "warm_start_adapter",
    "project",
    "location",
    "accelerator_type",
    "encryption_spec_key_name",
    "tensorboard_resource_id",
    "serving_machine",
    "serving_image",
    "serving_endpoint",
    # It has a budget of its own.
    "max_hours",
    "max_cost",
    "price_per_hour",
    "train_until_budget",
)
