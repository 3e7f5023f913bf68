"""How many steps of each way of training fit into one budget of time, by the forecast."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.models.architecture import Architecture
from rlhf_tuning.parameters import Value
from rlhf_tuning.planning.expectation import plan_here
from rlhf_tuning.planning.forecast import (
    Hardware,
    Plan,
    forecast,
    preference_step_seconds,
    supervised_step_seconds,
)

_MOST_STEPS = 1_000_000

#: Seconds of a training of so many steps.
_Seconds = Callable[[int], float]


def _supervised(plan: Plan, model: Architecture, reward_base: Architecture, hardware: Hardware) -> _Seconds:
    step = supervised_step_seconds(plan, model, hardware)
    return lambda steps: steps * step


def _preference(plan: Plan, model: Architecture, reward_base: Architecture, hardware: Hardware) -> _Seconds:
    step = preference_step_seconds(plan, model, hardware)
    return lambda steps: steps * step


def _reinforcement(plan: Plan, model: Architecture, reward_base: Architecture, hardware: Hardware) -> _Seconds:
    def seconds(steps: int) -> float:
        longer = replace(plan, reinforcement_learning_train_steps=steps)
        found = forecast(longer, model, hardware, reward_base=reward_base)
        hours = sum(phase.hours for phase in found.phases) + found.hours["centring of scores"] + found.hours["watch"]
        return 3600 * hours

    return seconds


#: A way of training to what its steps take. Reinforcement learning pays for its reward models and its watch as well.
TRAININGS: dict[str, Callable[[Plan, Architecture, Architecture, Hardware], _Seconds]] = {
    "supervised": _supervised,
    "preference": _preference,
    "reinforcement": _reinforcement,
}


def seconds_of_trainings(values: Mapping[str, Value]) -> dict[str, _Seconds]:
    """Return what each way of training takes on this machine, by how many steps it has. Takes some seconds.

    Args:
        values: A run's parameters; its data and its model's tokenizer are there.

    Raises:
        RlhfError: If there is no forecast for the model, or data or tokenizer cannot be read.
    """
    plan, model, reward_base, hardware = plan_here(values)
    return {name: training(plan, model, reward_base, hardware) for name, training in TRAININGS.items()}


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
            f"forecast to take {seconds(1) / 60:.1f}. Give more, or leave the method out with --methods."
        )
    low, high = 1, _MOST_STEPS
    while low < high:
        middle = (low + high + 1) // 2
        if seconds(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
