"""Does the reward model still learn what people prefer, or already its rows by heart? Preferences set aside say it.

A tenth of the prompts of phase 1 is not learnt from. Four times an epoch the model scores their answers. The checkpoint
with the lowest loss on them is returned, and the training ends once an epoch has not lowered it. The loss decides, not the
accuracy: of a hundred preferences that moves in steps of a point, and being surer than right shows in the loss first.

The evaluation's preferences have no say in this, so that the accuracy measured on them stays an honest one.
"""

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rlhf_tuning import environment, step
from rlhf_tuning.data.held_out import validation_rows
from rlhf_tuning.distributed import processes
from rlhf_tuning.models.reward_model import RewardModel
from rlhf_tuning.training.best_weights import BestWeights
from rlhf_tuning.training.training_log import TrainingLog

VALIDATION_FILE = "validation.json"

_LOOKS_AN_EPOCH = 4
#: So many looks in a row without a lower loss end the training: an epoch's.
_PATIENCE = _LOOKS_AN_EPOCH


@dataclass(frozen=True, kw_only=True)
class ValidationLook:
    """What was measured on the preferences set aside, at one step."""

    step: int
    loss: float
    accuracy: float


class EarlyStop:
    """The decisions, from the looks alone."""

    def __init__(self) -> None:
        self.looks: list[ValidationLook] = []

    def add(self, look: ValidationLook) -> None:
        """Take in the next look."""
        self.looks.append(look)

    @property
    def best(self) -> ValidationLook:
        """The look with the lowest loss, the first of equal ones."""
        return min(self.looks, key=lambda look: look.loss)

    @property
    def over(self) -> bool:
        """Whether the loss has not been lower for an epoch."""
        return len(self.looks) - 1 - self.looks.index(self.best) >= _PATIENCE


def set_aside(preferences: Sequence[dict[str, Any]], *, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Divide preferences into those to learn from and those to validate on; all of one prompt are on one side."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in preferences:
        by_prompt.setdefault(json.dumps(row["prompt"]), []).append(row)
    left = validation_rows(len(preferences))
    validated: set[str] = set()
    for prompt in random.Random(seed).sample(list(by_prompt), len(by_prompt)):
        if len(by_prompt[prompt]) <= left:
            left -= len(by_prompt[prompt])
            validated.add(prompt)
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for prompt, rows in by_prompt.items():
        sides[prompt in validated].extend(rows)
    return sides


class Validator(TrainerCallback):  # type: ignore[misc]
    """Takes the looks while a trainer trains, keeps the best weights, and stops the trainer.

    Args:
        model: The model that learns.
        reward_model: What scores with it.
        rows: The preferences set aside, `chosen_ids` and `rejected_ids` of each.
        epoch_steps: Steps in which each preference is seen once.
        total_steps: Steps that there will be at most.
        log: Gets the curves, and is told how long looks took.
        scratch: A folder of this process, for weights.
    """

    def __init__(
        self,
        *,
        model: Any,
        reward_model: RewardModel,
        rows: Sequence[dict[str, Any]],
        epoch_steps: float,
        total_steps: int,
        log: TrainingLog,
        scratch: str,
    ) -> None:
        self._reward_model, self._rows, self._log = reward_model, rows, log
        self._every, self._total_steps = max(1, round(epoch_steps / _LOOKS_AN_EPOCH)), total_steps
        self._kept = BestWeights(model, scratch)
        self.early_stop = EarlyStop()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look, where it is time to, and stop what learns no more."""
        if state.global_step % self._every and state.global_step != self._total_steps:
            return
        started = time.monotonic()
        margins = processes.spread(self._margins, self._rows)
        look = ValidationLook(
            step=state.global_step,
            loss=sum(map(_loss, margins)) / len(margins),
            accuracy=sum((margin > 0) + 0.5 * (margin == 0) for margin in margins) / len(margins),
        )
        self.early_stop.add(look)
        if self.early_stop.best is look:
            self._kept.keep()
        measured = {"validation/loss": look.loss, "validation/accuracy": look.accuracy}
        self._log.add_look(look.step, measured, time.monotonic() - started)
        control.should_training_stop = control.should_training_stop or self.early_stop.over

    def finish(self, folder: Path) -> ValidationLook:
        """Put the best weights back, write `validation.json`, say what was decided, and return the look that is kept."""
        looks, best = self.early_stop.looks, self.early_stop.best
        last = looks[-1]
        if best is not last:
            self._kept.restore()
        stopped = last.step < self._total_steps
        reason = (
            f"{'Stopped' if stopped else 'Ended'} at step {last.step} of at most {self._total_steps}: of "
            f"{len(self._rows):,} preferences set aside the reward model of step {best.step} agrees with "
            f"{best.accuracy:.1%} at a loss of {best.loss:.3f}, and is kept; that of the last step with {last.accuracy:.1%} "
            f"at {last.loss:.3f}"
        )
        if environment.is_main_process():
            kept = {
                "n": len(self._rows),
                "looks": [asdict(look) for look in looks],
                "best_step": best.step,
                "last_step": last.step,
                "stopped": stopped,
                "reason": reason,
            }
            (folder / VALIDATION_FILE).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        step.say(reason)
        return best

    def _margins(self, rows: Sequence[dict[str, Any]]) -> list[float]:
        """Return by how much each chosen answer scores higher than the rejected one."""
        ids = [row[name] for row in rows for name in ("chosen_ids", "rejected_ids")]
        pairs = [(2 * pair, 2 * pair + 1) for pair in range(len(rows))]
        scores = self._reward_model.score_ids(ids, pairs)
        return [chosen - rejected for chosen, rejected in zip(scores[::2], scores[1::2], strict=True)]


def _loss(margin: float) -> float:
    """Return -log sigmoid(margin)."""
    return math.log1p(math.exp(-abs(margin))) + max(0.0, -margin)
