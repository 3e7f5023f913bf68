"""A reward model: a language model with a score head that scores answers as people would, and the folder that keeps it.

The score is the hidden state at the last token of prompt + answer + end-of-sequence, times a weight vector. `training` says
how that is learnt.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from xxhash import xxh3_128_hexdigest

from rlhf_tuning import step
from rlhf_tuning.distributed import memory, sharding
from rlhf_tuning.errors import ModelError
from rlhf_tuning.models import base_model
from rlhf_tuning.models.scoring_model import load_head
from rlhf_tuning.models.text_format import Conversation, TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.ops import lanes, linear, packing
from rlhf_tuning.ops.beginning import beginning_of

#: Beside the weights a saved reward model has its measurement, and the score of every answer that it was measured on.
EVALUATION = "evaluation.json"
SCORES = "scores.json"
_METADATA = "reward_model.json"

#: Held-out preferences from which on it can be told whether a reward model is better than chance.
FEWEST_TO_TELL = 20


#: Whether kinds of models can share a prompt: reward models on one base need be tried once.
_packing: dict[tuple[Any, ...], bool] = {}


class RewardModel:
    """Scores answers. Holds the trunk of a language model and a score head; the trunk may be shared with a policy.

    Args:
        trunk: Maps `input_ids` and `attention_mask` to an output with `last_hidden_state` (batch, length, d).
        head: The score head's weight, shape (1, d): itself, since it may learn.
        offset: Subtracted from every score.
        scale: What every score is then divided by.
        text_format: Encodes what is scored.
        active: Entered around each pass over the trunk, to switch adapters.
    """

    def __init__(
        self,
        trunk: Any,
        head: torch.Tensor,
        *,
        offset: float,
        scale: float = 1.0,
        text_format: TextFormat,
        active: Callable[[], Any],
    ) -> None:
        self.offset, self.scale, self.text_format = offset, scale, text_format
        self._trunk, self._head, self._active = trunk, head, active
        self._packs: bool | None = None  # not known yet

    def score(
        self,
        conversations: Sequence[Conversation],
        answers: Sequence[str],
        *,
        batch_size: int = 16,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> list[float]:
        """Return the score of each answer to its prompt, which is computed once for all its answers."""
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
        """Return the score of each token sequence, read at its last token.

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
        batch_size = memory.at_a_time(batch_size)
        groups = self._packable(rows, groups, most=batch_size)
        scores = [0.0] * len(rows)
        done = 0
        with self._active(), _adapter_precision(self._trunk):
            begun = beginning_of(self._trunk, rows)
        begins = begun.length if begun else 0
        longest_first = sorted(groups, key=lambda group: -packing.packed_length([rows[row] for row in group]))

        def score(batch: Sequence[Sequence[int]]) -> list[float]:
            hidden = self._last_hidden([[rows[row][begins:] for row in group] for group in batch], begun)
            # In bfloat16 different answers would often have the very same score.
            with torch.autocast(hidden.device.type, enabled=False):
                values = nn.functional.linear(hidden.float(), self._head.float())[:, 0]  # (batch,)
            found: list[float] = ((values - self.offset) / self.scale).tolist()
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
        several = [[rows[row] for row in group[:most]] for group in groups if len(group) > 1]
        longest = max(map(len, rows), default=0)
        fits = longest <= packing.window(self._trunk)
        if several and fits and self._packs is None:
            with self._active(), _adapter_precision(self._trunk):
                kind = packing.kind_of(self._trunk)
                if kind not in _packing:
                    _packing[kind] = packing.is_exact(self._trunk, packing.telling(several), longest=longest)
                self._packs = _packing[kind]
        size = most if fits and self._packs else 1
        return [group[start : start + size] for group in groups for start in range(0, len(group), size)]

    def _last_hidden(self, groups: Sequence[Sequence[Sequence[int]]], begun: packing.Begun | None) -> torch.Tensor:
        """Return the hidden state at the last token of every sequence, (sequences, d)."""
        if all(len(group) == 1 for group in groups):
            packed = packing.pack([([], group) for group in groups])
        else:
            packed = packing.pack([packing.share_beginning(group) for group in groups])
        device = self._head.device
        return packing.last_hidden(
            self._trunk,
            packed.input_ids.to(device),
            packed.position_ids.to(device),
            None if packed.owners is None else packed.owners.to(device),
            packed.answers.to(device),
            begun,
        )


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


