"""The budget of a run, in hours or money: refused before it begins where it cannot do, and divided while it trains.

Validate Inputs makes it, and hands it on as one text. It holds the plan, not a forecast: each training step forecasts the
run anew, on the machine on which it trains. By that it keeps back what evaluation, gate and the start of all steps will
take, with the forecast's error on top, and takes its share of the rest: as much as it has of the training not done yet. So
what one step leaves over goes to those after it, and two that run side by side never spend the same hour.

Counted are the seconds of this run's steps, as they are handed on (`step_times`), one machine each. What was taken from an
earlier run costs nothing; what a training took before it was stopped and went on does.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlhf_tuning import registry
from rlhf_tuning.accelerators import GPUS, machine_name
from rlhf_tuning.errors import ModelError, ModelNotAtHandError, ParameterError
from rlhf_tuning.models.architecture import Architecture
from rlhf_tuning.parameters import Value
from rlhf_tuning.planning.expectation import measure_here, plan_of_data
from rlhf_tuning.planning.forecast import TIME_ERROR, Forecast, Hardware, Plan, forecast, gpu_hardware
from rlhf_tuning.planning.prices import list_price
from rlhf_tuning.step import duration
from rlhf_tuning.step_times import StepClock

NAMES = ("max_hours", "max_cost", "price_per_hour", "train_until_budget")

NO_PRICE = (
    "max_cost is given, and no price_per_hour: what the machine costs is not known. Say it, in the currency of max_cost, or "
    "give max_hours instead."
)

#: A training step to its phase in a forecast: the first of these that the forecast has.
_TRAININGS = {
    "Supervised Trainer": ("supervised tuning",),
    "Reward Model Trainer": ("reward model",),
    "Held-out Reward Model Trainer": ("held-out reward model",),
    "Preference Trainer": ("preference tuning",),
    "Reinforcer": ("reinforcement learning",),
    "Student Trainer": ("on-policy distillation", "supervised tuning"),
}
#: What a forecast has beside the steps of a phase; both reward models have theirs together.
_BESIDE = {
    "supervised tuning": ("held-out loss",),
    "preference tuning": ("reference", "held-out preferences"),
    "on-policy distillation": ("held-out answers",),
    "reinforcement learning": ("watch",),
}
#: Of the kinds of steps that a plan may have, the parameter that says how many.
_STEPS = {
    "supervised_train_steps": "supervised_train_steps",
    "reward_model_train_steps": "reward_model_train_steps",
    "reinforcement_learning_train_steps": "reinforcement_learning_train_steps",
    "preference_train_steps": "epoch_count",
    "on_policy_train_steps": "on_policy_train_steps",
}
#: What a run has none of that trains a reward model alone.
ALONE = {"reinforcement_learning_train_steps": 0, "held_out_reward_model_share": 0.0, "watch_prompts": 0}
#: What is kept back is multiplied by this: nine forecasts of ten are within it.
_SURE = 1 + TIME_ERROR[1]
#: Halvings, after which a number of steps is known to a thousandth.
_HALVINGS = 12


@dataclass(frozen=True, kw_only=True)
class RunBudget:
    """What a run may take, and all that says how long it will.

    Args:
        max_hours: 0 for no limit.
        max_cost: 0 for no limit.
        price_per_hour: Of the machine that trains; 0 where nobody knows it.
        train_until_budget: Whether the run begins though its forecast is too long.
        plan: The run's settings.
        model: The base model.
        reward_base: Base of the reward models.
        steps_are: Names of the parameters that say how many steps there are, by the plan's.
        epoch_count: Of preference tuning.
        location: The machine's region; empty where nobody said.
        checked: Whether the forecast was held against it already.
    """

    max_hours: float
    max_cost: float
    price_per_hour: float
    train_until_budget: bool
    plan: Plan
    model: Architecture
    reward_base: Architecture
    steps_are: Mapping[str, str]
    epoch_count: float = 0.0
    location: str = ""
    checked: bool = False

    def __post_init__(self) -> None:
        if self.max_cost and not self.price_per_hour:
            raise ParameterError(NO_PRICE)

    @property
    def hours(self) -> float:
        """The hours that the steps of the run may take together."""
        return self.hours_at(self.price_per_hour)

    def hours_at(self, price: float) -> float:
        """Return the hours that a machine of this price may take."""
        by_cost = self.max_cost / price if self.max_cost and price else math.inf
        return min(self.max_hours or math.inf, by_cost)

    def __str__(self) -> str:
        if not self.max_cost or self.hours < self.max_cost / self.price_per_hour:
            return told_hours(self.hours)
        return f"{self.max_cost:,.2f} at {self.price_per_hour:g} an hour, {told_hours(self.hours)}"

    def as_text(self) -> str:
        """Return it as it is handed from step to step."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> "RunBudget":
        """Return what `as_text` wrote."""
        fields = json.loads(text)
        parts = {"model": Architecture, "reward_base": Architecture, "plan": Plan}
        return cls(**fields | {name: kind(**fields[name]) for name, kind in parts.items()})

    def forecast(self, hardware: Hardware) -> Forecast:
        """Return what the run takes on a machine."""
        return forecast(self.plan, self.model, hardware, reward_base=self.reward_base)


