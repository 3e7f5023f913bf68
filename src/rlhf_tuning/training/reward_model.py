"""Phase 1: learn from human preferences a model that scores answers as the people did.

The model is the base with a score head: the hidden state at the last token of prompt + answer + end-of-sequence, times
a weight vector. It is trained with the Bradley-Terry loss, -log sigmoid(score(chosen) - score(rejected)), by TRL's
RewardTrainer (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155).

What differs from the paper and from stock TRL:

- The score head starts small, N(0, 1 / (d + 1)), as in Stiennon et al. 2020 (https://arxiv.org/abs/2009.01325), and is
  applied in float32: in bfloat16 two answers often got the very same score.
- After training the scores are centred: the mean score of the base model's own answers to training prompts is stored
  as an offset, so that 0 means "as good as the base model's mean answer".
- The prompt of a pair is computed once for both answers (`packing`), where the model's architecture allows it.
- Text is encoded by `text_format` and reaches the trainer as token ids.

In several processes (see `processes`) each learns from its share of a step's pairs and scores its share of the evaluation's.
"""

import json
import math
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from xxhash import xxh3_128_hexdigest

from rlhf_tuning import environment, statistics, step
from rlhf_tuning.accelerators import LEARNING
from rlhf_tuning.data.importer import Part, read_canonical, sample_canonical
from rlhf_tuning.distributed import processes, sharding
from rlhf_tuning.errors import DataError, ModelError
from rlhf_tuning.generation import generate
from rlhf_tuning.limits import check_limits
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import Conversation, TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.ops import lanes, linear, packing
from rlhf_tuning.ops.padding import left_padded
from rlhf_tuning.training.trainer_settings import MOST_SPARE_ROWS, drop_printing, one_device, shared_settings
from rlhf_tuning.training.training_log import TrainingLog, micro_batch

#: Multiplied by `reward_model_learning_rate_multiplier`.
BASE_LEARNING_RATE = 1e-4
#: Full fine-tuning moves every weight, so each moves less.
FULL_BASE_LEARNING_RATE = 1e-5

#: The Vertex job evaluated on no more rows than this.
MOST_EVAL_ROWS = 5_000

#: Into how many bins the evaluation sorts preferences.
_BINS = 6

