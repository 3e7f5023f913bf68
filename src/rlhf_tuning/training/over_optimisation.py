"""Is the reward still worth raising? A watch over the policy while it learns, and the choice of the checkpoint to return.

A policy that is tuned long enough finds what its reward model wrongly likes: the optimised reward climbs on while the
answers get worse (Gao, Schulman and Hilton 2022, arXiv:2210.10760). A second reward model, trained on other preferences
and never optimised against, shows it. At some steps (the looks) the policy answers the same prompts with the same seed;
measured are the optimised reward, the held-out reward and KL to the base model.

These prompts are set aside: not learnt from, since there the answers would look better than elsewhere, and none of the
evaluation's, which must not have had a say in which checkpoint it is that they judge.

Two decisions are made by the held-out reward, both by differences paired by prompt:

- To stop. At a look, against the best look before it: the optimised reward climbed (lower end of the 95% interval above 0)
  while the held-out reward fell beyond noise. "Beyond noise" is sequential: with L looks after the first there are
  L (L + 1) / 2 pairs of looks, and a fall must be significant at 2% / that number (Bonferroni, one-sided Student t). So
  whichever look is the best, and however looks depend on each other, a run in which the held-out quality never falls is
  stopped in at most 2% of cases. Corrected for the L looks alone the rule fires more often than it says: the best of several
  noisy looks is too good by chance. Asking for two looks in a row finds no more, and its false stops grow with L.
- What to return. After a stop, the best look. Otherwise the last checkpoint, unless the best look is better than it by more
  than one standard error. Returning the best look in any case costs healthy runs about three times as much quality as
  this does and gains over-optimised ones little; asking for two standard errors keeps too many that fell.

`benchmarks/over_optimisation.py` measures both. Without a held-out reward model the watch only draws curves: nothing is
stopped and the last checkpoint is returned.
"""

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch
from transformers import TrainerCallback

from rlhf_tuning import environment, registry, step
from rlhf_tuning.distributed import processes
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import Conversation, TextFormat
from rlhf_tuning.rewards import Answer, Example, Rewards
from rlhf_tuning.statistics import MeanEstimate, mean_interval, paired_difference, student_t_quantile
from rlhf_tuning.training.best_weights import BestWeights
from rlhf_tuning.training.own_answers import kl_to_reference, own_answers
from rlhf_tuning.training.training_log import TrainingLog

#: At most this share of runs in which the held-out quality never falls is stopped.
FALSE_STOPS = 0.02
#: By how many standard errors the best look must be better than the last one to be returned instead.
_BETTER = 1.0
#: Below this many prompts intervals say too little.
_FEWEST_PROMPTS = 8
#: Looks a run, where nobody says how often.
_LOOKS = 10


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was measured at one step, a value for each prompt and always in the same order."""

    step: int
    reward: Sequence[float]
    held_out_reward: Sequence[float] | None = None
    kl: Sequence[float] | None = None

    def means(self) -> dict[str, float]:
        """Return the mean of what was measured, by the names that training has for it."""
        measured = {"reward": self.reward, "kl": self.kl}
        return {name: fmean(values) for name, values in measured.items() if values is not None}

    def as_json(self) -> dict[str, Any]:
        """Return the means with their 95% intervals."""
        return {
            "step": self.step,
            "n": len(self.reward),
            "reward": _estimate(self.reward),
            "held_out_reward": _estimate(self.held_out_reward),
            "kl": _estimate(self.kl),
        }


def _estimate(values: Sequence[float] | None) -> dict[str, float] | None:
    if values is None:
        return None
    found = mean_interval(values)
    return {"mean": found.mean, "low": found.low, "high": found.high}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the watch decided, and why in words. `best_step` is the checkpoint to return."""

    best_step: int
    last_step: int
    stopped: bool
    reason: str


