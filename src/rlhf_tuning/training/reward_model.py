"""Phase 1: learn from human preferences a model that scores answers as the people did.

The model is the base with a score head: the hidden state at the last token of prompt + answer + end-of-sequence, times
a weight vector. It is trained with the Bradley-Terry loss, -log sigmoid(score(chosen) - score(rejected) - margin), by TRL's
RewardTrainer (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155). The margin is 0 unless a row says by how much its
chosen answer is better (Touvron et al. 2023, https://arxiv.org/abs/2307.09288); validation and accuracy leave it out.
Feedback on single answers, labels or ratings, has a loss of its own, see `cumulative_link`; beside pairs or without them.

What differs from the paper and from stock TRL:

- The score head starts small, N(0, 1 / (d + 1)), as in Stiennon et al. 2020 (https://arxiv.org/abs/2009.01325), and is
  applied in float32: in bfloat16 two answers often got the very same score.
- It sees each preference `reward_model_max_epochs` times at the most: people who train reward models mostly let them see
  theirs once or twice, since they soon learn them by heart (Ouyang et al. 2022 and Stiennon et al. 2020: once). A tenth of
  the preferences is set aside, which says when to stop and which checkpoint to keep (`held_out_loss`).
- After training the scores are centred and scaled by the base model's own answers to training prompts: 0 means "as good as
  its mean answer", and 1 is the standard deviation between its answers to one prompt. So `kl_coeff`, which weighs scores
  against nats, means the same for every reward model. The spread between prompts says nothing: the loss leaves a prompt's
  own zero open.
- Preferences whose answers are the same once `target_sequence_length` has cut them are left out.
- The prompt of a pair is computed once for both answers (`packing`), where the model's architecture allows it.
- Text is encoded by `text_format` and reaches the trainer as token ids.

In several processes (see `processes`) each learns from its share of a step's pairs and scores its share of the evaluation's.
"""

import json
import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import variance
from typing import Any

import torch

from rlhf_tuning import environment, step
from rlhf_tuning.data.held_out import set_aside
from rlhf_tuning.data.importer import ALL_HELD_OUT, Part, read_canonical, sample_canonical
from rlhf_tuning.distributed import processes, sharding
from rlhf_tuning.errors import DataError, ModelError
from rlhf_tuning.evaluation.reward_model_accuracy import evaluate_reward_model, told
from rlhf_tuning.generation import generate
from rlhf_tuning.limits import check_limits
from rlhf_tuning.models import base_model
from rlhf_tuning.models.reward_model import EVALUATION, SCORES, RewardModel, reward_model_of, write_metadata
from rlhf_tuning.models.text_format import Conversation, TextFormat, conversation_key
from rlhf_tuning.ops import lanes, linear, packing
from rlhf_tuning.statistics import MeanEstimate, clustered_mean, clustered_share
from rlhf_tuning.training import cumulative_link
from rlhf_tuning.training.budget_watch import BudgetWatch
from rlhf_tuning.training.checkpoints import Checkpoints
from rlhf_tuning.training.cumulative_link import Levels
from rlhf_tuning.training.held_out_loss import HeldOutLoss, HeldOutWatcher, check_finite, of_margins, pair_loss
from rlhf_tuning.training.loading import load_base, load_text_format
from rlhf_tuning.training.trainer_settings import (
    MOST_SPARE_ROWS,
    check_steps,
    drop_printing,
    one_device,
    passes,
    shared_settings,
)
from rlhf_tuning.training.training_log import TrainingLog, micro_batch

#: Multiplied by `reward_model_learning_rate_multiplier`.
BASE_LEARNING_RATE = 1e-4
#: Full fine-tuning moves every weight, so each moves less.
FULL_BASE_LEARNING_RATE = 1e-5

#: Of the base model to each prompt, by which scores are scaled.
_BASE_ANSWERS = 2