def told_hours(hours: float) -> str:
    """Return hours as people read them."""
    return duration(3600 * hours)


def budget_of(values: Mapping[str, Value], *, tunes_on_preferences: bool = False) -> RunBudget | None:
    """Return the budget among a run's parameters, with a plan by its own data; None where there is none.

    Args:
        values: The run's parameters; its data and its model's tokenizer are there.
        tunes_on_preferences: Whether it is preference tuning.

    Raises:
        ParameterError: If there is no price for a cost, or no forecast by which a budget could be kept.
        RlhfError: If data or tokenizer cannot be read.
    """
    if not values.get("max_hours") and not values.get("max_cost"):
        return None
    if values["max_cost"] and not values["price_per_hour"]:
        raise ParameterError(NO_PRICE)
    if not (tunes_on_preferences or values.get("dataset_uri") or values.get("prompt_dataset")):
        values = {**values, **ALONE}
    try:
        plan, model, reward_base = plan_of_data(values, tunes_on_preferences=tunes_on_preferences)
    except ModelNotAtHandError:
        raise
    except ModelError as error:
        raise ParameterError(f"A budget is kept by a forecast, and there is none for this model: {error}") from None
    return of_plan(values, plan, model, reward_base)


def of_plan(values: Mapping[str, Value], plan: Plan, model: Architecture, reward_base: Architecture) -> RunBudget:
    """Return the budget among a run's parameters, for a plan.

    Raises:
        ParameterError: If there is no price for a cost.
    """
    own = {"supervised_train_steps": "train_steps"} if values.get("dataset_uri") else {}
    return RunBudget(
        max_hours=float(values["max_hours"]),
        max_cost=float(values["max_cost"]),
        price_per_hour=float(values["price_per_hour"]),
        train_until_budget=bool(values["train_until_budget"]),
        plan=plan,
        model=model,
        reward_base=reward_base,
        steps_are=_STEPS | own,
        epoch_count=float(values["epoch_count"]) if plan.preference_train_steps else 0.0,
        location=str(values.get("location", "")),
    )


def hardware_of(machine: str, plan: Plan, model: Architecture, dtype: str) -> Hardware | None:
    """Return what a machine has; None where nobody knows it.

    Args:
        machine: Its name, such as `a100-80gb-x8`; empty for the one at hand, which takes torch.
        plan: Says how large a product is.
        model: Likewise.
        dtype: As the pipeline's parameter.
    """
    if not machine:
        return measure_here(plan, model, dtype) if find_spec("torch") else None
    for kind, gpu in GPUS.items():
        for count in (1, 2, 4, 8):
            if machine == machine_name(kind, count) and gpu.gpu_memory:
                return gpu_hardware(kind, gpu, count, dtype=dtype)
    return None


def check_run(values: Mapping[str, Value], *, machine: str = "", tunes_on_preferences: bool = False) -> str:
    """Refuse a run whose budget cannot do, and return the budget as it is handed on; empty where there is none.

    Args:
        values: The run's parameters; its data and its model's tokenizer are there.
        machine: See `hardware_of`; where it is not known nothing is refused yet, and the first training step does it.
        tunes_on_preferences: Whether it is preference tuning.

    Raises:
        ParameterError: Saying what would fit.
        RlhfError: If data or tokenizer cannot be read.
    """
    budget = budget_of(values, tunes_on_preferences=tunes_on_preferences)
    if budget is None:
        return ""
    hardware = hardware_of(machine, budget.plan, budget.model, str(values["dtype"]))
    if hardware:
        check_budget(budget, hardware)
    return replace(budget, checked=hardware is not None).as_text()


