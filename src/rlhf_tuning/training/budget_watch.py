"""Ends a training in time, where its run has a budget: see `planning.run_budget` for how much of it is this step's.

It ends after the optimizer step behind which another one, with what else is done between two, would not be done in time. The
watch then looks once more, and what it finds best is returned, as at the end of any training. One step at least is taken.
Several processes end at the same step: that where the first of them has no time left.

Where steps take longer than forecast, as on a machine that others use too, so will what comes after them: more is kept back.
"""

import time
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any

from transformers import TrainerCallback

from rlhf_tuning import environment, step
from rlhf_tuning.distributed import processes
from rlhf_tuning.models import base_model
from rlhf_tuning.planning.expectation import measure_here
from rlhf_tuning.planning.forecast import Forecast
from rlhf_tuning.planning.run_budget import StepBudget, check_budget, keep_outcome, told_hours

#: To save a model takes about as long as to load it did, which is not known where something long came in between.
_MOST_SAVING = 60.0
#: The longest of so many steps says how long the next may take: the first of all is no measure of it.
_STEPS = 8


class BudgetWatch(TrainerCallback):  # type: ignore[misc]
    """Stops a trainer; does nothing where there is no budget.

    To be made before the model is loaded, and to be called before what looks at the model: it asks for a last look.

    Args:
        budget: From `run_budget.step_budget`; empty for none.
        dtype: As the pipeline's parameter.
        label: What is trained.
    """

    def __init__(self, budget: str, *, dtype: str, label: str) -> None:
        self.reason = ""
        self._label = label
        self._budget = StepBudget.from_text(budget) if budget else None
        self._forecast = processes.from_main(lambda: self._forecast_here(dtype)) if budget else None
        self._saving = 0.0
        self._before = 0.0
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._between = 0.0
        self._began = self._ended = 0.0

    @property
    def stopped(self) -> bool:
        """Whether the budget ended the training."""
        return bool(self.reason)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of what is done beside the steps, such as a first look.

        A training that was ended before stays so, unless there is more time now, as where the budget was raised.
        """
        self._ended = time.time()
        if self._budget:
            self._saving = min(self._ended - self._budget.began, _MOST_SAVING)
        if self.stopped and (self._budget is None or not self._is_over()):
            self.reason = ""
        control.should_training_stop = self.stopped

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note how long it took since the step before: looks, and checkpoints."""
        self._began = time.time()
        self._between = max(self._between, self._began - self._ended)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop, where the next step would not be done in time."""
        self._ended = time.time()
        self._steps.append(self._ended - self._began)
        if self._budget is None or control.should_training_stop:
            return
        if not self._is_over():
            return
        self.end(
            f"The budget, {self._budget.run}, ended {self._label} at step {state.global_step:,} of {state.max_steps:,}: the "
            "rest is for what comes after it. With more, or fewer steps, it would learn to its end."
        )
        control.should_training_stop = True

    def end(self, reason: str) -> None:
        """Say why the training is over, or is not to begin, because of the budget."""
        self.reason = reason
        step.say(reason)

    def state_dict(self) -> dict[str, Any]:
        """Return what a training that goes on from a checkpoint has used up before, and whether it was ended."""
        began = self._budget.began if self._budget else time.time()
        return {
            "seconds": self._before + time.time() - began,
            "reason": self.reason,
            "steps": list(self._steps),
            "between": self._between,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._before, self.reason, self._between = state["seconds"], state["reason"], state["between"]
        self._steps.extend(state["steps"])

    def finish(self, folder: str | Path) -> dict[str, float]:
        """Leave `budget.json` in a folder, and return what the step's metrics say of it; nothing without a budget."""
        if self._budget is None:
            return {}
        if environment.is_main_process():
            keep_outcome(folder, self.reason)
        return {"stopped_by_budget": float(self.stopped), "seconds_before": self._before}

    def _is_over(self) -> bool:
        """Say whether the next step would not be done in time."""
        left = self._ends() - self._before - self._ended
        return processes.any_says(left < max(self._steps) + self._between)

    def _ends(self) -> float:
        """Return when the last optimizer step is to be done, in seconds since 1970."""
        assert self._budget
        assert self._forecast
        budget, found = self._budget, self._forecast
        slower = 1.0
        if len(self._steps) == _STEPS:
            slower = max(slower, median(self._steps) / budget.step_seconds(found))
        return budget.began + budget.seconds(found, slower) - budget.seconds_after(found, slower) - self._saving

    def _forecast_here(self, dtype: str) -> Forecast:
        """Return the forecast of the run on this machine."""
        assert self._budget
        budget, run = self._budget, self._budget.run
        hardware = measure_here(run.plan, run.model, dtype)
        base_model.release_memory()
        if budget.is_first and not run.checked:
            check_budget(run, hardware)
        found = run.forecast(hardware)
        seconds = budget.seconds(found)
        step.say(
            f"Budget: {run}; steps before this one took {step.duration(budget.spent)}, and {self._label} may take "
            f"{told_hours(seconds / 3600)} (forecast of the whole run: {told_hours(found.all_hours)})"
        )
        return found