_METADATA = "reward_model.json"
_SCORES = "scores.json"


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """Settings of phase 1, named as the pipeline's parameters are.

    `batch_size` counts a step's preferences, in all processes together.
    `reward_lora_dim` 0 means full fine-tuning. `centring_prompts` is how many training prompts the base model answers to
    find the zero of the scores; 0 leaves the scores as they are.

    Of the preferences, those to `held_out_reward_model_share` of the prompts are left to a second, held-out reward model;
    `held_out` says that it is this one. Both see each preference equally often, so that one takes fewer steps.
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

    def __post_init__(self) -> None:
        check_limits(**asdict(self))

    @property
    def learning_rate(self) -> float:
        """The peak learning rate."""
        base = BASE_LEARNING_RATE if self.reward_lora_dim else FULL_BASE_LEARNING_RATE
        return base * self.reward_model_learning_rate_multiplier

    @property
    def steps(self) -> int:
        """The optimizer steps of this reward model."""
        if not self.held_out:
            return self.reward_model_train_steps
        share = self.held_out_reward_model_share
        return max(1, round(self.reward_model_train_steps * share / (1 - share)))

    @property
    def part(self) -> Part | None:
        """The preferences that this reward model learns from; None for all."""
        if self.held_out_reward_model_share == 0:
            return None
        return Part(share=self.held_out_reward_model_share, seed=self.seed, held_out=self.held_out)


class ScoreHead(nn.Linear):
    """A score head that works in float32 whatever the precision around it; (..., d) to (..., 1)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the score at every position."""
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.linear(input.float(), self.weight.float())


class RewardModel:
    """Scores answers. Holds the trunk of a language model and a score head; the trunk may be shared with a policy.

    Args:
        trunk: Maps `input_ids` and `attention_mask` to an output with `last_hidden_state` (batch, length, d).
        head: The score head's weight, shape (1, d).
        offset: Subtracted from every score.
        text_format: Encodes what is scored.
        active: Entered around each pass over the trunk, to switch adapters.
    """

    def __init__(
        self,
        trunk: Any,
        head: torch.Tensor,
        *,
        offset: float,
        text_format: TextFormat,
        active: Callable[[], Any],
    ) -> None:
        self.offset, self.text_format = offset, text_format
        self._trunk, self._head, self._active = trunk, head.float(), active
        self._packs: bool | None = None  # not known yet

    def score(
        self,
        conversations: Sequence[Conversation],
        answers: Sequence[str],
        *,
        batch_size: int = 16,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> list[float]:
        """Return the centred score of each answer to its prompt, which is computed once for all its answers."""
        rows = [self.text_format.scored_ids(*pair) for pair in zip(conversations, answers, strict=True)]
        alike: dict[str, list[int]] = {}
        for row, conversation in enumerate(conversations):
            alike.setdefault(json.dumps(conversation), []).append(row)
        return self.score_ids(rows, list(alike.values()), batch_size=batch_size, on_progress=on_progress)

    @torch.no_grad()
    def score_ids(
        self,
        rows: Sequence[Sequence[int]],
        groups: Sequence[Sequence[int]] | None = None,
        *,
        batch_size: int = 16,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> list[float]:
        """Return the centred score of each token sequence, read at its last token.

        Args:
            rows: The sequences.
            groups: Which of them have a common beginning, computed once; by default each is alone.
            batch_size: Sequences at a time.
            on_progress: Told how many are done.
        """
        with sharding.in_step(self._trunk):
            return self._scores(rows, groups or [[row] for row in range(len(rows))], batch_size, on_progress)

    def _scores(
        self,
        rows: Sequence[Sequence[int]],
        groups: Sequence[Sequence[int]],
        batch_size: int,
        on_progress: Callable[[int], None],
    ) -> list[float]:
        groups = self._packable(rows, groups, most=batch_size)
        scores = [0.0] * len(rows)
        done = 0
        longest_first = sorted(groups, key=lambda group: -packing.packed_length([rows[row] for row in group]))

        def score(batch: Sequence[Sequence[int]]) -> list[float]:
            hidden = self._last_hidden([[rows[row] for row in group] for group in batch])
            values = nn.functional.linear(hidden.float(), self._head)[:, 0] - self.offset  # (batch,)
            found: list[float] = values.tolist()
            return found

        # So few that every lane gets some.
        size = min(batch_size, math.ceil(len(rows) / lanes.count(self._trunk)))
        batches = list(_batches(longest_first, size))
        with self._active(), _adapter_precision(self._trunk):
            for batch, values in zip(batches, lanes.each(self._trunk, score, batches), strict=True):
                members = [row for group in batch for row in group]
                for row, value in zip(members, values, strict=True):
                    scores[row] = value
                done += len(members)
                on_progress(done)
        return scores

    def _packable(
        self, rows: Sequence[Sequence[int]], groups: Sequence[Sequence[int]], *, most: int
    ) -> list[Sequence[int]]:
        """Cut groups into such of `most` rows, or into single rows where this model cannot pack."""
        several = [group for group in groups if len(group) > 1]
        fits = max(map(len, rows), default=0) <= packing.window(self._trunk)
        if several and fits and self._packs is None:
            longest = max(several, key=lambda group: packing.packed_length([rows[row] for row in group]))
            with self._active(), _adapter_precision(self._trunk):
                self._packs = packing.packing_is_exact(self._trunk, [rows[row] for row in longest[:most]])
        size = most if fits and self._packs else 1
        return [group[start : start + size] for group in groups for start in range(0, len(group), size)]

    def _last_hidden(self, groups: Sequence[Sequence[Sequence[int]]]) -> torch.Tensor:
        """Return the hidden state at the last token of every sequence, (sequences, d)."""
        device = self._head.device
        if all(len(group) == 1 for group in groups):
            # Padding on the left puts every last token in the last column, and real positions are counted by the mask.
            pad_id = self.text_format.tokenizer.pad_token_id
            inputs = left_padded([group[0] for group in groups], pad_id, device)
            positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
            hidden: torch.Tensor = self._trunk(**inputs, position_ids=positions, use_cache=False).last_hidden_state
            return hidden[:, -1]
        packed = packing.pack([packing.share_beginning(group) for group in groups])
        tensors = (packed.input_ids, packed.position_ids, packed.visible, packed.answers)
        return packing.last_hidden(self._trunk, *(tensor.to(device) for tensor in tensors))


def _adapter_precision(trunk: Any) -> Any:
    """Have an adapter's products made in the precision of the frozen weights, as they were in training."""
    if trunk.dtype != torch.bfloat16:
        return nullcontext()
    return torch.autocast(trunk.device.type, dtype=torch.bfloat16)


