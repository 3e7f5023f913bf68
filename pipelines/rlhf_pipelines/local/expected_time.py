"""Says how long a run will take, when the first of its long steps is about to begin.

Not sooner: a finished step is kept, and until then nobody knows whether this one is done again; and only by then have the
data been found good, the model's tokenizer been fetched and torch been imported, so that it takes two or three seconds.
"""

import multiprocessing
import traceback
from collections.abc import Mapping
from typing import Any

from rlhf_tuning.errors import RlhfError
from rlhf_tuning.parameters import Value
from rlhf_tuning.step import emit

#: The components of which one is the first long step.
_FIRST = ("train_supervised", "train_student", "train_reward_model", "train_preference")
#: What says how long a policy is tuned, of which each run that tunes one model has one.
_TUNES = ("reinforcement_learning_train_steps", "epoch_count", "train_steps")
#: What a run has whose data an earlier step of its own makes, so that nothing is known of it yet.
_LABELS = {"teacher_model_reference", "preference_prompt_dataset"}


def announce_expected_time(arguments: Mapping[str, Value], *, preloaded: bool) -> None:
    """Have kfp's SubprocessRunner say so before it trains anything, in a run that tunes a policy.

    Args:
        arguments: Of the pipeline.
        preloaded: Whether torch is found imported in multiprocessing's fork server (see `preloaded_steps`).
    """
    if sum(name in arguments for name in _TUNES) != 1 or _LABELS & arguments.keys():
        return
    from kfp.local.subprocess_task_handler import SubprocessTaskHandler

    context: Any = multiprocessing.get_context("forkserver" if preloaded else "spawn")
    start = SubprocessTaskHandler.run

    def run(handler: Any) -> Any:
        if any(step in handler.full_command for step in _FIRST):
            SubprocessTaskHandler.run = start
            # In a process of its own, so that this one need not import torch.
            expecting = context.Process(target=_announce, args=(dict(arguments),))
            expecting.start()
            expecting.join()
        return start(handler)

    SubprocessTaskHandler.run = run


def _announce(arguments: Mapping[str, Value]) -> None:
    from rlhf_tuning.planning.expectation import expected_time

    try:
        emit("run_message", text=expected_time(arguments))
    except RlhfError:
        traceback.print_exc()  # for the log: a run does without
