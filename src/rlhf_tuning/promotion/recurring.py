"""Is there enough new to tune again? A recurring run asks this first, of the data as it is at that time."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rlhf_tuning import step
from rlhf_tuning.data.known_rows import NewRows, count_new
from rlhf_tuning.errors import ParameterError, UserError
from rlhf_tuning.limits import check_limits
from rlhf_tuning.promotion.champion import FINDERS, Champion, Place
from rlhf_tuning.step import counted


@dataclass(frozen=True, kw_only=True)
class RecurringConfig:
    """Settings of the count, named as the pipeline's parameters are."""

    preference_dataset: str
    large_model_reference: str
    model_display_name: str = ""
    instruction: str = ""
    max_bad_rows: int = 0
    feedback_dataset: str = ""
    lora_dim: int = 16
    registry_dir: str = ""
    project: str = ""
    location: str = ""
    min_new_preferences: int = 100
    warm_start: bool = False
    warm_start_adapter: str = ""

    def __post_init__(self) -> None:
        check_limits(**asdict(self))
        if self.warm_start and self.lora_dim == 0:
            raise ParameterError(
                "warm_start is true and lora_dim 0: full fine-tuning has no adapter to start from. Give a lora_dim, or "
                "leave warm_start out."
            )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a recurring run does.

    Args:
        enough: Whether it tunes.
        message: Why, for people.
        champion: The present champion's resource name; empty before the first run.
        warm_start_adapter: What phase 2 starts from; empty for the base model.
    """

    enough: bool
    message: str
    champion: str
    warm_start_adapter: str


def count_new_preferences(config: RecurringConfig, *, target: str) -> Outcome:
    """Count the preferences and the feedback that the champion was not trained on, and say whether they are enough.

    Raises:
        DataError: If a dataset cannot be used.
        ModelError: If the champion is damaged.
        UserError: If the target's registry does not tell what its models were trained on.
    """
    if target not in FINDERS:
        raise UserError(
            "recurring_rlhf_pipeline counts new preferences against a model registry, and Kubeflow has none that this "
            "project registers in. Schedule rlhf_pipeline there, or run recurring_rlhf_pipeline on Vertex or with rlhf run."
        )
    place = Place(registry_dir=config.registry_dir, project=config.project, location=config.location)
    champion = FINDERS[target](config.model_display_name, config.large_model_reference, place)
    rows = count_new(
        {"preference_dataset": config.preference_dataset, "feedback_dataset": config.feedback_dataset},
        instruction=config.instruction,
        max_bad_rows=config.max_bad_rows,
        known_path=champion.preference_rows if champion else "",
    )
    added, new = sum(count.new for count in rows.values()), _told(rows, "new")
    if champion is None:
        enough, message = True, f"No champion yet: the first run tunes, whatever is new ({_told(rows, 'rows')})."
    elif not champion.preference_rows:
        enough = True
        message = f"{champion.resource_name} does not tell which preferences it was trained on, so all count as new."
    elif added < config.min_new_preferences:
        enough, message = False, f"Nothing new: {new}, {config.min_new_preferences:,} needed."
        message += f" {champion.resource_name} stays as it is."
    else:
        enough, message = True, f"{new} since {champion.resource_name}, {config.min_new_preferences:,} needed: tuning."
    return Outcome(
        enough=enough,
        message=message,
        champion=champion.resource_name if champion else "",
        warm_start_adapter=_start(config, champion) if enough else "",
    )


def _told(rows: Mapping[str, NewRows], name: str) -> str:
    adjective = "new " if name == "new" else ""
    words = {
        "preference_dataset": (f"{adjective}preference", ""),
        "feedback_dataset": (f"{adjective}row", " of feedback"),
    }
    said = [counted(getattr(count, name), words[dataset][0]) + words[dataset][1] for dataset, count in rows.items()]
    return " and ".join(said)


def _start(config: RecurringConfig, champion: Champion | None) -> str:
    if not config.warm_start or champion is None or not champion.promoted:
        return config.warm_start_adapter
    if not champion.adapter:
        step.say(f"{champion.resource_name} has no adapter, so there is no warm start from it")
        return config.warm_start_adapter
    return champion.adapter