def _batches(groups: Sequence[Sequence[int]], size: int) -> Iterator[list[Sequence[int]]]:
    """Yield groups together that have at most `size` rows, of which each has no more by itself."""
    batch: list[Sequence[int]] = []
    for group in groups:
        if batch and sum(map(len, batch)) + len(group) > size:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


@contextmanager
def adapter_active(model: Any, name: str) -> Iterator[None]:
    """Switch a PeftModel to one of its adapters and to evaluation mode, and back afterwards."""
    before, training = model.active_adapter, model.training
    model.eval()
    model.set_adapter(name)
    try:
        yield
    finally:
        model.set_adapter(before)
        model.train(training)


def train_reward_model(
    config: RewardModelConfig,
    *,
    preferences_path: str,
    eval_preferences_path: str,
    output_dir: str,
    tensorboard_dir: str,
) -> dict[str, Any]:
    """Train a reward model for exactly `config.steps` steps, centre it, measure it and save it.

    Args:
        config: The settings.
        preferences_path: Canonical preference rows to learn from.
        eval_preferences_path: Canonical preference rows to measure on, none of them learnt from.
        output_dir: Gets the adapter with its score head (or the whole model), `reward_model.json`, `metrics.jsonl` and
            `evaluation.json`.
        tensorboard_dir: Gets event files.

    Returns:
        The evaluation, as in `evaluation.json`; see `evaluate_reward_model`. Empty, with nothing saved, for a held-out
        reward model to which no prompt fell.

    Raises:
        ParameterError: If the processes cannot share a batch evenly.
        ModelError: If the base model cannot be loaded.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from trl import RewardConfig

    from rlhf_tuning.training.pair_trainer import PairTrainer, StepTrainer, collate_pairs

    share = processes.share(config.batch_size, environment.process_count())
    processes.join()
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)

    # 1. Encode the preferences.
    tokenizer = load_tokenizer(config.large_model_reference)
    text_format = _text_format(tokenizer, config)
    most = max(config.steps * config.batch_size, MOST_SPARE_ROWS)
    preferences = sample_canonical(preferences_path, most=most, seed=config.seed, part=config.part)
    if not preferences and config.held_out:
        step.say("Too few prompts for a second reward model: there is no held-out reward in this run")
        return {}
    if not preferences:
        raise DataError(
            "Every preference fell to the held-out reward model. Give more, or set held_out_reward_model_share to 0."
        )
    rows: list[dict[str, Any]] = [
        {
            "chosen_ids": text_format.scored_ids(row["prompt"], row["chosen"]),
            "rejected_ids": text_format.scored_ids(row["prompt"], row["rejected"]),
        }
        for row in preferences
    ]

    # 2. Build the model: the base with a fresh score head.
    torch.manual_seed(config.seed + config.held_out)
    lora = config.reward_lora_dim > 0
    compute = base_model.choose_dtype(config.dtype)
    base_model.check_memory(config.large_model_reference, dtype=compute, rank="reward_lora_dim", full=not lora)
    model = base_model.load_sequence_classifier(
        config.large_model_reference,
        dtype=compute if lora else torch.float32,
        shard=True,
        beside=0 if lora else LEARNING,
        compute=compute,
    )
    base_model.check_context(
        model,
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    model.score = _fresh_head(model)

    # 3. Train.
    longest = max(rows, key=lambda row: len(row["chosen_ids"]) + len(row["rejected_ids"]))
    packed = packing.packing_is_exact(model.base_model, [longest["chosen_ids"], longest["rejected_ids"]])
    if not packed:
        step.say(
            "Reward model: this architecture cannot share a prompt between two answers, so each answer has its own"
        )
    for row in rows:
        both = (row["chosen_ids"], row["rejected_ids"])
        row["length"] = packing.packed_length(both) if packed else max(map(len, both))
    # More rows at a time are faster, and packed rows leave the memory for them.
    most = 8 if packed else 4
    per_device = micro_batch(share, most=most)
    with tempfile.TemporaryDirectory(prefix="reward-trainer-") as scratch:
        settings = shared_settings(
            output_dir=scratch,
            steps=config.steps,
            learning_rate=config.learning_rate,
            seed=config.seed,
            compute=compute,
        )
        arguments = RewardConfig(
            **settings,
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=share // per_device,
            lr_scheduler_type="linear",
            max_length=None,
            # Pairs of similar length share a batch, so that less is padded.
            train_sampling_strategy="group_by_length" if micro_batch(config.batch_size, most=most) > 1 else "random",
            length_column_name="length",
            remove_unused_columns=False,
        )
        log = TrainingLog(
            label="held-out reward model" if config.held_out else "reward model",
            total_steps=config.steps,
            metrics_path=folder / "metrics.jsonl",
            tensorboard_dir=Path(tensorboard_dir),
            select=_reward_metrics,
            vertex_tags={"loss": "rank_loss"},
        )
        trainer = (PairTrainer if packed else StepTrainer)(
            model=model,
            data_collator=collate_pairs if packed else None,
            args=one_device(arguments),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[log],
            peft_config=LoraConfig(
                task_type="SEQ_CLS",
                r=config.reward_lora_dim,
                lora_alpha=2 * config.reward_lora_dim,
                lora_dropout=0.0,
                target_modules="all-linear",
                modules_to_save=["score"],
            )
            if lora
            else None,
        )
        _keep_trained_weights_in_float32(trainer.model)
        linear.quicken(trainer.model)
        sharding.train_together(trainer)
        drop_printing(trainer)
        trainer.train()
        log.close()
    trained = trainer.model.eval()

    # 4. Centre the scores on the base model's own answers.
    reward_model = _wrap(trained, offset=0.0, text_format=text_format)
    offset = 0.0
    if config.centring_prompts:
        lanes.let_go()
        offset = _base_mean_score(reward_model, config, preferences)
        reward_model.offset = offset

    # 5. Save, then measure.
    weights = None if lora else sharding.whole_weights(trained)
    if environment.is_main_process():
        trained.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)
        metadata = {
            "base_model": config.large_model_reference,
            "reward_lora_dim": config.reward_lora_dim,
            "offset": offset,
            "prompt_sequence_length": config.prompt_sequence_length,
            "target_sequence_length": config.target_sequence_length,
        }
        (folder / _METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    evaluation = evaluate_reward_model(
        reward_model, list(read_canonical(eval_preferences_path)), scores_path=folder / _SCORES
    )
    evaluation |= {"steps": config.steps, "final_loss": _mean_tail(log.history, "loss")}
    if environment.is_main_process():
        (folder / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n", encoding="utf-8")
    step.say(
        f"Reward model: agrees with {evaluation['accuracy']:.1%} of {evaluation['n']} held-out preferences "
        f"[{evaluation['accuracy_low']:.1%}, {evaluation['accuracy_high']:.1%}]; "
        f"'the longer answer wins' agrees with {evaluation['longer_wins_accuracy']:.1%}"
    )
    return evaluation


def load_reward_model(directory: str, *, dtype: str = "auto", beside: int = 0) -> RewardModel:
    """Load a saved reward model on its own base model; it gives the scores that it gave when it was saved.

    Args:
        directory: What phase 1 saved.
        dtype: As in the settings.
        beside: As for `base_model.load_causal_lm`: of a policy that learns.

    Raises:
        ModelError: If the folder holds no reward model of this project.
    """
    from peft import PeftModel

    metadata = read_metadata(directory)
    lora = int(metadata["reward_lora_dim"]) > 0
    source = str(metadata["base_model"]) if lora else directory
    compute = base_model.choose_dtype(dtype)
    model = base_model.load_sequence_classifier(
        source, dtype=compute if lora else torch.float32, shard=True, beside=beside, compute=compute
    )
    if lora:
        model.score = _fresh_head(model)
        model = PeftModel.from_pretrained(model, directory)
    return _wrap(model.eval(), offset=float(metadata["offset"]), text_format=saved_text_format(directory))


def read_metadata(directory: str) -> dict[str, Any]:
    """Return what a saved reward model says of itself.

    Raises:
        ModelError: If the folder holds no reward model of this project.
    """
    path = Path(directory) / _METADATA
    if not path.is_file():
        raise ModelError(
            f"{directory} holds no reward model: {_METADATA} is missing. Train one with reward_model_pipeline."
        )
    metadata: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return metadata


def saved_in(directory: str) -> str:
    """Return `directory` if it holds a reward model, else an empty string."""
    return directory if (Path(directory) / _METADATA).is_file() else ""


def saved_better_than_chance(directory: str) -> str:
    """Return `directory` if it holds a reward model that agrees with held-out preferences beyond chance, else nothing."""
    if not saved_in(directory):
        return ""
    measured = json.loads((Path(directory) / "evaluation.json").read_text(encoding="utf-8"))
    if measured.get("accuracy_low", 0.0) > 0.5:
        return directory
    step.say(
        "The held-out reward model agrees with people no better than chance, so it neither stops the run nor chooses the "
        "checkpoint"
    )
    return ""


def answer_key(conversation: Conversation, answer: str) -> str:
    """Return what stands for an answer to a conversation among saved scores."""
    return xxh3_128_hexdigest(json.dumps([conversation, answer]).encode())


def saved_scores(directory: str) -> dict[str, float]:
    """Return the scores that a saved reward model gave to held-out answers when it was measured, by `answer_key`."""
    path = Path(directory) / _SCORES
    scores: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return scores


def saved_text_format(directory: str) -> TextFormat:
    """Return the text format that a saved reward model was trained with."""
    metadata = read_metadata(directory)
    return TextFormat(
        load_tokenizer(directory),
        prompt_sequence_length=int(metadata["prompt_sequence_length"]),
        target_sequence_length=int(metadata["target_sequence_length"]),
    )


def share_trunk(policy: Any, directory: str, *, adapter_name: str = "reward") -> RewardModel:
    """Load a reward adapter into a policy's PeftModel, so that one copy of the base weights serves both.

    Args:
        policy: A PeftModel over the very base model that the reward adapter was trained on.
        directory: The saved reward model; it must be an adapter.
        adapter_name: What to call it inside the PeftModel.
    """
    from safetensors.torch import load_file

    metadata = read_metadata(directory)
    active = policy.active_adapter
    policy.load_adapter(directory, adapter_name=adapter_name, is_trainable=False)
    policy.set_adapter(active)
    saved = load_file(Path(directory) / "adapter_model.safetensors")
    (head,) = (tensor for name, tensor in saved.items() if name.endswith("score.weight"))
    return RewardModel(
        policy.get_base_model().base_model,
        head.to(base_model.device()),
        offset=float(metadata["offset"]),
        text_format=saved_text_format(directory),
        active=lambda: adapter_active(policy, adapter_name),
    )


def evaluate_reward_model(
    reward_model: RewardModel, preferences: Sequence[dict[str, Any]], *, scores_path: Path | None = None
) -> dict[str, Any]:
    """Score both answers of each preference and return how often the preferred one scores higher.

    Equal scores count half. Beside the accuracy stand its 95% Wilson interval, the accuracy where the shorter answer was
    preferred (a model that has only learnt length scores 0 there), and what "the longer answer wins" would have got.
    `by_margin` and `by_length_difference` tell the same apart by how far the scores are from each other, and by how many
    tokens longer the preferred answer is.

    Args:
        reward_model: The model to measure.
        preferences: Canonical rows; the first `MOST_EVAL_ROWS` are used.
        scores_path: Gets the score of every answer, for `saved_scores`.
    """
    rows = list(preferences[:MOST_EVAL_ROWS])

    def score(rows: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
        prompts = [row["prompt"] for row in rows]
        progress = step.Progress("reward model evaluation", 2 * len(rows), "answer")
        both = reward_model.score(
            prompts + prompts,
            [row["chosen"] for row in rows] + [row["rejected"] for row in rows],
            on_progress=progress.update,
        )
        return list(zip(both[: len(rows)], both[len(rows) :], strict=True))

    scores = processes.spread(score, rows)
    chosen, rejected = [pair[0] for pair in scores], [pair[1] for pair in scores]
    if scores_path and environment.is_main_process():
        known: dict[str, float] = {}
        for row, pair in zip(rows, scores, strict=True):
            known |= zip((answer_key(row["prompt"], row[name]) for name in ("chosen", "rejected")), pair, strict=True)
        scores_path.write_text(json.dumps(known) + "\n", encoding="utf-8")
    points = [_point(a, b) for a, b in zip(chosen, rejected, strict=True)]
    lengths = [
        (
            len(reward_model.text_format.answer_ids(row["chosen"])),
            len(reward_model.text_format.answer_ids(row["rejected"])),
        )
        for row in rows
    ]
    shorter = [point for point, (a, b) in zip(points, lengths, strict=True) if a < b]
    longer_wins = [_point(a, b) for a, b in lengths]
    result: dict[str, Any] = {"n": len(rows)}
    for name, values in (
        ("accuracy", points),
        ("shorter_preferred_accuracy", shorter),
        ("longer_wins_accuracy", longer_wins),
    ):
        if values:
            interval = statistics.wilson_interval(sum(values), len(values))
            result |= {name: sum(values) / len(values), f"{name}_low": interval.low, f"{name}_high": interval.high}
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    result["shorter_preferred_n"] = len(shorter)
    result["mean_margin"] = sum(margins) / max(1, len(rows))
    result["by_margin"] = [
        _bin([abs(margins[row]) for row in members], [points[row] for row in members])
        # How sure the model is of whichever answer it prefers, beside how often it is right.
        | {"predicted": sum(1 / (1 + math.exp(-abs(margins[row]))) for row in members) / len(members)}
        for members in _equal_bins([abs(margin) for margin in margins])
    ]
    result["roc"] = roc_curve(margins)
    differences = [a - b for a, b in lengths]
    result["by_length_difference"] = [
        _bin([differences[row] for row in members], [points[row] for row in members])
        for members in _equal_bins(differences)
    ]
    return result


def roc_curve(margins: Sequence[float], most: int = 50) -> dict[str, list[float]]:
    """Return the receiver operating characteristic of "the first answer is preferred", for KFP's ClassificationMetrics.

    Every preference stands for two cases, one in each order, so that the curve is symmetric and its area is the accuracy
    for margins of equal sureness.

    Args:
        margins: Score of the preferred answer less that of the other, for each preference.
        most: Points to return at most.
    """
    if not margins:
        return {"fpr": [], "tpr": [], "threshold": []}
    thresholds = sorted({*margins, *(-margin for margin in margins)}, reverse=True)
    step = max(1, math.ceil(len(thresholds) / most))
    kept = [*thresholds[::step], *([thresholds[-1]] if (len(thresholds) - 1) % step else [])]
    n = len(margins)
    return {
        "fpr": [sum(-margin >= threshold for margin in margins) / n for threshold in kept],
        "tpr": [sum(margin >= threshold for margin in margins) / n for threshold in kept],
        "threshold": kept,
    }


def _equal_bins(values: Sequence[float]) -> list[list[int]]:
    """Return the indices of values in order, in at most `_BINS` bins of about equal size; equal values stay together."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    bins: list[list[int]] = []
    began = 0
    for rank, index in enumerate(order):
        # A bin that was due among equal values begins after them.
        due = rank * _BINS // len(order) > began
        if not bins or (due and values[index] != values[bins[-1][-1]]):
            bins.append([])
            began = rank * _BINS // len(order)
        bins[-1].append(index)
    return bins