class OverOptimisationWatch:
    """The decisions, from the looks alone.

    Args:
        planned_looks: How many looks there will be after the first, if nothing stops the run.
    """

    def __init__(self, planned_looks: int) -> None:
        self._planned = planned_looks
        self._pairs = planned_looks * (planned_looks + 1) / 2
        self.looks: list[Look] = []
        self._best: Look | None = None
        self._exploit = ""

    @property
    def best(self) -> Look | None:
        """The look with the highest mean held-out reward; None where none is measured."""
        return self._best

    @property
    def over_optimised(self) -> bool:
        """Whether the optimised reward climbed while the held-out one fell beyond noise."""
        return bool(self._exploit)

    @property
    def stops_early(self) -> bool:
        """Whether steps are left after the newest look, so that a stop saves some."""
        return len(self.looks) <= self._planned

    def add(self, look: Look) -> None:
        """Take in the next look."""
        self.looks.append(look)
        if look.held_out_reward is None:
            return
        if self._best is None or fmean(look.held_out_reward) > fmean(_held_out(self._best)):
            self._best = look
            return
        best = self._best
        fall = paired_difference(_held_out(best), look.held_out_reward)
        if fall.mean >= -_critical(FALSE_STOPS / self._pairs, fall.n) * _standard_error(fall):
            return
        climb = paired_difference(best.reward, look.reward)
        if climb.low > 0:
            self._exploit = (
                f"{'Stopped' if self.stops_early else 'Over-optimised'} at step {look.step}: since step {best.step} the "
                f"optimised reward climbed by {_shown(climb)} while the held-out reward, which nothing optimises, fell by "
                f"{_shown(fall, -1)}: the policy exploits its reward model. The checkpoint of step {best.step} is returned. "
                "A larger kl_coeff, fewer steps or more preferences would help."
            )

    def outcome(self) -> Outcome:
        """Return which checkpoint to take; at the end of the run, or once it is stopped."""
        last = self.looks[-1]
        if self._best is None:
            reason = (
                f"The last checkpoint, step {last.step}, is returned: no held-out reward model looked on, so nothing could "
                "say whether an earlier one is better."
            )
            return Outcome(best_step=last.step, last_step=last.step, stopped=False, reason=reason)
        if self.over_optimised:
            return Outcome(
                best_step=self._best.step, last_step=last.step, stopped=self.stops_early, reason=self._exploit
            )
        if self._best is last:
            reason = (
                f"The last checkpoint, step {last.step}, is returned: it has the highest held-out reward of all looks."
            )
            return Outcome(best_step=last.step, last_step=last.step, stopped=False, reason=reason)
        fall = paired_difference(_held_out(self._best), _held_out(last))
        if fall.mean >= -_BETTER * _standard_error(fall):
            reason = (
                f"The last checkpoint, step {last.step}, is returned: by the held-out reward it is as good as the best "
                f"look, step {self._best.step}, within one standard error (difference {_shown(fall)})."
            )
            return Outcome(best_step=last.step, last_step=last.step, stopped=False, reason=reason)
        beyond = "beyond noise" if fall.high < 0 else "by more than one standard error"
        reason = (
            f"The checkpoint of step {self._best.step} is returned, not the last: by the end, step {last.step}, the "
            f"held-out reward had fallen {beyond}, by {_shown(fall, -1)}, though not so that the run had to be stopped."
        )
        return Outcome(best_step=self._best.step, last_step=last.step, stopped=False, reason=reason)

    def as_json(self) -> dict[str, Any]:
        """Return all looks and the outcome."""
        outcome = self.outcome()
        return {
            "looks": [look.as_json() for look in self.looks],
            "best_step": outcome.best_step,
            "last_step": outcome.last_step,
            "stopped": outcome.stopped,
            "reason": outcome.reason,
        }


def _held_out(look: Look) -> Sequence[float]:
    assert look.held_out_reward is not None
    return look.held_out_reward


@lru_cache
def _critical(alpha: float, n: int) -> float:
    return student_t_quantile(1 - alpha, n - 1) if n > 1 else math.inf


