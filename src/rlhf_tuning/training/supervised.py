"""Supervised tuning: learn to answer as demonstrations do.

The loss is the negative log-probability of the answers' tokens, over all tokens of a step's answers, by TRL's SFTTrainer;
prompts are not learnt. Text is encoded by `text_format` and reaches the trainer as token ids; an answer that is cut off is
learnt without its end. See `answer_trainer` for the layout, `held_out_loss` for when it stops and what it returns.

In several processes (see `processes`) each learns from its share of a step's demonstrations.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from rlhf_tuning import environment
from rlhf_tuning.data.importer import sample_canonical, sample_unasked
from rlhf_tuning.distributed import processes, sharding
from rlhf_tuning.errors import DataError
from rlhf_tuning.limits import check_limits
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.ops import lanes
from rlhf_tuning.statistics import MeanEstimate
from rlhf_tuning.training.budget_watch import BudgetWatch
from rlhf_tuning.training.checkpoints import Checkpoints
from rlhf_tuning.training.given_answers import log_probabilities_of
from rlhf_tuning.training.held_out_loss import HeldOutLoss, HeldOutWatcher, of_answers
from rlhf_tuning.training.loading import load_base, load_text_format
from rlhf_tuning.training.trainer_settings import (
    MOST_SPARE_ROWS,
    check_steps,
    continue_adapter,
    drop_printing,
    new_adapter,
    one_device,
    passes,
    shared_settings,
    step_order,
)
from rlhf_tuning.training.training_log import TrainingLog
from rlhf_tuning.training.tuned_model import save_tuned_model

#: Multiplied by `learning_rate_multiplier`.
BASE_LEARNING_RATE = 2e-4
#: Full fine-tuning moves every weight, so each moves less.
FULL_BASE_LEARNING_RATE = 1e-5

#: Examples that one forward and backward pass holds at most on a CPU.
_TOGETHER = 8
#: So many looks in a row without a lower held-out loss end the training.
_PATIENCE = 3
#: Between so many held-out demonstrations are measured on, drawn by the seed: half as many as are learnt from in the
#: meantime, which takes a sixth of the time, since a backward pass takes twice that of a forward pass.
_MEASURED = (100, 500)


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """Settings of supervised tuning, named as the pipeline's parameters are.

    `batch_size` counts a step's demonstrations, in all processes together. `lora_dim` 0 means full fine-tuning, and
    `warm_start_adapter` is the folder of the adapter that the training starts from. Every `evaluation_interval` steps the
    loss on held-out demonstrations is measured. `checkpoint_interval` are the minutes between two checkpoints.
    """

    large_model_reference: str
    train_steps: int = 300
    learning_rate_multiplier: float = 1.0
    evaluation_interval: int = 20
    enable_early_stopping: bool = True
    enable_checkpoint_selection: str = "default"
    lora_dim: int = 16
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
    def learning_rate(self) -> float:
        """The peak learning rate."""
        base = BASE_LEARNING_RATE if self.lora_dim else FULL_BASE_LEARNING_RATE
        return base * self.learning_rate_multiplier


def train_supervised(
    config: SupervisedConfig,
    *,
    demonstrations_path: str,
    eval_demonstrations_path: str,
    adapter_dir: str,
    model_dir: str,
    tensorboard_dir: str,
    checkpoint_dir: str = "",
    evaluation_prompts_path: str = "",
    budget: str = "",
) -> dict[str, float]:
    """Tune a model on demonstrations for exactly `train_steps` steps, unless it learns nothing more, and save it.

    Args:
        config: The settings.
        demonstrations_path: Canonical demonstrations to learn from.
        eval_demonstrations_path: Canonical demonstrations to measure on, none of them learnt from.
        adapter_dir: Gets the LoRA adapter (with full fine-tuning none), `metrics.jsonl` and `held_out_loss.json`.
        model_dir: Gets the merged model with its tokenizer, which plain transformers loads.
        tensorboard_dir: Gets event files.
        checkpoint_dir: Keeps checkpoints until the model is saved, see `checkpoints`; empty for none.
        evaluation_prompts_path: Prompts on which answers will be compared: where others are enough, they have no say in
            which checkpoint it is. Empty for none.
        budget: From `run_budget.step_budget`; empty for none.

    Returns:
        The held-out loss and perplexity before and after, the training loss, and the steps that were taken.

    Raises:
        ParameterError: If the processes cannot share a batch evenly, or the loss is not finite.
        DataError: If there is no demonstration.
        ModelError: If the base model cannot be loaded.
        RunError: If the training ends early and nothing of ours ended it.
    """
    from datasets import Dataset
    from trl import SFTConfig

    from rlhf_tuning.training.answer_trainer import AnswerTrainer

    # 1. Encode the demonstrations.
    share = processes.share(config.batch_size, environment.process_count())
    processes.join()
    budget_watch = BudgetWatch(budget, dtype=config.dtype, label="supervised tuning")
    text_format = load_text_format(config)
    most = max(config.train_steps * config.batch_size, MOST_SPARE_ROWS)
    learnt = _encoded(sample_canonical(demonstrations_path, most=most, seed=config.seed), text_format)
    most = min(max(config.evaluation_interval * config.batch_size // 2, _MEASURED[0]), _MEASURED[1])
    held_out, judged = sample_unasked(eval_demonstrations_path, evaluation_prompts_path, most=most, seed=config.seed)
    measured = _encoded(held_out, text_format)
    for path, examples in ((demonstrations_path, learnt), (eval_demonstrations_path, measured)):
        if not examples:
            raise DataError(f"{path} holds no demonstration.")
    rows = [
        {"input_ids": [*prompt, *answer], "labels": [-100] * len(prompt) + list(answer)} for prompt, answer in learnt
    ]

    # 2. Load the model.
    lora = config.lora_dim > 0
    model, compute = load_base(config, rank="lora_dim", output=Path(model_dir), seed=config.seed)

    # 3. Build the trainer.
    together = passes(
        model,
        share=share,
        most=_TOGETHER,
        tokens=max(len(row["input_ids"]) for row in rows),
        full=not lora,
        compute=compute,
    )
    with TemporaryDirectory(prefix="supervised-trainer-") as scratch:
        settings = shared_settings(
            output_dir=scratch,
            steps=config.train_steps,
            learning_rate=config.learning_rate,
            seed=config.seed,
            compute=compute,
            checkpointing=together.checkpointing,
        )
        del settings["disable_dropout"]  # SFTTrainer has no such setting; a model is loaded without
        arguments = SFTConfig(
            **settings,
            per_device_train_batch_size=together.rows,
            gradient_accumulation_steps=share // together.rows,
            lr_scheduler_type="linear",
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        log = TrainingLog(
            label="supervised tuning",
            total_steps=config.train_steps,
            metrics_path=Path(adapter_dir) / "metrics.jsonl",
            tensorboard_dir=Path(tensorboard_dir),
            select=_metrics(),
            vertex_tags={},
        )
        trainer = AnswerTrainer(
            order=step_order(
                [len(row["input_ids"]) for row in rows],
                steps=config.train_steps,
                batch_size=config.batch_size,
                seed=config.seed,
            ),
            model=model,
            args=one_device(arguments),
            train_dataset=Dataset.from_list(rows),
            processing_class=text_format.tokenizer,
            callbacks=[log, budget_watch],
            peft_config=new_adapter(model, config.lora_dim, warm_start=config.warm_start_adapter),
        )
        drop_printing(trainer)
        started_from = continue_adapter(trainer.model, config.warm_start_adapter)
        sharding.train_together(trainer)

        # 4. Train.
        watcher = HeldOutWatcher(
            trainer.model,
            partial(_measured, trainer.model, measured, compute),
            HeldOutLoss(
                config.train_steps,
                patience=_PATIENCE,
                unit="nats a token",
                stops_early=config.enable_early_stopping,
                selects=config.enable_checkpoint_selection != "false",
                judged=judged,
            ),
            interval=config.evaluation_interval,
            from_start=True,
            log=log,
            scratch=scratch,
        )
        trainer.add_callback(watcher)
        inputs = demonstrations_path, eval_demonstrations_path, evaluation_prompts_path, started_from
        checkpoints = Checkpoints(checkpoint_dir, config, *inputs, label="supervised tuning")
        with closing(log):
            checkpoints.train(trainer, log, budget_watch, watcher)
        if not (watcher.curve.stopped or budget_watch.stopped):
            check_steps(trainer.state.global_step, asked=config.train_steps, label="Supervised tuning")
        watcher.finish(adapter_dir)

    # 5. Save. With LoRA the base is loaded anew for it, so what trained goes first.
    found = _outcome(watcher.curve.as_json(), log.history) | budget_watch.finish(adapter_dir)
    if lora and environment.is_main_process():
        trainer.model.save_pretrained(adapter_dir)
    tuned = None if lora else trainer.model
    weights = None if lora else sharding.whole_weights(trainer.model)
    trainer.accelerator.free_memory()
    del trainer, watcher, model, log
    base_model.release_memory()
    lanes.let_go()
    if environment.is_main_process():
        settings = {"method": "supervised", **asdict(config)}
        save_tuned_model(tuned, weights, text_format.tokenizer, settings, adapter_dir=adapter_dir, model_dir=model_dir)
    checkpoints.remove()
    return found


def _encoded(rows: Sequence[Mapping[str, Any]], text_format: TextFormat) -> list[tuple[list[int], list[int]]]:
    def encode(some: Sequence[Mapping[str, Any]]) -> list[tuple[list[int], list[int]]]:
        return [(text_format.prompt_ids(row["prompt"]), text_format.learnt_ids(row["answer"])) for row in some]

    return processes.spread(encode, rows)


def _measured(
    model: Any, examples: Sequence[tuple[list[int], list[int]]], compute: torch.dtype
) -> dict[str, MeanEstimate]:
    """Return loss and perplexity of demonstrations, each a prompt and an answer."""

    # The longest first, and beside others as long.
    examples = sorted(examples, key=lambda example: -len(example[0]) - len(example[1]))
    nats = [-value for value in log_probabilities_of(model, examples, compute=compute)]
    return of_answers(nats, [len(answer) for _, answer in examples])


def _metrics() -> Any:
    tokens_before = 0

    def select(logs: Mapping[str, float], seconds: float) -> dict[str, float]:
        nonlocal tokens_before
        tokens, tokens_before = logs["num_tokens"] - tokens_before, int(logs["num_tokens"])
        return {
            "loss": logs["loss"],
            "entropy": logs["entropy"],
            "grad_norm": logs["grad_norm"],
            "learning_rate": logs["learning_rate"],
            "tokens_per_second": tokens / seconds,
            "seconds_per_step": seconds,
        }

    return select


def _outcome(curve: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    before = curve["looks"][0]
    after = next(look for look in curve["looks"] if look["step"] == curve["best_step"])
    tail = history[-max(1, len(history) // 10) :]
    found = {"steps": curve["last_step"], "returned_step": curve["best_step"]}
    for name in ("loss", "perplexity"):
        for when, look in (("_before", before), ("", after)):
            found |= {f"held_out_{name}{when}{end}": look[name][key] for end, key in _ENDS}
    return found | {"loss": sum(record["loss"] for record in tail) / len(tail)}


_ENDS = (("", "mean"), ("_low", "low"), ("_high", "high"))