#: An epoch has so many looks at the preferences set aside; without a lower loss in as many the training ends.
_LOOKS_AN_EPOCH = 4


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """Settings of phase 1, named as the pipeline's parameters are.

    `batch_size` counts a step's preferences, in all processes together.
    `reward_lora_dim` 0 means full fine-tuning. `centring_prompts` is how many training prompts the base model answers to
    find zero and scale of the scores; 0 leaves the scores as they are. `reward_model_train_steps` are the most that are
    taken: fewer where each preference has been seen `reward_model_max_epochs` times (0: no limit), or nothing more is
    learnt.

    Of the preferences, those to `held_out_reward_model_share` of the prompts are left to a second, held-out reward model;
    `held_out` says that it is this one. Both see each preference equally often, so that one takes fewer steps.

    `checkpoint_interval` are the minutes between two checkpoints.
    """

    large_model_reference: str
    reward_model_train_steps: int = 1000
    reward_model_learning_rate_multiplier: float = 1.0
    reward_lora_dim: int = 16
    batch_size: int = 64
    prompt_sequence_length: int = 512
    target_sequence_length: int = 64
    seed: int = 0
    dtype: str = "auto"
    centring_prompts: int = 64
    held_out_reward_model_share: float = 0.0
    held_out: bool = False
    reward_model_max_epochs: float = 2.0
    checkpoint_interval: float = 10.0

    def __post_init__(self) -> None:
        check_limits(**asdict(self))

    @property
    def learning_rate(self) -> float:
        """The peak learning rate."""
        base = BASE_LEARNING_RATE if self.reward_lora_dim else FULL_BASE_LEARNING_RATE
        return base * self.reward_model_learning_rate_multiplier

    @property
    def most_steps(self) -> int:
        """The most optimizer steps of this reward model, whatever its data."""
        if not self.held_out:
            return self.reward_model_train_steps
        share = self.held_out_reward_model_share
        return max(1, round(self.reward_model_train_steps * share / (1 - share)))

    def steps(self, preferences: int) -> int:
        """Return the most optimizer steps on so many preferences."""
        if not self.reward_model_max_epochs:
            return self.most_steps
        return min(self.most_steps, math.ceil(self.reward_model_max_epochs * preferences / self.batch_size))

    @property
    def part(self) -> Part | None:
        """The preferences that this reward model learns from; None for all."""
        if self.held_out_reward_model_share == 0:
            return None
        return Part(share=self.held_out_reward_model_share, seed=self.seed, held_out=self.held_out)