def check_budget(budget: RunBudget, hardware: Hardware) -> None:
    """Refuse a run whose forecast exceeds its budget by more than it may be off; nothing else would be left to train.

    Raises:
        ParameterError: Saying what would fit.
    """
    found = budget.forecast(hardware)
    if found.least_hours <= budget.hours:
        return
    shortest = _with_share(budget, 0.0).forecast(hardware)
    if budget.train_until_budget and shortest.least_hours <= budget.hours:
        return
    instead = what_fits(budget, hardware)
    if shortest.least_hours <= budget.hours:
        instead.append("--train-until-budget, to train for as long as it lasts")
    else:
        instead.append(f"{_more(budget, shortest.all_hours)}, for a single step of each training")
    raise ParameterError(
        f"The budget is {budget}, and this run is forecast to take {told_hours(found.all_hours)} on {hardware.name}, "
        f"{told_hours(found.least_hours)} at the least. It would fit with any of: {'; '.join(instead)}."
    )


def what_fits(budget: RunBudget, hardware: Hardware) -> list[str]:
    """Return single changes with which the forecast keeps to the budget, each the smallest of its kind."""
    found = []

    def fits(changed: RunBudget) -> bool:
        return changed.forecast(hardware).all_hours <= budget.hours

    trained = [name for name in _STEPS if vars(budget.plan)[name]]
    for names in {tuple(trained[-1:]), tuple(trained)}:
        if share := _largest(lambda share, names=names: fits(_with_share(budget, share, names))):  # type: ignore[misc]
            found.append(_as_flags(budget, _with_share(budget, share, names), names))
    found.sort(key=len)
    if not hardware.cpu and (machine := _cheapest_machine(budget, hardware)):
        found.append(machine)
    if more := _more(budget, budget.forecast(hardware).all_hours):
        found.append(more)
    return found


def _more(budget: RunBudget, hours: float) -> str:
    """Return the flags of a budget that so many hours keep to; empty where they keep to this one."""
    flags = []
    if budget.max_hours and hours > budget.max_hours:
        flags.append(f"--max-hours {_rounded_up(hours)}")
    if budget.max_cost and hours * budget.price_per_hour > budget.max_cost:
        flags.append(f"--max-cost {_rounded_up(hours * budget.price_per_hour)}")
    return " ".join(flags)


def _rounded_up(value: float) -> str:
    """Return a number that is no smaller, with two digits that mean something."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit) * unit:.10g}"


def _largest(fits: Callable[[float], bool]) -> float:
    """Return the largest share between 0 and 1 that fits; 0 where none does."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _with_share(budget: RunBudget, share: float, names: Collection[str] = tuple(_STEPS)) -> RunBudget:
    """Return a run with so many of its steps, of some phases; at least one of each that it has."""
    steps = {name: vars(budget.plan)[name] for name in names}
    fewer = {name: max(1, math.floor(share * count)) for name, count in steps.items() if count}
    return replace(budget, plan=replace(budget.plan, **fewer))


def _as_flags(budget: RunBudget, fewer: RunBudget, names: Collection[str]) -> str:
    flags = []
    for name in names:
        steps = vars(fewer.plan)[name]
        share = steps / vars(budget.plan)[name]
        value = f"{budget.epoch_count * share:.2g}" if budget.steps_are[name] == "epoch_count" else str(steps)
        flags.append(f"--{budget.steps_are[name].replace('_', '-')} {value}")
    return " ".join(flags)


def _cheapest_machine(budget: RunBudget, hardware: Hardware) -> str:
    """Return the flag for the machine with GPUs on which the run fits and costs least, by the list; empty for none."""
    dtype = "float32" if hardware.number_bytes == 4 else "bfloat16"
    found = []
    for kind, gpu in GPUS.items():
        for count, machine_type in gpu.machine_types.items():
            name = machine_name(kind, count)
            price = list_price((name, machine_type), budget.location)
            each_hour = price.on_demand if price and price.on_demand else 0.0
            takes = budget.forecast(gpu_hardware(kind, gpu, count, dtype=dtype))
            priced = count in gpu.on_demand and (bool(each_hour) or not budget.max_cost)
            if priced and takes.fits and takes.all_hours <= budget.hours_at(each_hour):
                found.append((each_hour * takes.all_hours, takes.all_hours, name, each_hour))
    if not found:
        return ""
    _, _, name, each_hour = min(found)
    return f"--machine {name}" + (f" --price-per-hour {each_hour:g}" if budget.max_cost else "")