def reward_model_of(model: Any, *, offset: float = 0.0, scale: float = 1.0, text_format: TextFormat) -> RewardModel:
    """Return what scores with a scoring model, which may be adapted."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        linear.quicken(model)
        inner = model.get_base_model()
        weight = inner.score.modules_to_save["default"].weight
    else:
        inner = model
        weight = inner.score.weight
    return RewardModel(
        inner.base_model,
        weight,
        offset=offset,
        scale=scale,
        text_format=text_format,
        active=nullcontext,
    )


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
    model = base_model.load_scoring_model(
        source, dtype=compute if lora else torch.float32, shard=True, beside=beside, compute=compute
    )
    if lora:
        model = PeftModel.from_pretrained(model, directory, torch_device="cpu")
    else:
        load_head(model, directory)
    return reward_model_of(
        model.eval(),
        offset=float(metadata["offset"]),
        scale=_scale(metadata),
        text_format=saved_text_format(directory),
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
    # Read on the CPU and copied to where the layers are: peft would read it on the first GPU, whichever the policy's is.
    policy.load_adapter(directory, adapter_name=adapter_name, is_trainable=False, torch_device="cpu")
    policy.set_adapter(active)
    saved = load_file(Path(directory) / "adapter_model.safetensors")
    (head,) = (tensor for name, tensor in saved.items() if name.endswith("score.weight"))
    return RewardModel(
        policy.get_base_model().base_model,
        head.to(base_model.device()),
        offset=float(metadata["offset"]),
        scale=_scale(metadata),
        text_format=saved_text_format(directory),
        active=lambda: adapter_active(policy, adapter_name),
    )


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


def _scale(metadata: dict[str, Any]) -> float:
    """Return what scores are divided by: a reward model saved before 0.2 was only centred."""
    return float(metadata.get("scale", 1.0))


def write_metadata(
    directory: Path, *, base: str, reward_lora_dim: int, offset: float, scale: float, text_format: TextFormat
) -> None:
    """Write what `load_reward_model` needs beside the weights."""
    metadata = {
        "base_model": base,
        "reward_lora_dim": reward_lora_dim,
        "offset": offset,
        "scale": scale,
        "prompt_sequence_length": text_format.prompt_sequence_length,
        "target_sequence_length": text_format.target_sequence_length,
    }
    (directory / _METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def saved_in(directory: str) -> str:
    """Return `directory` if it holds a reward model, else an empty string."""
    return directory if (Path(directory) / _METADATA).is_file() else ""


def saved_better_than_chance(directory: str) -> str:
    """Return `directory` if it holds a reward model that agrees with held-out preferences beyond chance, else nothing."""
    if not saved_in(directory):
        return ""
    measured = json.loads((Path(directory) / EVALUATION).read_text(encoding="utf-8"))
    if measured.get("accuracy_low", 0.0) > 0.5:
        return directory
    step.say(
        "The held-out reward model agrees with people no better than chance, so it neither stops the run nor chooses the "
        "checkpoint"
    )
    return ""


def check_accuracy(directory: str, *, least: float) -> None:
    """Refuse a reward model whose accuracy on held-out preferences is not shown to be above `least`; 0 for any.

    Fewer than `FEWEST_TO_TELL` of them show nothing of a good one either, so that is said and no more.

    Raises:
        ModelError: Saying how often it agrees with people, and what helps.
    """
    path = Path(directory) / EVALUATION
    if not least or not path.is_file():
        return
    measured = json.loads(path.read_text(encoding="utf-8"))
    if "accuracy" not in measured or measured["accuracy_low"] > least:
        return
    found = (
        f"The reward model agrees with people on {measured['accuracy']:.1%} [{measured['accuracy_low']:.1%}, "
        f"{measured['accuracy_high']:.1%}] of {measured['n']:,} held-out preferences"
    )
    if measured["n"] < FEWEST_TO_TELL:
        step.say(f"{found}: too few to tell whether a policy will learn anything but noise from it")
        return
    raise ModelError(
        f"{found}, which is not shown to be more than {least:.0%}: a policy would learn noise from it. Give more "
        "preferences, or an eval_dataset with more of them, or train it longer; min_reward_model_accuracy 0 goes on all the "
        "same."
    )


def answer_key(conversation: Conversation, answer: str) -> str:
    """Return what stands for an answer to a conversation among saved scores."""
    return xxh3_128_hexdigest(json.dumps([conversation, answer]).encode())


def saved_scores(directory: str) -> dict[str, float]:
    """Return the scores that a saved reward model gave to held-out answers when it was measured, by `answer_key`."""
    path = Path(directory) / SCORES
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
