"""Is there still something to learn? The loss on examples set aside, while a model learns from others.

Every some steps the model is measured on the same held-out examples. Two decisions rest on their loss. To stop: some looks
in a row were no better than the best before them. What to return: the look with the lowest loss; where that was before the
first step, nothing was learnt, and the model is returned as it began.

The loss decides, not the accuracy: of a hundred preferences that moves in steps of a point, and being surer than right shows
in the loss first. Examples, or the prompts that they share, are what is independent, not tokens, so intervals count those.
"""

import json
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rlhf_tuning import environment, registry, step
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.statistics import MeanEstimate, clustered_mean, clustered_share, ratio_interval
from rlhf_tuning.training.best_weights import BestWeights
from rlhf_tuning.training.training_log import TrainingLog


def of_answers(nats: Sequence[float], tokens: Sequence[int]) -> dict[str, MeanEstimate]:
    """Return loss and perplexity of held-out answers, a token.

    Args:
        nats: The negative log-probability of each answer.
        tokens: Of each answer.

    Raises:
        ParameterError: If one is not finite.
    """
    check_finite(nats)
    loss = ratio_interval(nats, tokens)
    perplexity = MeanEstimate(_exp(loss.mean), _exp(loss.low), _exp(loss.high), loss.n)
    return {"loss": loss, "perplexity": perplexity}


def of_margins(margins: Sequence[float], prompts: Sequence[Hashable]) -> dict[str, MeanEstimate]:
    """Return the Bradley-Terry loss of held-out preferences, and how often the preferred answer is ahead; a tie counts half.

    Args:
        margins: By how much each preferred answer is ahead of the other.
        prompts: What each belongs to.

    Raises:
        ParameterError: If one is not finite.
    """
    check_finite(margins)
    loss = clustered_mean([pair_loss(margin) for margin in margins], prompts)._replace(n=len(margins))
    return {
        "loss": loss,
        "accuracy": clustered_share([(margin > 0) + 0.5 * (margin == 0) for margin in margins], prompts),
    }


def pair_loss(margin: float) -> float:
    """Return -log sigmoid(margin)."""
    return math.log1p(math.exp(-abs(margin))) + max(0.0, -margin)


def check_finite(values: Sequence[float]) -> None:
    """Refuse a model whose loss is no number.

    Raises:
        ParameterError: If a value is not finite.
    """
    if not all(map(math.isfinite, values)):
        raise ParameterError(
            "The loss on held-out examples is not finite, and what follows would be no model. Lower the learning rate "
            "multiplier, or set dtype to float32."
        )


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was measured at one step, by name: `loss`, and what is shown beside it."""

    step: int
    values: Mapping[str, MeanEstimate]

    @property
    def loss(self) -> MeanEstimate:
        """What decides."""
        return self.values["loss"]

    def as_json(self) -> dict[str, Any]:
        """Return the means with their 95% intervals."""
        means = {
            name: {"mean": value.mean, "low": value.low, "high": value.high} for name, value in self.values.items()
        }
        return {"step": self.step, "n": self.loss.n, **means}

    def as_metrics(self, when: str = "") -> dict[str, float]:
        """Return the same as a step's metrics, with `when` in their names."""
        found: dict[str, float] = {}
        for name, value in self.values.items():
            prefix = f"held_out_{name}{when}"
            found |= {prefix: value.mean, f"{prefix}_low": value.low, f"{prefix}_high": value.high}
        return found

    def __str__(self) -> str:
        words = f"{self.loss.mean:.3f} [{self.loss.low:.3f}, {self.loss.high:.3f}]"
        return f"{words} with {self.values['accuracy'].mean:.1%} right" if "accuracy" in self.values else words


