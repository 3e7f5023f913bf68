"""Checkpoints of a training: stopped at any moment, it goes on as if it had not been.

A checkpoint holds all that the next step depends on: the weights that learn, the optimizer, the schedule, the place in the
data, the random numbers of every process, what was logged, and what the watch saw with the weights that it keeps. On a CPU a
training that was continued gives the same bits as one that was not.

- Every some minutes, so chosen that saving takes less than 3% of the time, after a step.
- At SIGTERM at once, in the middle of a step too: until the optimizer moves them, weights are those of the step before, and
  of all else it is noted after each step what it was. Several processes finish the step first, so as to agree.
- What cannot be written is said and costs nothing else: the training goes on, and the checkpoint before it stays.
- `fingerprint` names the folder. So another dataset, parameter, base model or version of the code finds nothing here.

The Trainer of transformers does the continuing. Replaced is what it would save and load itself: it knows neither a model
divided by `sharding` nor several adapters, and saves more than is needed. Nothing is unpickled but tensors and plain values.
"""

import copy
import dataclasses
import errno
import hashlib
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
import torch
from transformers import TrainerCallback

import rlhf_tuning
from rlhf_tuning import environment, step
from rlhf_tuning.distributed import processes, sharding
from rlhf_tuning.errors import RunError
from rlhf_tuning.models.model_reference import content_fingerprint, local_folder
from rlhf_tuning.training.checkpoint_store import KEPT_DAYS, Checkpoint, Store, StoredFile, forget_old

_Found = TypeVar("_Found")

#: Between two checkpoints passes at least so many times the time that the last one took.
_SAVING_SHARE = 33
#: A training that has ended is saved where more than this part of the interval would be lost with it.
_WORTH_KEEPING = 0.1

#: What changes nothing of what is learnt.
_NO_MATTER = ("checkpoint_interval",)
#: Whose code decides, beside ours, which numbers come out.
_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")


class Stateful(Protocol):
    """What is saved beside the model, as tensors and plain values."""

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


def fingerprint(config: Any, *inputs: str) -> str:
    """Return a digest of all that makes a training: settings, data, base model, code, and how many processes there are.

    Args:
        config: The settings, with `large_model_reference`.
        inputs: Files and folders that it learns from; empty for none.
    """

    def find() -> str:
        settings = {name: value for name, value in asdict(config).items() if name not in _NO_MATTER}
        base = local_folder(config.large_model_reference)
        made_from = {
            "phase": type(config).__name__,
            "settings": settings | ({"large_model_reference": content_fingerprint(base)} if base else {}),
            "inputs": [_content(path) for path in inputs],
            "processes": environment.process_count(),
            "code": _code(),
        }
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]

    return processes.from_main(find)


def _content(path: str) -> str:
    if not path:
        return ""
    if Path(path).is_dir():
        return content_fingerprint(Path(path))
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _code() -> list[str]:
    digest = hashlib.sha256()
    for file in sorted(Path(rlhf_tuning.__path__[0]).rglob("*.py")):
        digest.update(file.read_bytes())
    return [digest.hexdigest(), *(f"{name} {version(name)}" for name in _PACKAGES)]


@dataclass(frozen=True)
class _Settled:
    """What a step leaves behind and the next one changes before the optimizer moves a weight."""

    trainer_state: Any
    own: dict[str, Any]
    draws: dict[str, Any]
    done: bool


class _AlreadyTrained(Exception):
    """No step is left to take."""


