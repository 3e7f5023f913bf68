"""Checks of values against what `parameters` allows, for the command, the pipelines and the library alike."""

import re

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.parameters import PARAMETERS, Limit

#: Of a machine, in any currency.
PRICE_PER_HOUR = Limit(0)

_SECRET = re.compile(r"projects/[a-z0-9.:-]+/secrets/[A-Za-z0-9_-]{1,255}(?:/versions/[A-Za-z0-9_-]{1,63})?")

NO_EXPLORATION = (
    "temperature is 0; it must be greater than 0: reinforcement learning compares different answers to a prompt, and at 0 "
    "all are the same. Only infer_pipeline takes 0, and distillation_pipeline for its teacher."
)
NO_SAMPLES = (
    "temperature is 0; it must be greater than 0: how far a tuned model has moved is read off answers that it samples, and "
    "at 0 it always says the same. Only infer_pipeline takes 0, and distillation_pipeline for its teacher."
)
NO_COEFFICIENT = "kl_coeff is 0; with a target_kl it must be greater than 0: the coefficient that adapts begins there."

TWO_SUPERVISED = (
    "supervised_dataset is given and supervise_on_preferred is true; the supervised phase learns from one of the two. Leave "
    "one of them out."
)
NO_WARM_START = (
    "warm_start_adapter and warm_start continue an adapter of the base model, and a supervised phase puts another model in "
    "its place. Leave them out, or supervised_dataset and supervise_on_preferred."
)
NO_PROBABILITIES = (
    "on_policy is true, but teacher is {!r}: a server does not tell how probable its model finds each token that might come "
    "next, from which the student is to learn on its own answers. Set teacher to 'local_model', or leave on_policy out."
)
NO_JUDGE = (
    "held_out_reward_model_share is 0; it must be above 0 where methods are compared: from that share learns a reward model "
    "that only judges."
)
NO_SMOOTHING = (
    "label_smoothing is above 0, which only loss_type robust knows. Choose that loss, or set label_smoothing to 0."
)

BOTH_TO_LEARN_FROM = (
    "preference_dataset and feedback_dataset are both given, and preference tuning learns from one of them. Leave the other "
    "out."
)
NOTHING_TO_LEARN_FROM = (
    "preference_dataset is missing. Give it, or a feedback_dataset with loss_type kto: that learns from single answers."
)
NO_DATA_FOR_REWARDS = "preference_dataset is missing. Give it, or a feedback_dataset, or both."
NO_PAIRS = (
    "loss_type is {!r}, which compares two answers to a prompt, and each row of feedback_dataset has one. Set loss_type to "
    "kto; or make pairs of the feedback with 'rlhf convert --to preference', where prompts have several answers."
)
NO_PREFERRED = (
    "supervise_on_preferred is true, and feedback has no preferred answers. Give a supervised_dataset instead."
)
NO_FEEDBACK = "loss_type is 'kto', which learns from feedback_dataset. Choose another loss for preference_dataset."
NO_CHOSEN_ANSWERS = (
    "rpo_alpha is above 0, and with loss_type kto there are no chosen answers for such a term. Set rpo_alpha to 0; a higher "
    "desirable_weight makes more of liked answers."
)
NO_OTHER_ANSWER = (
    "batch_size is 1; loss_type kto holds each answer against another one of its step. Set it to 2 or more."
)
NO_WEIGHTS = (
    "desirable_weight and undesirable_weight weigh answers of feedback_dataset, from which only loss_type kto learns. Leave "
    "them at 1."
)


