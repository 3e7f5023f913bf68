"""How many steps of each way of training fit into one budget of time, by the forecast."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.models.architecture import Architecture
from rlhf_tuning.parameters import Value
from rlhf_tuning.planning.expectation import plan_here
from rlhf_tuning.planning.forecast import Hardware, Plan, forecast

_MOST_STEPS = 1_000_000

#: Seconds of a training of so many steps.
_Seconds = Callable[[int], float]

#: What a training does beside its steps.
_BESIDE = (
    "validation of reward models",
    "held-out loss",
    "reference",
    "held-out preferences",
    "centring of scores",
    "watch",
)


def _supervised(plan: Plan, model: Architecture, reward_base: Architecture, hardware: Hardware) -> _Seconds:
    alone = replace(
        plan,
        reward_model_train_steps=0,
        reinforcement_learning_train_steps=0,
        held_out_reward_model_share=0.0,
        watch_prompts=0,
    )
    return lambda steps: _training_seconds(replace(alone, supervised_train_steps=steps), model, reward_base, hardware)


def _preference(plan: Plan, model: Architecture, reward_base: Architecture, hardware: Hardware) -> _Seconds:
    alone = replace(
        plan, reward_model_train_steps=0, reinforcement_learning_train_steps=0, held_out_reward_model_share=0.0
    )
    return lambda steps: _training_seconds(replace(alone, preference_train_steps=steps), model, reward_base, hardware)


def _reinforcement(plan: Plan, model: Architecture, reward_base: Architecture, hardware: Hardware) -> _Seconds:
    return lambda steps: _training_seconds(
        replace(plan, reinforcement_learning_train_steps=steps), model, reward_base, hardware
    )


def _training_seconds(plan: Plan, model: Architecture, reward_base: Architecture, hardware: Hardware) -> float:
    found = forecast(plan, model, hardware, reward_base=reward_base)
    return 3600 * (sum(phase.hours for phase in found.phases) + sum(found.hours.get(name, 0.0) for name in _BESIDE))


#: A way of training to what its steps take. Reinforcement learning pays for its reward models and its watch as well.
TRAININGS: dict[str, Callable[[Plan, Architecture, Architecture, Hardware], _Seconds]] = {
    "supervised": _supervised,
    "preference": _preference,
    "reinforcement": _reinforcement,
}


def forecast_here(values: Mapping[str, Value]) -> Callable[[str, Mapping[str, Value]], _Seconds]:
    """Return what says how long a way of training takes on this machine. Takes some seconds.

    Args:
        values: A run's parameters; its data and its model's tokenizer are there.

    Returns:
        A function of a name in `TRAININGS` and of the parameters that have other values there, which returns the seconds by
        the number of steps.

    Raises:
        RlhfError: If there is no forecast for the model, or data or tokenizer cannot be read.
    """
    plan, model, reward_base, hardware = plan_here(values)

    def seconds(training: str, own: Mapping[str, Value]) -> _Seconds:
        given = {**values, **own}
        if training == "preference":
            given["lora_dim"] = given["adapter_size"]
        changed = Plan.of(given)
        of_its_own = replace(
            changed,
            prompt_tokens=plan.prompt_tokens,
            answer_tokens=plan.answer_tokens,
            preferences=plan.preferences,
            reward_model_train_steps=min(plan.reward_model_train_steps, changed.reward_model_train_steps),
        )
        return TRAININGS[training](of_its_own, model, reward_base, hardware)

    return seconds


def steps_within(budget: float, seconds: _Seconds, *, label: str) -> int:
    """Return the most steps that are forecast to take no longer than a budget.

    Args:
        budget: Seconds.
        seconds: What so many steps take.
        label: Of the method, for people.

    Raises:
        ParameterError: If not even one step fits.
    """
    if seconds(1) > budget:
        raise ParameterError(
            f"The budget is too small for {label}: {budget / 60:.1f} minutes, and one step with what comes before it is "
            f"forecast to take {seconds(1) / 60:.1f}. Raise --minutes or --cost, or leave the method out with --methods."
        )
    low, high = 1, _MOST_STEPS
    while low < high:
        middle = (low + high + 1) // 2
        if seconds(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