class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Saves a training and continues it.

    Of several processes each saves its random numbers; the main one saves the rest, or each its part of a divided model.

    Args:
        place: Of all checkpoints, see `checkpoint_store.beside_the_runs`; empty to keep none.
        config: The settings of the training: `checkpoint_interval`, in minutes, 0 to keep none; and see `fingerprint`.
        inputs: Files and folders that it learns from; empty for none.
        label: What is trained.
    """

    def __init__(self, place: str, config: Any, *inputs: str, label: str) -> None:
        self._label = label
        self._seconds: float = 60 * config.checkpoint_interval
        self._made_from = ""
        self._store: Store | None = None
        if place and config.checkpoint_interval:
            self._made_from = fingerprint(config, *inputs)
            store = Store(f"{place}/{self._made_from}")
            if processes.from_main(lambda: self._takes(store, place)):
                self._store = store
        self._tried_at = 0
        self._newest: Checkpoint | None = None
        self._loaded: dict[str, Any] | None = None
        self._settled: _Settled | None = None
        self._epoch_draws: dict[str, Any] = {}
        self._stopped_by = 0
        self._is_between = False  # what the optimizer moves, and the step is not settled

    def train(self, trainer: Any, *watching: Stateful, own: Stateful | None = None) -> None:
        """Train, from the newest checkpoint on where there is one.

        Args:
            trainer: One of transformers', which logs at every step, with a folder of its own as `output_dir`.
            watching: What changes only after a step.
            own: What changes in the middle of one, such as a trainer that samples; its state is taken after each.
        """
        if self._store is None:
            trainer.train()
            return
        self._trainer, self._watching, self._own = trainer, watching, own
        self._saved_at, self._saving_took = time.monotonic(), 0.0
        trainer._save_checkpoint = self._after_step
        trainer._load_from_checkpoint = self._load_weights
        trainer._load_optimizer_and_scheduler = self._load_optimizer
        trainer._load_rng_state = self._load_draws
        trainer.add_callback(self)
        folder = self._continue()
        with self._stop_noted():
            try:
                trainer.train(resume_from_checkpoint=folder)
            except _AlreadyTrained:
                pass
            except (SystemExit, KeyboardInterrupt):
                if self._settled and not self._is_between and environment.process_count() == 1:
                    self._is_between = True  # a second signal is to wait
                    self._save(self._settled)
                self._store.leave()
                raise
            except BaseException:
                self._store.leave()
                raise
            finally:
                # Whoever frees the trainer is to free the model with it.
                self._trainer, self._watching, self._own, self._settled, self._loaded = None, (), None, None, None

    def remove(self) -> None:
        """Remove what was saved: the step has ended well."""
        if self._store is not None and environment.is_main_process():
            self._store.forget()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say where a training goes on, and take no step where none is left: all are taken, or what watches ended it."""
        if self._newest is None:
            return
        ended = control.should_training_stop or state.global_step >= state.max_steps
        where = "behind its last step" if ended else f"behind step {state.global_step:,} of {state.max_steps:,}"
        step.say(f"{self._label.capitalize()} goes on {where}, from the checkpoint of {self._newest.saved}")
        if ended:
            raise _AlreadyTrained

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Take note of the random numbers that order an epoch, or put them back where one is continued."""
        if self._loaded is not None:
            draws = self._loaded["draws"]
            within = not float(state.epoch).is_integer()
            train_dataloader.set_epoch(int(state.epoch))  # the samplers that count epochs
            _draw_from(draws["epoch" if within else "now"])
        self._epoch_draws = _draws()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let go of what was loaded, which is in its place now."""
        self._loaded = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """From now on weights and all else are of different steps."""
        self._is_between = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask to be called once the step is logged."""
        control.should_save = True

    def _after_step(self, model: Any, trial: Any) -> None:
        """Take the place of `Trainer._save_checkpoint`."""
        trainer = self._trainer
        self._settled = _Settled(
            trainer_state=copy.copy(trainer.state),
            own=self._own.state_dict() if self._own else {},
            draws={"epoch": self._epoch_draws, "now": _draws()},
            done=trainer.control.should_training_stop,
        )
        if processes.any_says(bool(self._stopped_by) or (environment.is_main_process() and self._is_due())):
            self._save(self._settled)
            if processes.any_says(bool(self._stopped_by)):
                raise SystemExit(128 + (self._stopped_by or signal.SIGTERM))
        self._is_between = False
        if self._stopped_by and environment.process_count() == 1:  # in the meantime
            raise SystemExit(128 + self._stopped_by)

    def _is_due(self) -> bool:
        assert self._settled
        wait = self._seconds * (_WORTH_KEEPING if self._settled.done else 1.0)
        return time.monotonic() - self._saved_at >= max(wait, _SAVING_SHARE * self._saving_took)

    def _save(self, settled: _Settled) -> None:
        """Write a checkpoint; say it where that fails, and leave the one before it."""
        assert self._store is not None
        at = settled.trainer_state.global_step
        if at == self._tried_at:
            return
        self._tried_at = at
        store, started = self._store, time.monotonic()
        index, count = environment.process_index(), environment.process_count()
        name = f"{at:08}-{index + 1}-of-{count}.pt"
        state = self._state(settled)
        everyones = processes.gather(_tried(store.put, name, partial(_write_tensors, state)))
        problem = next((why for _, why in everyones if why), "")
        if environment.is_main_process():
            files = [file for file, _ in everyones if file]
            saved = time.strftime("%Y-%m-%d %H:%M:%S")
            checkpoint = Checkpoint(at, self._made_from, saved, files)
            if not problem:
                _, problem = _tried(store.add, checkpoint)
            if problem:
                _tried(store.keep, self._newest)
            else:
                self._newest = checkpoint
            self._say_saved(at, problem, time.monotonic() - started)
        self._saved_at, self._saving_took = time.monotonic(), time.monotonic() - started

    def _say_saved(self, at: int, problem: str, seconds: float) -> None:
        with suppress(BrokenPipeError):  # whoever listened may be stopped already
            if not problem:
                step.write_log(f"Checkpoint of {self._label} at step {at:,} written in {step.duration(seconds)}")
                return
            kept = f"that of step {self._newest.step:,} stays" if self._newest else "there is none before it"
            step.say(
                f"Warning: no checkpoint of {self._label} at step {at:,}: {problem}; {kept}, and the training goes on"
            )

    def _state(self, settled: _Settled) -> dict[str, Any]:
        """Return what this process saves."""
        state: dict[str, Any] = {"own": settled.own, "draws": settled.draws}
        state["watching"] = [watcher.state_dict() for watcher in self._watching]
        state["trainer"] = json.dumps(dataclasses.asdict(settled.trainer_state))
        if not self._saves_weights():
            return state
        trainer = self._trainer
        optimizer = trainer.optimizer.state_dict()
        learning = {id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]}
        names = [name for name, weight in trainer.model.named_parameters() if id(weight) in learning]
        parts = sharding.parts(trainer.model)
        return state | {
            "weights": {name: parts[name].detach() for name in names},
            "optimizer": optimizer | {"state": {key: _local(kept) for key, kept in optimizer["state"].items()}},
            "schedule": trainer.lr_scheduler.state_dict(),
        }

    def _saves_weights(self) -> bool:
        return environment.is_main_process() or sharding.has_shards(self._trainer.model)

    def _continue(self) -> str | None:
        """Take the newest checkpoint that is whole, and return a folder for `Trainer.train`; None where there is none."""
        assert self._store is not None
        store = self._store
        listed, problem = processes.from_main(lambda: _tried(store.checkpoints))
        if problem:
            step.say(f"Warning: whether there is a checkpoint of {self._label} cannot be seen: {problem}")
        for found in listed or []:
            if isinstance(found, str):
                step.say(f"Warning: {found}, so it is left out")
                continue
            loaded, why = _tried(self._read, found)
            if problem := next(filter(None, processes.gather(why)), ""):
                step.say(f"Warning: the checkpoint of step {found.step:,} cannot be used: {problem}")
                continue
            assert loaded is not None
            self._newest, self._loaded, self._tried_at = found, loaded, found.step
            break
        else:
            return None
        for watcher, state in zip(self._watching, self._loaded["watching"], strict=True):
            watcher.load_state_dict(state)
        if self._own:
            self._own.load_state_dict(self._loaded["own"])
        folder = Path(self._trainer.args.output_dir) / "continued"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(self._loaded["trainer"], encoding="utf-8")
        return str(folder)

    def _read(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return what this process needs of a checkpoint.

        Raises:
            RunError: If it is not whole, or another training's.
        """
        assert self._store is not None
        index, count = environment.process_index(), environment.process_count()
        if checkpoint.made_from != self._made_from or len(checkpoint.files) != count:
            raise RunError("it is another training's")
        state = self._load(checkpoint.files[index])
        return state if "weights" in state else self._load(checkpoint.files[0]) | state

    def _load(self, file: StoredFile) -> dict[str, Any]:
        assert self._store is not None
        try:
            with self._store.open(file) as stream:
                state: dict[str, Any] = torch.load(stream, weights_only=True, map_location="cpu")
        except (UnpicklingError, RuntimeError) as error:
            raise RunError(f"{file.name} cannot be loaded: {error}") from None
        return state

    @torch.no_grad()
    def _load_weights(self, folder: str, model: Any = None) -> None:
        """Take the place of `Trainer._load_from_checkpoint`."""
        assert self._loaded
        parts = sharding.parts(self._trainer.model)
        for name, weight in self._loaded["weights"].items():
            parts[name].copy_(weight)

    def _load_optimizer(self, folder: str | None) -> None:
        """Take the place of `Trainer._load_optimizer_and_scheduler`."""
        assert self._loaded
        trainer, state = self._trainer, self._loaded["optimizer"]
        learning = [weight for group in trainer.optimizer.param_groups for weight in group["params"]]
        kept = {key: _like(learning[key], tensors) for key, tensors in state["state"].items()}
        trainer.optimizer.load_state_dict(state | {"state": kept})
        trainer.lr_scheduler.load_state_dict(self._loaded["schedule"])

    def _load_draws(self, folder: str | None) -> None:
        """Take the place of `Trainer._load_rng_state`, which is called when the data is where it was."""
        assert self._loaded
        _draw_from(self._loaded["draws"]["now"])

    def _takes(self, store: Store, place: str) -> bool:
        forgotten, problem = _tried(forget_old, place)
        if problem:
            step.say(f"Warning: old checkpoints cannot be removed: {problem}")
        if forgotten:
            step.say(
                f"Checkpoints of trainings that were stopped {KEPT_DAYS} days ago and more are removed: {forgotten:,}"
            )
        taken, problem = _tried(store.take)
        if problem:
            step.say(f"Warning: no checkpoints of {self._label} are kept: {problem}")
        elif not taken:
            step.say(f"Another run trains the same {self._label} here now, so this one keeps no checkpoints")
        return bool(taken)

    @contextmanager
    def _stop_noted(self) -> Iterator[None]:
        """Have SIGTERM end a single process where all is settled, and several after the step."""

        def note(number: int, frame: object) -> None:
            self._stopped_by = number
            if environment.process_count() == 1 and not self._is_between:
                raise SystemExit(128 + number)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)