def problem_with(name: str, value: object) -> str:
    """Return what is wrong with a parameter's value, or an empty string."""
    if name == "accelerator_type" and value == "TPU":
        return (
            "accelerator_type is 'TPU', which is not supported yet. Use 'GPU', or leave it out; which GPU, and how many, is "
            "chosen when the pipeline is compiled, as in 'rlhf compile --target vertex --machine a100-80gb'."
        )
    if name == "accelerator_type" and value == "":
        return ""  # the default of Vertex's job for supervised tuning
    if name == "max_context_length" and value:
        return (
            f"max_context_length is {value!r}, which would cut nothing here. Leave it empty, and say with "
            "prompt_sequence_length and target_sequence_length how much of a prompt and of an answer is learnt from."
        )
    if name in ("judge_key_secret", "teacher_key_secret"):
        return problem_with_secret(str(value), parameter=name)
    if name not in PARAMETERS:
        return ""
    limit, choices = PARAMETERS[name].limit, PARAMETERS[name].choices
    if choices and value not in choices:
        accepted = ", ".join(repr(choice) for choice in choices)
        return f"{name} is {value!r}; it must be {'one of ' if len(choices) > 1 else ''}{accepted}."
    if limit:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{name} is {value!r}; it must be a number {limit}."
        if not limit.allows(value):
            return f"{name} is {value}; it must be {limit}."
        if name == "gate_max_length_ratio" and 0 < value < 1:
            return f"{name} is {value}; it must be at least 1, or 0 for no limit."
    return ""


def highest(name: str) -> int:
    """Return the highest whole number that a parameter may be, one of those that have such a limit."""
    limit = PARAMETERS[name].limit
    assert limit
    return int(limit.high)


def problem_with_secret(name: str, *, parameter: str) -> str:
    """Return why `name` can be no secret's, or an empty string."""
    if not name or _SECRET.fullmatch(name):
        return ""
    # Not shown otherwise: it may be the key itself, and what is told here stands in logs.
    shown = f"is {name!r}" if name.startswith("projects/") else "is no name of a secret (not shown: it may be the key)"
    return (
        f"{parameter} {shown}; it must be projects/PROJECT/secrets/SECRET/versions/VERSION of Secret Manager, without "
        "/versions/VERSION for the newest."
    )


def check_exploration(temperature: float) -> None:
    """Check the temperature of a run that learns from samples.

    Raises:
        ParameterError: If it is 0.
    """
    if temperature == 0:
        raise ParameterError(NO_EXPLORATION)


def check_samples(temperature: float) -> None:
    """Check the temperature of a run that compares samples of a tuned model.

    Raises:
        ParameterError: If it is 0.
    """
    if temperature == 0:
        raise ParameterError(NO_SAMPLES)


def check_target_kl(*, target_kl: float, kl_coeff: float) -> None:
    """Check that there is a coefficient to adapt where a KL is aimed at.

    Raises:
        ParameterError: If there is none.
    """
    if target_kl and not kl_coeff:
        raise ParameterError(NO_COEFFICIENT)


def problem_with_supervised_phase(
    *, supervised_dataset: str, supervise_on_preferred: bool, warm_start: bool = False, warm_start_adapter: str = ""
) -> str:
    """Return what is wrong with what a supervised phase is to learn from, or an empty string."""
    if supervised_dataset and supervise_on_preferred:
        return TWO_SUPERVISED
    supervises = bool(supervised_dataset or supervise_on_preferred)
    return NO_WARM_START if supervises and (warm_start or warm_start_adapter) else ""


def check_supervised_phase(
    *, supervised_dataset: str, supervise_on_preferred: bool, warm_start_adapter: str = ""
) -> bool:
    """Check what a supervised phase is to learn from, and say whether there is one.

    Raises:
        ParameterError: If there are two answers to that, or an adapter that does not fit what it makes.
    """
    if problem := problem_with_supervised_phase(
        supervised_dataset=supervised_dataset,
        supervise_on_preferred=supervise_on_preferred,
        warm_start_adapter=warm_start_adapter,
    ):
        raise ParameterError(problem)
    return bool(supervised_dataset or supervise_on_preferred)


def problem_with_on_policy(*, on_policy: bool, teacher: str) -> str:
    """Return why a student cannot learn from its teacher on its own answers, or an empty string."""
    return NO_PROBABILITIES.format(teacher) if on_policy and teacher != "local_model" else ""


