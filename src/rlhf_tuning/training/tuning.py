"""The frame of every method that learns from answers that are given: how its training begins, loads, learns and saves.

A method is a file (`supervised` is the simplest) with settings of its own, a `TuningConfig`, and a function `train_…`:

1. It makes a `Tuning`, and encodes its rows by the `text_format` of that.
2. It has the model loaded, and may ask it what it says before it learns: that is the reference.
3. It has the model learn from the rows, by one of TRL's trainers, and says what is measured of held-out ones.
4. It has what was learnt saved, and returns what was found.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NotRequired, TypedDict

import torch

from rlhf_tuning import environment
from rlhf_tuning.distributed import processes, sharding
from rlhf_tuning.limits import check_limits
from rlhf_tuning.models import base_model
from rlhf_tuning.ops import lanes
from rlhf_tuning.statistics import MeanEstimate
from rlhf_tuning.training.budget_watch import BudgetWatch
from rlhf_tuning.training.checkpoints import Checkpoints
from rlhf_tuning.training.held_out_loss import HeldOutLoss, HeldOutWatcher
from rlhf_tuning.training.loading import load_base, load_text_format
from rlhf_tuning.training.trainer_settings import (
    check_steps,
    continue_adapter,
    drop_printing,
    new_adapter,
    one_device,
    passes,
    shared_settings,
)
from rlhf_tuning.training.training_log import TrainingLog
from rlhf_tuning.training.tuned_model import save_tuned_model

#: Between so many held-out rows are measured on.
_MEASURED = (100, 500)


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Settings that every method has, named as the pipeline's parameters are.

    `batch_size` counts a step's rows, in all processes together. `warm_start_adapter` is the folder of the adapter that the
    training starts from. `checkpoint_interval` are the minutes between two checkpoints.
    """

    #: Name of the setting that is the rank of the adapter; where that is 0 all weights learn.
    RANK: ClassVar[str]
    #: Multiplied by `learning_rate_multiplier`.
    BASE_LEARNING_RATE: ClassVar[float]
    #: Full fine-tuning moves every weight, so each moves less.
    FULL_BASE_LEARNING_RATE: ClassVar[float]

    large_model_reference: str
    learning_rate_multiplier: float = 1.0
    enable_early_stopping: bool = True
    enable_checkpoint_selection: str = "default"
    batch_size: int = 64
    prompt_sequence_length: int = 512
    target_sequence_length: int = 64
    seed: int = 0
    dtype: str = "auto"
    warm_start_adapter: str = ""
    checkpoint_interval: float = 10.0

    def __post_init__(self) -> None:
        check_limits(**asdict(self))

    @property
    def rank(self) -> int:
        """The rank of the adapter; 0 for full fine-tuning."""
        return int(getattr(self, self.RANK))

    @property
    def learning_rate(self) -> float:
        """The peak learning rate."""
        base = self.BASE_LEARNING_RATE if self.rank else self.FULL_BASE_LEARNING_RATE
        return base * self.learning_rate_multiplier


class HandedOn(TypedDict):
    """What every method hands on to `Tuning` as it gets it."""

    adapter_dir: str
    model_dir: str
    tensorboard_dir: str
    checkpoint_dir: NotRequired[str]
    budget: NotRequired[str]