def step_budget(budget: str, clock: StepClock) -> str:
    """Return what a training step needs to know to keep to the run's budget; empty where there is none.

    Args:
        budget: The run's.
        clock: The step's.
    """
    if not budget:
        return ""
    *before, own = clock.times()
    told = {
        "run": json.loads(budget),
        "step": own.name,
        "began": own.started,
        "spent": sum(took.seconds + took.earlier for took in before if took.run == own.run),
        "known": sorted({took.name for took in before}),
    }
    return json.dumps(told, sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class StepBudget:
    """A training step's part in the run's budget.

    Args:
        run: The run's.
        step: The step's name.
        began: When, in seconds since 1970.
        spent: Seconds that steps before it took, of this run.
        known: Their names, and those of steps whose results were taken from an earlier run.
    """

    run: RunBudget
    step: str
    began: float
    spent: float
    known: Collection[str]

    @classmethod
    def from_text(cls, text: str) -> "StepBudget":
        """Return what `step_budget` wrote."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields | {"run": RunBudget.from_text(json.dumps(fields["run"]))})

    @property
    def is_first(self) -> bool:
        """Whether nothing was trained before."""
        return not set(self.known) & _TRAININGS.keys()

    def seconds(self, found: Forecast, slower: float = 1.0) -> float:
        """Return the seconds that the step may take in all; 0 where nothing is left.

        Args:
            found: A forecast for its machine.
            slower: How many times as long as forecast things take, as where others use the machine.
        """
        phases = _training_seconds(found)
        started = [name for name in self.known if name in _TRAININGS]
        done = {_phase_of(name, phases) for name in started}
        ahead = {phase: seconds for phase, seconds in phases.items() if phase not in done}
        left = 3600 * self.run.hours - self.spent - kept_back(found, slower, started=len(started))
        share = ahead[_phase_of(self.step, phases)] / sum(ahead.values()) if left > 0 else 1.0
        own_start = _SURE * 3600 * found.start_hours  # which was kept back until now
        return max(0.0, own_start + share * left)

    def seconds_after(self, found: Forecast, slower: float = 1.0) -> float:
        """Return the seconds that the step takes once its last optimizer step is done, but for saving: to centre scores."""
        return _SURE * slower * _centring_seconds(found) if "Reward Model" in self.step else 0.0

    def step_seconds(self, found: Forecast) -> float:
        """Return the seconds that an optimizer step is forecast to take, with all that dynamic sampling may add."""
        phases = {phase.name: phase for phase in found.phases}
        phase = phases[_phase_of(self.step, phases)]
        return phase.step_seconds + self.run.plan.dynamic_sampling * phase.sampled_seconds


def _phase_of(step: str, phases: Collection[str]) -> str:
    return next((phase for phase in _TRAININGS[step] if phase in phases), "")


def kept_back(found: Forecast, slower: float = 1.0, *, started: int = 0) -> float:
    """Return the seconds that are kept for evaluation and gate, and for the start of every step not yet started.

    Args:
        found: The forecast.
        slower: See `StepBudget.seconds`.
        started: Trainings that have.
    """
    starts = found.hours["start-up"] - started * found.start_hours
    return _SURE * 3600 * (slower * found.hours["evaluation"] + starts)


def _training_seconds(found: Forecast) -> dict[str, float]:
    """Return the seconds of each phase's training, with what is done beside its steps."""
    rewarded = {phase.name: phase.steps for phase in found.phases if phase.name.endswith("reward model")}
    validation = found.hours.get("validation of reward models", 0.0)
    return {
        phase.name: 3600
        * (
            phase.hours
            + sum(found.hours.get(name, 0.0) for name in _BESIDE.get(phase.name, ()))
            + validation * rewarded.get(phase.name, 0) / max(1, sum(rewarded.values()))
        )
        + (_centring_seconds(found) if phase.name in rewarded else 0.0)
        for phase in found.phases
    }


def _centring_seconds(found: Forecast) -> float:
    """Return the seconds in which a reward model's scores are centred; each does it alike."""
    models = sum(phase.name.endswith("reward model") for phase in found.phases)
    return 3600 * found.hours.get("centring of scores", 0.0) / max(1, models)


def keep_outcome(folder: str | Path, reason: str) -> None:
    """Leave beside what was trained what its budget did; `reason` is empty where it did not stop the training."""
    text = json.dumps({"reason": reason}, indent=2) + "\n"
    (Path(folder) / registry.BUDGET).write_text(text, encoding="utf-8")


def stopped_in(*folders: str | Path) -> list[str]:
    """Return why budgets stopped trainings, of those that left these folders; an empty name is no folder."""
    files = [Path(folder) / registry.BUDGET for folder in folders if folder]
    reasons = [json.loads(file.read_text(encoding="utf-8"))["reason"] for file in files if file.is_file()]
    return [reason for reason in reasons if reason]