def _standard_error(estimate: MeanEstimate) -> float:
    return (estimate.high - estimate.mean) / _critical(0.025, estimate.n)


def _shown(estimate: MeanEstimate, sign: int = 1) -> str:
    low, high = sorted((sign * estimate.low, sign * estimate.high))
    return f"{sign * estimate.mean:.2f} [{low:.2f}, {high:.2f}] (n = {estimate.n})"


def look_steps(total_steps: int, interval: int) -> list[int]:
    """Return the steps to look at: 0, every `interval` steps (0: a tenth of all, rounded up) and the last."""
    interval = interval or math.ceil(total_steps / _LOOKS)
    return sorted({*range(0, total_steps, interval), total_steps})


def set_aside(examples: Sequence[Example], *, watch_prompts: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Divide prompts into those to learn from and those to watch; a prompt that is watched is nowhere among the others.

    At most a quarter is set aside. Where that is less than was asked for it is said, and below 8 there is no watch.
    """
    distinct = list({_key(example): example for example in examples}.items())
    n = min(watch_prompts, len(distinct) // 4)
    if watch_prompts and n < min(watch_prompts, _FEWEST_PROMPTS):
        step.say(
            f"No watch over over-optimisation: of {len(distinct)} prompts a quarter would be {n}, too few to measure by; "
            f"give {4 * _FEWEST_PROMPTS} or more"
        )
        n = 0
    elif n < watch_prompts:
        step.say(
            f"The watch over over-optimisation takes {n} of {len(distinct)} prompts, not {watch_prompts}: a quarter"
        )
    if not n:
        return list(examples), []
    watched = dict(random.Random(seed).sample(distinct, n))
    learnt = [example for example in examples if _key(example) not in watched]
    return learnt, list(watched.values())


def _key(example: Example) -> str:
    return json.dumps(example["prompt"], sort_keys=True)


class _Scorer(Protocol):
    """What the watch asks of a reward model."""

    def score(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[float]:
        """Return the score of each answer to its prompt."""


class Watcher(TrainerCallback):  # type: ignore[misc]
    """Takes the looks while a trainer trains, keeps the best checkpoint, and stops the trainer.

    Looks leave torch's random numbers as they were, so that they do not change what is learnt. Of several processes each
    measures its share of the prompts, and all decide the same from the same numbers.

    Args:
        policy: The model that learns: a PeftModel with its adapter named `default`, or a plain one.
        reference: A copy of the base model, where it is not the policy without its adapter; None for no KL then.
        rewards: What is optimised.
        held_out_reward_model: One that is not; None for curves only.
        examples: The prompts that were set aside.
        text_format: Of prompts and answers.
        temperature: At which the policy samples while it learns.
        seed: Of the answers, the same at every look.
        total_steps: How many steps there will be.
        interval: Steps between looks, see `look_steps`.
        log: Gets the curves, and is told how long looks took.
        compute: Of matrix products.
        scratch: A folder of this process for the best weights.
    """

    def __init__(
        self,
        *,
        policy: Any,
        reference: Any | None,
        rewards: Rewards,
        held_out_reward_model: _Scorer | None,
        examples: Sequence[Example],
        text_format: TextFormat,
        temperature: float,
        seed: int,
        total_steps: int,
        interval: int,
        log: TrainingLog,
        scratch: str,
        compute: torch.dtype,
    ) -> None:
        self._policy, self._reference = policy, reference
        self._best = BestWeights(policy, scratch)
        self._rewards, self._held_out = rewards, held_out_reward_model
        self._examples, self._text_format = examples, text_format
        self._temperature, self._seed, self._compute = temperature, seed, compute
        self._total_steps, self._steps = total_steps, look_steps(total_steps, interval)
        self._log = log
        self._seconds, self._before, self._started = 0.0, 0.0, time.monotonic()
        self.watch = OverOptimisationWatch(len(self._steps) - 1)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the policy before it has learnt anything; one that has gone wrong is not to go on."""
        self._started = time.monotonic() - self._before
        if not self.watch.looks:
            self._look(0)
        control.should_training_stop = control.should_training_stop or self.watch.over_optimised

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look, where it is time to, and stop what has gone wrong."""
        if state.global_step in self._steps or control.should_training_stop:
            self._look(state.global_step)
            control.should_training_stop = control.should_training_stop or self.watch.over_optimised

    def state_dict(self) -> dict[str, Any]:
        """Return the looks so far, the best weights and the time they took, for a checkpoint."""
        return {
            "looks": [asdict(look) for look in self.watch.looks],
            "best": self._best.state_dict(),
            "seconds": self._seconds,
            "before": time.monotonic() - self._started,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for look in state["looks"]:
            self.watch.add(Look(**look))
        self._best.load_state_dict(state["best"])
        self._seconds, self._before = state["seconds"], state["before"]

    def finish(self, adapter_dir: str) -> Outcome:
        """Put the chosen checkpoint's weights into the policy, write `watch.json` and say what was decided."""
        outcome = self.watch.outcome()
        if outcome.best_step != outcome.last_step:
            self._best.restore()
        text = json.dumps(self.watch.as_json(), indent=2, ensure_ascii=False) + "\n"
        if environment.is_main_process():
            (Path(adapter_dir) / registry.WATCH).write_text(text, encoding="utf-8")
        step.say(outcome.reason)
        share = self._seconds / max(time.monotonic() - self._started, 1e-9)
        step.say(f"The watch took {step.duration(self._seconds)}, {share:.0%} of the time of reinforcement learning")
        return outcome

    def _look(self, at: int) -> None:
        started = time.monotonic()
        look = self._measure(at)
        self.watch.add(look)
        if self._held_out is not None and self.watch.best is look:
            self._best.keep()
        measured = {
            name: value for name, value in look.as_json().items() if name not in ("step", "n") and value is not None
        }
        seconds = time.monotonic() - started
        self._seconds += seconds
        self._log.add_look(at, {f"watch/{name}": value["mean"] for name, value in measured.items()}, seconds)
        words = ", ".join(
            f"{name.replace('_', '-', 1).replace('_', ' ') if name != 'kl' else 'KL'} "
            f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
            for name, value in measured.items()
        )
        step.say(f"Watch at step {at} of {self._total_steps}: {words}, n = {len(look.reward)}")

    def _measure(self, at: int) -> Look:
        reward, held_out_reward, kl = zip(
            *processes.spread(lambda some: self._measure_prompts(some, at), self._examples), strict=True
        )
        return Look(
            step=at,
            reward=reward,
            held_out_reward=None if None in held_out_reward else held_out_reward,
            kl=None if None in kl else kl,
        )

    def _measure_prompts(self, examples: Sequence[Example], at: int) -> list[tuple[float, float | None, float | None]]:
        """Return reward, held-out reward and KL of an answer to each prompt."""
        nothing = [None] * len(examples)
        conversations = [example["prompt"] for example in examples]
        answers = own_answers(
            self._policy, self._text_format, conversations, temperature=self._temperature, seed=self._seed
        )
        scored = [Answer(answer.text, answer.tokens, answer.ended) for answer in answers]
        reward = self._rewards.score(examples, scored, step=at)
        # As the trainer scores: the adapters' products have the precision of the others.
        with torch.autocast(base_model.device().type, dtype=self._compute, enabled=self._compute != torch.float32):
            texts = [answer.text for answer in answers]
            held_out_reward = self._held_out.score(conversations, texts) if self._held_out else nothing
        kl = kl_to_reference(
            self._policy,
            self._reference,
            self._text_format,
            conversations,
            [answer.ids for answer in answers],
            temperature=self._temperature,
        )
        return list(zip(reward, held_out_reward, kl or nothing, strict=True))