def most_measured(learnt: int) -> int:
    """Return on how many held-out rows a look is taken, if so many are learnt from between two looks.

    Half as many, within limits, which takes a sixth of the time: a backward pass takes twice that of a forward pass.
    """
    return min(max(learnt // 2, _MEASURED[0]), _MEASURED[1])


class Tuning:
    """One training, from its first step to the saved model.

    It alone holds the model and the trainer, so that both are gone when the base is loaded once more to be saved.

    Args:
        config: The settings.
        method: Its name, as `tuning.json` has it and messages do.
        inputs: Files that are learnt from or measured on; empty for one that there is not.
        adapter_dir: Gets the LoRA adapter (with full fine-tuning none), `metrics.jsonl`, `held_out_loss.json` and
            `tuning.json`.
        model_dir: Gets the merged model with its tokenizer, which plain transformers loads.
        tensorboard_dir: Gets event files.
        checkpoint_dir: Keeps checkpoints until the model is saved, see `checkpoints`; empty for none.
        budget: From `run_budget.step_budget`; empty for none.
        label: What messages call it; `method` tuning when empty.
    """

    def __init__(
        self,
        config: TuningConfig,
        *,
        method: str,
        inputs: Sequence[str],
        adapter_dir: str,
        model_dir: str,
        tensorboard_dir: str,
        checkpoint_dir: str = "",
        budget: str = "",
        label: str = "",
    ) -> None:
        self._config, self._method, self._label = config, method, label or f"{method} tuning"
        self._inputs, self._checkpoint_dir = inputs, checkpoint_dir
        self._adapter_dir, self._model_dir, self._tensorboard_dir = adapter_dir, model_dir, tensorboard_dir
        self._share = processes.share(config.batch_size, environment.process_count())
        processes.join()
        self._budget_watch = BudgetWatch(budget, dtype=config.dtype, label=self._label)
        self.text_format = load_text_format(config)
        self.model: Any = None
        self.compute: torch.dtype
        self._trainer: Any = None

    def load(self) -> None:
        """Load the base as `model`, and choose the dtype of matrix products, `compute`. See `load_base` for errors."""
        output, seed = Path(self._model_dir), self._config.seed
        self.model, self.compute = load_base(self._config, rank=self._config.RANK, output=output, seed=seed)

    def train(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        steps: int,
        make_trainer: Callable[..., Any],
        make_arguments: Callable[..., Any],
        most_together: int,
        most_tokens: int,
        metrics: Callable[[Mapping[str, float]], Mapping[str, float]],
        measure: Callable[[Any], Mapping[str, MeanEstimate]],
        interval: int,
        patience: int,
        unit: str,
        judged: bool,
    ) -> tuple[HeldOutLoss, Sequence[Mapping[str, float]]]:
        """Train until the steps are done or nothing more is learnt, and go back to the checkpoint that is returned.

        Args:
            rows: Of the trainer.
            steps: The most optimizer steps.
            make_trainer: Makes one of TRL's, from what every one takes.
            make_arguments: Makes its settings, likewise.
            most_together: Rows that one forward and backward pass holds at most on a CPU.
            most_tokens: Of the longest row.
            metrics: Takes what the trainer logs at a step, and returns what this method shows beside what all do.
            measure: Takes the model, and returns what is measured of held-out rows, with the `loss` that decides.
            interval: Steps between two looks at these.
            patience: So many looks in a row without a lower loss end the training.
            unit: Of the loss.
            judged: Whether the model will be judged on the same prompts.

        Returns:
            The looks with what they decided, and the metrics of every step.

        Raises:
            ParameterError: If a loss is not finite.
            RunError: If the training ends early and nothing of ours ended it.
        """
        from datasets import Dataset

        config, budget_watch = self._config, self._budget_watch
        together = passes(
            self.model,
            share=self._share,
            most=most_together,
            tokens=most_tokens,
            full=not config.rank,
            compute=self.compute,
        )
        with TemporaryDirectory(prefix=f"{self._method}-trainer-") as scratch:
            settings = shared_settings(
                output_dir=scratch,
                steps=steps,
                learning_rate=config.learning_rate,
                seed=config.seed,
                compute=self.compute,
                checkpointing=together.checkpointing,
            )
            arguments = make_arguments(
                **settings,
                per_device_train_batch_size=together.rows,
                gradient_accumulation_steps=self._share // together.rows,
                lr_scheduler_type="linear",
                max_length=None,
            )
            log = TrainingLog(
                label=self._label,
                total_steps=steps,
                metrics_path=Path(self._adapter_dir) / "metrics.jsonl",
                tensorboard_dir=Path(self._tensorboard_dir),
                select=_with_shared_metrics(metrics),
                vertex_tags={},
            )
            trainer = self._trainer = make_trainer(
                model=self.model,
                args=one_device(arguments),
                train_dataset=Dataset.from_list(rows),
                processing_class=self.text_format.tokenizer,
                callbacks=[log, budget_watch],
                peft_config=new_adapter(self.model, config.rank, warm_start=config.warm_start_adapter),
            )
            drop_printing(trainer)
            started_from = continue_adapter(trainer.model, config.warm_start_adapter)
            sharding.train_together(trainer)
            watcher = HeldOutWatcher(
                trainer.model,
                partial(measure, trainer.model),
                HeldOutLoss(
                    steps,
                    patience=patience,
                    unit=unit,
                    stops_early=config.enable_early_stopping,
                    selects=config.enable_checkpoint_selection != "false",
                    judged=judged,
                ),
                interval=interval,
                from_start=True,
                log=log,
                scratch=scratch,
            )
            trainer.add_callback(watcher)
            self._checkpoints = Checkpoints(
                self._checkpoint_dir, config, *self._inputs, started_from, label=self._label
            )
            with closing(log):
                self._checkpoints.train(trainer, log, budget_watch, watcher)
            if not (watcher.curve.stopped or budget_watch.stopped):
                check_steps(trainer.state.global_step, asked=steps, label=self._label.capitalize())
            watcher.finish(self._adapter_dir)
        return watcher.curve, log.history

    def save(self) -> dict[str, float]:
        """Save what was learnt, and return what the step's metrics say of its budget, see `BudgetWatch.finish`."""
        found = self._budget_watch.finish(self._adapter_dir)
        # With LoRA the base is loaded anew for it, so what trained goes first.
        trainer, self._trainer, self.model = self._trainer, None, None
        if self._config.rank and environment.is_main_process():
            trainer.model.save_pretrained(self._adapter_dir)
        tuned = None if self._config.rank else trainer.model
        weights = None if self._config.rank else sharding.whole_weights(trainer.model)
        trainer.accelerator.free_memory()
        del trainer
        base_model.release_memory()
        lanes.let_go()
        if environment.is_main_process():
            save_tuned_model(
                tuned,
                weights,
                self.text_format.tokenizer,
                {"method": self._method, **asdict(self._config)},
                adapter_dir=self._adapter_dir,
                model_dir=self._model_dir,
            )
        self._checkpoints.remove()
        return found


def _with_shared_metrics(
    own: Callable[[Mapping[str, float]], Mapping[str, float]],
) -> Callable[[Mapping[str, float], float], dict[str, float]]:
    """Return what `TrainingLog` selects metrics by: those of a method between those that all have."""
    tokens_before = 0

    def select(logs: Mapping[str, float], seconds: float) -> dict[str, float]:
        nonlocal tokens_before
        tokens, tokens_before = logs["num_tokens"] - tokens_before, int(logs["num_tokens"])
        return {
            "loss": logs["loss"],
            **own(logs),
            "entropy": logs["entropy"],
            "grad_norm": logs["grad_norm"],
            "learning_rate": logs["learning_rate"],
            "tokens_per_second": tokens / seconds,
            "seconds_per_step": seconds,
        }

    return select