def train_reward_model(
    config: RewardModelConfig,
    *,
    preferences_path: str,
    eval_preferences_path: str,
    output_dir: str,
    tensorboard_dir: str,
    checkpoint_dir: str = "",
    budget: str = "",
) -> dict[str, Any]:
    """Train a reward model until it learns no more, centre and scale it, measure it and save it.

    Args:
        config: The settings.
        preferences_path: Canonical rows to learn from: preferences, feedback, or both.
        eval_preferences_path: Canonical rows of these kinds to measure on, none of them learnt from.
        output_dir: Gets the adapter with its score head (or the whole model), `reward_model.json`, `metrics.jsonl`,
            `evaluation.json`, and `held_out_loss.json` where there were enough preferences to validate on.
        tensorboard_dir: Gets event files.
        checkpoint_dir: Keeps checkpoints until the reward model is saved, see `checkpoints`; empty for none.
        budget: From `run_budget.step_budget`; empty for none.

    Returns:
        The evaluation, as in `evaluation.json`; see `evaluate_reward_model`. Empty, with nothing saved, for a held-out
        reward model to which no prompt fell.

    Raises:
        ParameterError: If the processes cannot share a batch evenly.
        DataError: If there is no preference to learn from.
        ModelError: If the base model cannot be loaded, or the reward model scores everything alike.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from trl import RewardConfig

    from rlhf_tuning.training.pair_trainer import JudgementTrainer, PairTrainer, collate_judgements, collate_pairs

    share = processes.share(config.batch_size, environment.process_count())
    processes.join()
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    label = "held-out reward model" if config.held_out else "reward model"
    budget_watch = BudgetWatch(budget, dtype=config.dtype, label=f"the {label}")

    # 1. Encode the preferences.
    text_format = load_text_format(config)
    tokenizer = text_format.tokenizer
    most = max(config.most_steps * config.batch_size, MOST_SPARE_ROWS)
    preferences = sample_canonical(preferences_path, most=most, seed=config.seed, part=config.part)
    if not preferences and config.held_out:
        step.say("Too few prompts for a second reward model: there is no held-out reward in this run")
        return {}
    if not preferences:
        raise DataError(ALL_HELD_OUT)
    preferences = _differing(preferences, text_format)
    preferences, validated = set_aside(preferences, seed=config.seed)
    levels = Levels(preferences)
    rows = _encoded(preferences, text_format, levels)
    steps = config.steps(len(rows))
    seen = steps * config.batch_size / len(rows)
    kinds = dict.fromkeys("preferences" if row["rejected_ids"] else "answers" for row in rows)
    what = " and ".join(sorted(kinds, reverse=True))
    step.say(
        f"Reward model: {steps:,} steps of {config.batch_size:,} on {len(rows):,} {what}, each seen {seen:.1f} times; "
        + (f"validated on {len(validated):,} others" if validated else "too few to validate on others")
    )

    # 2. Build the model: the base with a fresh score head.
    lora = config.reward_lora_dim > 0
    model, compute = load_base(
        config,
        rank="reward_lora_dim",
        output=None if lora else folder,
        seed=config.seed + config.held_out,
        scores=True,
    )
    model.config.pad_token_id = tokenizer.pad_token_id

    # 3. Train.
    answers = [[row[name] for name in ("chosen_ids", "rejected_ids") if row[name]] for row in rows]
    pairs = [pair for pair in answers if len(pair) == 2]
    longest = max(len(answer) for group in answers for answer in group)
    with torch.autocast(base_model.device().type, dtype=compute, enabled=compute != torch.float32):
        packed = not pairs or packing.is_exact(model.base_model, packing.telling(pairs), longest=longest)
    if not packed:
        step.say(
            "Reward model: this architecture cannot share a prompt between two answers, so each answer has its own"
        )
    for row, group in zip(rows, answers, strict=True):
        row["length"] = packing.packed_length(group) if packed else max(map(len, group))
    # More rows at a time are faster, and packed rows leave the memory for them.
    most = 8 if packed else 4
    together = passes(
        model,
        share=share,
        most=most,
        tokens=max(row["length"] for row in rows) * (1 if packed else 2),
        full=not lora,
        compute=compute,
    )
    with tempfile.TemporaryDirectory(prefix="reward-trainer-") as scratch:
        settings = shared_settings(
            output_dir=scratch,
            steps=steps,
            learning_rate=config.learning_rate,
            seed=config.seed,
            compute=compute,
            checkpointing=together.checkpointing,
        )
        arguments = RewardConfig(
            **settings,
            per_device_train_batch_size=together.rows,
            gradient_accumulation_steps=share // together.rows,
            lr_scheduler_type="linear",
            max_length=None,
            # Pairs of similar length share a batch, so that less is padded.
            train_sampling_strategy="group_by_length" if micro_batch(config.batch_size, most=most) > 1 else "random",
            length_column_name="length",
            remove_unused_columns=False,
        )
        log = TrainingLog(
            label=label,
            total_steps=steps,
            metrics_path=folder / "metrics.jsonl",
            tensorboard_dir=Path(tensorboard_dir),
            select=_reward_metrics,
            vertex_tags={"loss": "rank_loss"},
        )
        of_pairs = PairTrainer, collate_pairs
        of_all = partial(JudgementTrainer, cuts=levels.cuts()), collate_judgements
        trainer_of, collate = of_pairs if len(pairs) == len(rows) else of_all
        trainer = trainer_of(
            model=model,
            data_collator=partial(collate, share=packed),
            args=one_device(arguments),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[log, budget_watch],
            peft_config=LoraConfig(
                task_type="SEQ_CLS",
                r=config.reward_lora_dim,
                lora_alpha=2 * config.reward_lora_dim,
                lora_dropout=0.0,
                target_modules="all-linear",
                exclude_modules=linear.left_alone(model.base_model),
                modules_to_save=["score"],
            )
            if lora
            else None,
        )
        _keep_trained_weights_in_float32(trainer.model)
        linear.quicken(trainer.model)
        sharding.train_together(trainer)
        drop_printing(trainer)
        reward_model = reward_model_of(trainer.model, text_format=text_format)
        watcher = HeldOutWatcher(
            trainer.model,
            partial(_measured, reward_model, trainer.model, validated, _encoded(validated, text_format, levels)),
            HeldOutLoss(steps, patience=_LOOKS_AN_EPOCH, unit="nats a preference"),
            interval=max(1, round(len(rows) / config.batch_size / _LOOKS_AN_EPOCH)),
            from_start=False,
            log=log,
            scratch=scratch,
        )
        if validated:
            trainer.add_callback(watcher)
        checkpoints = Checkpoints(checkpoint_dir, config, preferences_path, eval_preferences_path, label=label)
        with closing(log):
            checkpoints.train(trainer, log, budget_watch, *([watcher] if validated else []))
        returned = trainer.state.global_step
        if not (budget_watch.stopped or (validated and watcher.curve.stopped)):
            check_steps(returned, asked=steps, label="Reward model training")
        if validated:
            returned = watcher.finish(folder).step
    if len(pairs) < len(rows):
        del trainer.model.cuts  # which only training needs
    trained = trainer.model.eval()

    # 4. Centre and scale the scores by the base model's own answers.
    if config.centring_prompts:
        lanes.let_go()
        offset, scale = _base_scores(reward_model, config, preferences)
        reward_model.offset, reward_model.scale = offset, scale

    # 5. Save, then measure.
    weights = None if lora else sharding.whole_weights(trained)
    if environment.is_main_process():
        trained.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)
        write_metadata(
            folder,
            base=config.large_model_reference,
            reward_lora_dim=config.reward_lora_dim,
            offset=reward_model.offset,
            scale=reward_model.scale,
            text_format=text_format,
        )
    evaluation = evaluate_reward_model(
        reward_model,
        list(read_canonical(eval_preferences_path)),
        learnt_from=[*preferences, *validated],
        scores_path=folder / SCORES,
    )
    history = [record for record in log.history if record["step"] <= returned]
    evaluation |= {"steps": returned, "epochs": returned * config.batch_size / len(rows)}
    evaluation |= {"scale": reward_model.scale, "final_loss": _mean_tail(history, "loss")} | budget_watch.finish(folder)
    if environment.is_main_process():
        (folder / EVALUATION).write_text(json.dumps(evaluation, indent=2) + "\n", encoding="utf-8")
    checkpoints.remove()
    step.say(f"Reward model: {told(evaluation)}")
    return evaluation


def _encoded(rows: Sequence[dict[str, Any]], text_format: TextFormat, levels: Levels) -> list[dict[str, Any]]:
    """Return rows as tokens; the answer of feedback stands where the chosen one of a pair does, and nothing in the other."""

    def encoded(row: dict[str, Any]) -> dict[str, Any]:
        answers = [row["chosen"], row["rejected"]] if "chosen" in row else [row["answer"]]
        ids = [*(text_format.scored_ids(row["prompt"], answer) for answer in answers), []]
        below, above = levels.cuts_of(row)
        found = {"chosen_ids": ids[0], "rejected_ids": ids[1], "margin": row.get("margin", 0.0)}
        return found | {"below": below, "above": above}

    return processes.spread(lambda some: list(map(encoded, some)), rows)


def _differing(rows: Sequence[dict[str, Any]], text_format: TextFormat) -> list[dict[str, Any]]:
    """Return feedback, and the preferences whose answers differ where a reward model reads them; say how many do not.

    Raises:
        DataError: If none is left.
    """

    def differ(some: Sequence[dict[str, Any]]) -> list[bool]:
        return ["answer" in row or text_format.differ(row["chosen"], row["rejected"]) for row in some]

    kept = [row for row, told in zip(rows, processes.spread(differ, rows), strict=True) if told]
    pairs = sum("chosen" in row for row in rows)
    limit = f"target_sequence_length {text_format.target_sequence_length:,} leaves the same of both answers"
    if not kept:
        raise DataError(f"No preference is left to learn from: {limit} of all {pairs:,}. Raise it.")
    if len(kept) < len(rows):
        step.say(f"{len(rows) - len(kept):,} of {pairs:,} preferences are left out: {limit}")
    return kept


def _measured(
    reward_model: RewardModel, model: Any, rows: Sequence[dict[str, Any]], encoded: Sequence[dict[str, Any]]
) -> dict[str, MeanEstimate]:
    """Return the loss on preferences and feedback, and how often the reward model agrees with them."""

    def scores(some: Sequence[dict[str, Any]]) -> list[list[float]]:
        answers = [[row[name] for name in ("chosen_ids", "rejected_ids") if row[name]] for row in some]
        ends = list(accumulate(map(len, answers), initial=0))
        groups = [range(*pair) for pair in pairwise(ends)]
        found = reward_model.score_ids([ids for group in answers for ids in group], groups)
        return [found[start:end] for start, end in pairwise(ends)]

    found = processes.spread(scores, encoded)
    prompts = [conversation_key(row["prompt"]) for row in rows]
    if all(len(pair) == 2 for pair in found):
        return of_margins([chosen - rejected for chosen, rejected in found], prompts)
    cuts = model.cuts().tolist()
    losses, points = zip(*(_judged(*both, cuts) for both in zip(found, encoded, strict=True)), strict=True)
    check_finite(losses)
    return {
        "loss": clustered_mean(losses, prompts)._replace(n=len(rows)),
        "accuracy": clustered_share(points, prompts),
    }


def _judged(scores: Sequence[float], row: Mapping[str, Any], cuts: Sequence[float]) -> tuple[float, float]:
    """Return the loss of a pair or of a single answer, and whether it is right: 1, 0, or one half for a tie."""
    if len(scores) == 2:
        margin = scores[0] - scores[1]
        return pair_loss(margin), (margin > 0) + 0.5 * (margin == 0)
    below, above = cuts[row["below"]], cuts[row["above"]]
    loss = cumulative_link.losses(*map(torch.tensor, (scores[0], below, above))).item()
    return loss, float(below < scores[0] < above)


def _keep_trained_weights_in_float32(model: Any) -> None:
    """A step of 1e-4 is smaller than what bfloat16 can resolve, so weights that learn are kept in float32."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def _base_scores(
    reward_model: RewardModel, config: RewardModelConfig, preferences: Sequence[dict[str, Any]]
) -> tuple[float, float]:
    """Return the mean score of the base model's sampled answers to training prompts, and their spread within a prompt.

    Raises:
        ModelError: If there is no spread.
    """
    prompts = [row["prompt"] for row in preferences]
    chosen = random.Random(config.seed).sample(prompts, k=min(config.centring_prompts, len(prompts)))
    base = base_model.load_causal_lm(
        config.large_model_reference, dtype=base_model.choose_dtype(config.dtype), shard=True
    )

    def score(prompts: Sequence[Conversation]) -> list[list[float]]:
        asked = [prompt for prompt in prompts for _ in range(_BASE_ANSWERS)]
        progress = step.Progress("centring on the base model's answers", len(asked), "answer")
        answers = generate.generate_answers(
            base,
            reward_model.text_format,
            asked,
            temperature=1.0,
            batch_size=generate.TOGETHER[base_model.device().type],
            seed=config.seed + environment.process_index(),
            on_progress=progress.update,
        )
        scores = reward_model.score(asked, [answer.text for answer in answers])
        return [scores[first : first + _BASE_ANSWERS] for first in range(0, len(scores), _BASE_ANSWERS)]

    groups = processes.spread(score, chosen)
    scale = math.sqrt(sum(variance(group) for group in groups) / len(groups))
    if not scale > 0:
        raise ModelError(
            "The reward model gives the base model's answers to a prompt one and the same score, to each of "
            f"{len(groups):,} prompts: nothing can be learnt from it. Train it longer, or on more preferences."
        )
    return sum(map(sum, groups)) / len(groups) / _BASE_ANSWERS, scale


def _reward_metrics(logs: Any, seconds: float) -> dict[str, float]:
    return {
        "loss": logs["loss"],
        "accuracy": logs["accuracy"],
        **({"margin": logs["margin"]} if "margin" in logs else {}),  # of pairs alone
        "mean_reward": logs["mean_reward"],
        "grad_norm": logs["grad_norm"],
        "learning_rate": logs["learning_rate"],
        "seconds_per_step": seconds,
    }


def _mean_tail(history: Sequence[dict[str, float]], name: str, tail: int = 10) -> float:
    values = [record[name] for record in history[-tail:]]
    return sum(values) / max(1, len(values))
