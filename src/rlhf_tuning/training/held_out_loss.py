"""Is there still something to learn? The loss on held-out demonstrations while a model is tuned on others.

Every some steps the model says how probable it finds held-out answers, always the same. The loss is their negative
log-probability a token, in nats, over all their tokens; `exp` of it is the perplexity. Examples are what is independent, not
tokens, so the intervals count examples.

Two decisions rest on it. To stop: three looks in a row were no better than the best before them. What to return: the look
with the lowest loss; where the base model's own was the lowest, nothing was learnt, and the base model is returned.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from rlhf_tuning import environment, registry, step
from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.evaluation.evaluate import answer_log_probabilities
from rlhf_tuning.models import base_model
from rlhf_tuning.statistics import MeanEstimate, ratio_interval
from rlhf_tuning.training.best_weights import BestWeights
from rlhf_tuning.training.training_log import TrainingLog

#: So many looks in a row without a lower loss end the training.
PATIENCE = 3


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was measured at one step, a value for each example: nats of its answer, and how many tokens that has."""

    step: int
    nats: Sequence[float]
    tokens: Sequence[int]

    @property
    def loss(self) -> MeanEstimate:
        """The loss, nats a token."""
        return ratio_interval(self.nats, self.tokens)

    def as_json(self) -> dict[str, Any]:
        """Return loss and perplexity with their 95% intervals."""
        loss = self.loss
        return {
            "step": self.step,
            "n": loss.n,
            "tokens": sum(self.tokens),
            "loss": {"mean": loss.mean, "low": loss.low, "high": loss.high},
            "perplexity": {name: _exp(value) for name, value in zip(("mean", "low", "high"), loss[:3], strict=True)},
        }


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


class HeldOutLoss:
    """The decisions, from the looks alone.

    Args:
        total_steps: How many steps there will be, if nothing stops them.
        stops_early: Whether they may be stopped.
        selects: Whether the best checkpoint is returned, and not the last.
    """

    def __init__(self, total_steps: int, *, stops_early: bool, selects: bool) -> None:
        self._total_steps, self._stops_early, self._selects = total_steps, stops_early, selects
        self.looks: list[Look] = []
        self._best = 0

    def add(self, look: Look) -> None:
        """Take in the next look.

        Raises:
            ParameterError: If its loss is not finite.
        """
        if not all(map(math.isfinite, look.nats)):
            raise ParameterError(
                f"The loss on held-out demonstrations is not finite at step {look.step}, and what follows would be no "
                "model. Lower learning_rate_multiplier, or set dtype to float32."
            )
        self.looks.append(look)
        if look.loss.mean < self.best.loss.mean:
            self._best = len(self.looks) - 1

    @property
    def best(self) -> Look:
        """The look with the lowest loss, the first of them."""
        return self.looks[self._best]

    @property
    def stopped(self) -> bool:
        """Whether training is to end before its last step."""
        without = len(self.looks) - 1 - self._best
        return self._stops_early and without >= PATIENCE and self.looks[-1].step < self._total_steps

    @property
    def returned(self) -> Look:
        """The look whose checkpoint is returned."""
        return self.best if self._selects else self.looks[-1]

    @property
    def reason(self) -> str:
        """What was decided, and why, in words."""
        first, last, best, returned = self.looks[0], self.looks[-1], self.best, self.returned
        words = f"Held-out loss went from {_shown(first)} to {_shown(returned)} nats a token, n = {len(first.nats):,}. "
        if self.stopped:
            words += (
                f"Stopped at step {last.step} of {self._total_steps}: in {PATIENCE} measurements in a row it was no lower "
                f"than at step {best.step}. "
            )
        if returned is not best:
            return words + f"The last checkpoint, step {last.step}, is returned, as enable_checkpoint_selection says."
        if best is first:
            return words + (
                "Nothing was learnt that held-out demonstrations show, so the base model is returned. Lower "
                "learning_rate_multiplier, or give more demonstrations."
            )
        which = "The last checkpoint" if best is last else "The checkpoint"
        return words + f"{which}, step {best.step}, is returned: it has the lowest loss."

    def as_json(self) -> dict[str, Any]:
        """Return all looks and what was decided."""
        return {
            "looks": [look.as_json() for look in self.looks],
            "best_step": self.returned.step,
            "last_step": self.looks[-1].step,
            "stopped": self.stopped,
            "reason": self.reason,
        }