def _tried(work: Callable[..., _Found], *arguments: Any) -> tuple[_Found | None, str]:
    """Return what was found, or why it was not."""
    try:
        return work(*arguments), ""
    except RunError as error:
        return None, str(error)
    except OSError as error:
        return None, str(error.strerror or error)


def _write_tensors(state: dict[str, Any], stream: BinaryIO) -> None:
    try:
        torch.save(state, stream)
    except RuntimeError as error:  # in place of what happened beneath it
        raise OSError(errno.EIO, str(error)) from error


def _draws() -> dict[str, Any]:
    """Return the state of this process's random numbers."""
    numpy_state: Any = np.random.get_state()
    name, words, *place = numpy_state
    found = {"python": random.getstate(), "numpy": (name, words.tolist(), *place), "torch": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _draw_from(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def _local(kept: dict[str, Any]) -> dict[str, Any]:
    """Return what the optimizer keeps of a weight, of a divided one this process's part."""
    return {name: value.to_local() if sharding.is_sharded(value) else value for name, value in kept.items()}


def _like(weight: torch.Tensor, kept: dict[str, Any]) -> dict[str, Any]:
    """Return what `_local` returned as the optimizer has it."""
    if not sharding.is_sharded(weight):
        return kept
    return {name: sharding.as_part_of(weight, value) if value.ndim else value for name, value in kept.items()}