def _bin(values: Sequence[float], points: Sequence[float]) -> dict[str, float]:
    return {"low": min(values), "high": max(values), "n": len(values), "correct": sum(points)}


def _point(first: float, second: float) -> float:
    return 0.5 if math.isclose(first, second, rel_tol=0, abs_tol=1e-9) else float(first > second)


def _text_format(tokenizer: Any, config: RewardModelConfig) -> TextFormat:
    return TextFormat(
        tokenizer,
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )


def _fresh_head(model: Any) -> ScoreHead:
    size = model.score.weight.shape[1]
    head = ScoreHead(size, 1, bias=False)
    nn.init.normal_(head.weight, std=1 / math.sqrt(size + 1))
    return head.to(model.score.weight.device)


def _keep_trained_weights_in_float32(model: Any) -> None:
    """A step of 1e-4 is smaller than what bfloat16 can resolve, so weights that learn are kept in float32."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def _wrap(model: Any, *, offset: float, text_format: TextFormat) -> RewardModel:
    from peft import PeftModel

    if isinstance(model, PeftModel):
        linear.quicken(model)
        classifier = model.get_base_model()
        weight = classifier.score.modules_to_save["default"].weight
    else:
        classifier = model
        weight = classifier.score.weight
    return RewardModel(
        classifier.base_model, weight.detach(), offset=offset, text_format=text_format, active=nullcontext
    )


def _base_mean_score(
    reward_model: RewardModel, config: RewardModelConfig, preferences: Sequence[dict[str, Any]]
) -> float:
    """Return the mean score of the base model's sampled answers to training prompts."""
    prompts = [row["prompt"] for row in preferences]
    chosen = random.Random(config.seed).sample(prompts, k=min(config.centring_prompts, len(prompts)))
    base = base_model.load_causal_lm(
        config.large_model_reference, dtype=base_model.choose_dtype(config.dtype), shard=True
    )

    def score(prompts: Sequence[Conversation]) -> list[float]:
        progress = step.Progress("centring on the base model's answers", len(prompts), "answer")
        answers = generate.generate_answers(
            base,
            reward_model.text_format,
            prompts,
            temperature=1.0,
            batch_size=generate.TOGETHER[base_model.device().type],
            seed=config.seed + environment.process_index(),
            on_progress=progress.update,
        )
        return reward_model.score(prompts, [answer.text for answer in answers])

    scores = processes.spread(score, chosen)
    return sum(scores) / len(scores)


def _reward_metrics(logs: Any, seconds: float) -> dict[str, float]:
    return {
        "loss": logs["loss"],
        "accuracy": logs["accuracy"],
        "margin": logs["margin"],
        "mean_reward": logs["mean_reward"],
        "learning_rate": logs["learning_rate"],
        "seconds_per_step": seconds,
    }


def _mean_tail(history: Sequence[dict[str, float]], name: str, tail: int = 10) -> float:
    values = [record[name] for record in history[-tail:]]
    return sum(values) / max(1, len(values))