def _shown(look: Look) -> str:
    loss = look.loss
    return f"{loss.mean:.3f} [{loss.low:.3f}, {loss.high:.3f}]"


class HeldOutWatcher(TrainerCallback):  # type: ignore[misc]
    """Takes the looks while a trainer trains, keeps the best checkpoint, and stops the trainer.

    Of several processes each measures its share of the examples, and all decide the same from the same numbers.

    Args:
        model: The model that learns.
        prompts: Of the held-out demonstrations, as tokens.
        answers: Likewise, as they are learnt.
        interval: Steps between looks; the first is before the first step, the last after the last.
        total_steps: How many steps there will be.
        stops_early: Whether training may be stopped.
        selects: Whether the best checkpoint is returned, and not the last.
        log: Gets the curve, and is told how long looks took.
        scratch: A folder of this process for the best weights.
        compute: Of matrix products.
    """

    def __init__(
        self,
        model: Any,
        *,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        interval: int,
        total_steps: int,
        stops_early: bool,
        selects: bool,
        log: TrainingLog,
        scratch: str,
        compute: torch.dtype,
    ) -> None:
        self._model, self._compute, self._log = model, compute, log
        self._examples = list(zip(prompts, answers, strict=True))
        self._interval, self._total_steps, self._selects = interval, total_steps, selects
        self._weights = BestWeights(model, scratch)
        self.curve = HeldOutLoss(total_steps, stops_early=stops_early, selects=selects)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the model before it has learnt anything."""
        self._look(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, where it is time to, and stop what learns no more."""
        at = state.global_step
        if at % self._interval == 0 or at == self._total_steps:
            self._look(at)
            control.should_training_stop = control.should_training_stop or self.curve.stopped

    def finish(self, folder: str) -> None:
        """Put the chosen checkpoint's weights into the model, write `held_out_loss.json` and say what was decided."""
        if self.curve.returned is not self.curve.looks[-1]:
            self._weights.restore()
        if environment.is_main_process():
            text = json.dumps(self.curve.as_json(), indent=2) + "\n"
            (Path(folder) / registry.HELD_OUT_LOSS).write_text(text, encoding="utf-8")
        step.say(self.curve.reason)

    def _look(self, at: int) -> None:
        started = time.monotonic()
        # The longest first, and beside others as long.
        examples = sorted(self._examples, key=lambda example: -len(example[0]) - len(example[1]))
        nats = processes.spread(self._nats, examples)
        self.curve.add(Look(step=at, nats=nats, tokens=[len(answer) for _, answer in examples]))
        look = self.curve.looks[-1]
        if self._selects and self.curve.best is look:
            self._weights.keep()
        loss = look.loss.mean
        measured = {"held_out/loss": loss, "held_out/perplexity": _exp(loss)}
        self._log.add_look(at, measured, time.monotonic() - started)
        step.say(f"Held-out loss at step {at} of {self._total_steps}: {_shown(look)} nats a token, n = {len(nats):,}")

    def _nats(self, examples: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        training = self._model.training
        self._model.eval()
        # As in training: the adapter's products have the precision of the others.
        with torch.autocast(base_model.device().type, dtype=self._compute, enabled=self._compute != torch.float32):
            found = answer_log_probabilities(
                self._model, [prompt for prompt, _ in examples], [answer for _, answer in examples]
            )
        self._model.train(training)
        return [-value for value in found]