def check_on_policy(*, on_policy: bool, teacher: str) -> None:
    """Check that a student can learn from its teacher on its own answers, where it is to.

    Raises:
        ParameterError: If it cannot.
    """
    if problem := problem_with_on_policy(on_policy=on_policy, teacher=teacher):
        raise ParameterError(problem)


def check_judge_share(held_out_reward_model_share: float) -> None:
    """Check that preferences are left to a reward model that only judges, where one is trained in any case.

    Raises:
        ParameterError: If none are.
    """
    if not held_out_reward_model_share:
        raise ParameterError(NO_JUDGE)


def check_label_smoothing(*, label_smoothing: float, loss_type: str) -> None:
    """Check that the loss has a use for the share of wrong labels.

    Raises:
        ParameterError: If it has none.
    """
    if label_smoothing and loss_type != "robust":
        raise ParameterError(NO_SMOOTHING)


def problem_with_preferences(
    *, preference_dataset: str, feedback_dataset: str, loss_type: str, supervise_on_preferred: bool
) -> str:
    """Return what is wrong with what preference tuning is to learn from, or an empty string."""
    if preference_dataset and feedback_dataset:
        return BOTH_TO_LEARN_FROM
    if feedback_dataset:
        return NO_PAIRS.format(loss_type) if loss_type != "kto" else NO_PREFERRED if supervise_on_preferred else ""
    if preference_dataset:
        return NO_FEEDBACK if loss_type == "kto" else ""
    return NOTHING_TO_LEARN_FROM


def check_preferences(
    *, preference_dataset: str, feedback_dataset: str, loss_type: str, supervise_on_preferred: bool
) -> None:
    """Check what preference tuning is to learn from.

    Raises:
        ParameterError: If there is nothing, or two things, or the loss has no use for it.
    """
    if problem := problem_with_preferences(
        preference_dataset=preference_dataset,
        feedback_dataset=feedback_dataset,
        loss_type=loss_type,
        supervise_on_preferred=supervise_on_preferred,
    ):
        raise ParameterError(problem)


def problem_with_weights(
    *, loss_type: str, rpo_alpha: float, desirable_weight: float, undesirable_weight: float, batch_size: int
) -> str:
    """Return what of preference tuning's settings does not go with its loss, or an empty string."""
    if loss_type != "kto":
        return NO_WEIGHTS if (desirable_weight, undesirable_weight) != (1.0, 1.0) else ""
    return NO_CHOSEN_ANSWERS if rpo_alpha else NO_OTHER_ANSWER if batch_size == 1 else ""


def check_weights(
    *, loss_type: str, rpo_alpha: float, desirable_weight: float, undesirable_weight: float, batch_size: int
) -> None:
    """Check that preference tuning's settings go with its loss.

    Raises:
        ParameterError: If one does not.
    """
    if problem := problem_with_weights(
        loss_type=loss_type,
        rpo_alpha=rpo_alpha,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
        batch_size=batch_size,
    ):
        raise ParameterError(problem)


def check_context(
    positions: int, *, prompt_sequence_length: int, target_sequence_length: int, model: str = "the base model"
) -> None:
    """Refuse sequences that are longer than the positions a model was made for.

    Args:
        positions: How many; 0 where there is no limit.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.
        model: What to call the model.

    Raises:
        ParameterError: Naming both lengths and the model's limit.
    """
    # The end-of-sequence token comes on top.
    if positions and prompt_sequence_length + target_sequence_length + 1 > positions:
        raise ParameterError(
            f"prompt_sequence_length {prompt_sequence_length} and target_sequence_length {target_sequence_length} are more "
            f"than the {positions} positions of {model}. Lower them, or choose a model with a longer context."
        )


def check_limits(**values: object) -> None:
    """Check each named value.

    Raises:
        ParameterError: Naming every value that is not allowed, and what is.
    """
    problems = [problem for name, value in values.items() if (problem := problem_with(name, value))]
    if problems:
        raise ParameterError("\n".join(problems))