class HeldOutLoss:
    """The decisions, from the looks alone.

    Args:
        total_steps: How many steps there will be, if nothing stops them.
        patience: So many looks in a row without a lower loss end the training.
        unit: Of the loss.
        stops_early: Whether they may be stopped.
        selects: Whether the best checkpoint is returned, and not the last.
        judged: Whether the model will be judged on the same prompts.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        patience: int,
        unit: str,
        stops_early: bool = True,
        selects: bool = True,
        judged: bool = False,
    ) -> None:
        self.total_steps, self.unit, self.selects, self.judged = total_steps, unit, selects, judged
        self._patience, self._stops_early = patience, stops_early
        self.looks: list[Look] = []

    def add(self, look: Look) -> None:
        """Take in the next look."""
        self.looks.append(look)

    @property
    def best(self) -> Look:
        """The look with the lowest loss, the first of them."""
        return min(self.looks, key=lambda look: look.loss.mean)

    @property
    def stopped(self) -> bool:
        """Whether training is to end before its last step."""
        if not self.looks:
            return False
        without = len(self.looks) - 1 - self.looks.index(self.best)
        return self._stops_early and without >= self._patience and self.looks[-1].step < self.total_steps

    @property
    def returned(self) -> Look:
        """The look whose checkpoint is returned."""
        return self.best if self.selects else self.looks[-1]

    @property
    def chosen_among(self) -> int:
        """Among how many checkpoints the prompts chose on which the model will be judged; 1 where they have no say."""
        return max(1, sum(look.step > 0 for look in self.looks)) if self.judged and self.selects else 1

    @property
    def reason(self) -> str:
        """What was decided, and why, in words."""
        first, last, best, returned = self.looks[0], self.looks[-1], self.best, self.returned
        words = (
            f"Held-out loss went from {first} at step {first.step} to {returned} at step {returned.step}, {self.unit}, "
            f"n = {first.loss.n:,}. "
        )
        if self.stopped:
            words += (
                f"Stopped at step {last.step} of {self.total_steps}: in {self._patience} measurements in a row it was no "
                f"lower than at step {best.step}, and at last {last}. "
            )
        if returned is not best:
            return words + f"The last checkpoint, step {last.step}, is returned, as enable_checkpoint_selection says."
        if best.step == 0:
            return words + (
                "Nothing was learnt that held-out examples show, so the model is returned as it began. Lower the learning "
                "rate multiplier, or give more to learn from."
            )
        which = "The last checkpoint" if best is last else "The checkpoint"
        words += f"{which}, step {best.step}, is returned: it has the lowest loss."
        if self.chosen_among > 1:
            words += (
                " There are too few held-out prompts to set some aside, so the model will be judged on these; the gate asks "
                "for more because of it."
            )
        return words

    def as_metrics(self) -> dict[str, float]:
        """Return, as a step's metrics, what was measured of the model that is returned, and how many steps it took."""
        found = {"steps": self.looks[-1].step, "returned_step": self.returned.step}
        return found | {"held_out_loss_before": self.looks[0].loss.mean} | self.returned.as_metrics()

    def as_json(self) -> dict[str, Any]:
        """Return all looks and what was decided."""
        return {
            "unit": self.unit,
            "looks": [look.as_json() for look in self.looks],
            "best_step": self.returned.step,
            "last_step": self.looks[-1].step,
            "stopped": self.stopped,
            "chosen_among": self.chosen_among,
            "reason": self.reason,
        }


class HeldOutWatcher(TrainerCallback):  # type: ignore[misc]
    """Takes the looks while a trainer trains, keeps the best checkpoint, and stops the trainer.

    Of several processes each measures its share of the examples, and all decide the same from the same numbers.

    Args:
        model: The model that learns.
        measure: Returns what is measured of it, by name, such as `of_answers` and `of_margins` do.
        curve: Decides.
        interval: Steps between looks; the last is after the last step.
        from_start: Whether there is one before the first step.
        log: Gets the curves, and is told how long looks took.
        scratch: A folder of this process for the best weights.
    """

    def __init__(
        self,
        model: Any,
        measure: Callable[[], Mapping[str, MeanEstimate]],
        curve: HeldOutLoss,
        *,
        interval: int,
        from_start: bool,
        log: TrainingLog,
        scratch: str,
    ) -> None:
        self.curve = curve
        self._measure, self._interval, self._from_start, self._log = measure, interval, from_start, log
        self._weights = BestWeights(model, scratch)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the model before it has learnt anything; one that learns no more is not to go on."""
        if self._from_start and not self.curve.looks:
            self._look(0)
        control.should_training_stop = control.should_training_stop or self.curve.stopped

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, where it is time to, and stop what learns no more."""
        at = state.global_step
        if at % self._interval == 0 or at == self.curve.total_steps or control.should_training_stop:
            self._look(at)
            control.should_training_stop = control.should_training_stop or self.curve.stopped

    def state_dict(self) -> dict[str, Any]:
        """Return the looks so far and the best weights, for a checkpoint."""
        looks = [
            {"step": look.step, "values": {k: list(v) for k, v in look.values.items()}} for look in self.curve.looks
        ]
        return {"looks": looks, "best": self._weights.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for look in state["looks"]:
            values = {name: MeanEstimate(*value) for name, value in look["values"].items()}
            self.curve.add(Look(step=look["step"], values=values))
        self._weights.load_state_dict(state["best"])

    def finish(self, folder: str | Path) -> Look:
        """Put the chosen checkpoint's weights into the model, write `held_out_loss.json`, say why, and return the look."""
        returned = self.curve.returned
        if returned is not self.curve.looks[-1]:
            self._weights.restore()
        if environment.is_main_process():
            text = json.dumps(self.curve.as_json(), indent=2) + "\n"
            (Path(folder) / registry.HELD_OUT_LOSS).write_text(text, encoding="utf-8")
        step.say(self.curve.reason)
        return returned

    def _look(self, at: int) -> None:
        started = time.monotonic()
        look = Look(step=at, values=self._measure())
        self.curve.add(look)
        if self.curve.selects and self.curve.best is look:
            self._weights.keep()
        measured = {f"held_out/{name}": value.mean for name, value in look.values.items()}
        self._log.add_look(at, measured, time.monotonic() - started)
        step.say(
            f"Held-out loss at step {at} of {self.curve.total_steps}: {look}, {self.curve.unit}, n = {look.loss.n:,}"
        )
