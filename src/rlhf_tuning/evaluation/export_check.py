"""Is the model that was exported the policy that was trained?

An adapter is merged into the base model's weights when it is saved, and there it can get lost: not merged, merged twice or
with another scaling, rounded away, or the weights saved under other names. So the exported model is loaded anew, from its
folder and in the dtype it was saved in, as a server loads it; and so is the base model with the adapter beside it, which is
the policy that was trained. Both are asked for the log-probability of every token of some evaluation answers.

Two numbers tell: how far they are apart, against what rounding to that dtype does; and, of what the training changed, how
much arrived, which sees a fault of the merge also where little was learnt, in the midst of rounding.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rlhf_tuning import step
from rlhf_tuning.errors import ModelError, RunError
from rlhf_tuning.evaluation.gate import Condition
from rlhf_tuning.generation.inference import read_predictions
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.ops.log_probabilities import log_probabilities, pack
from rlhf_tuning.ops.precision import in_float32

#: Answers that are compared: some hundred tokens tell.
ANSWERS = 16
_TOGETHER = 8


class Limits(NamedTuple):
    """What an export may be off: nats a token on average, and in the share of the change that is in it.

    Up to `negligible` nats the share does not count: 16 bits round much of a very small change away.
    """

    difference: float
    share: float
    negligible: float


#: By the dtype that the export is saved in, from what honest exports gave: docs/concepts/gate.md has the figures.
LIMITS = {
    torch.float32: Limits(difference=1e-3, share=0.01, negligible=1e-4),
    torch.float16: Limits(difference=0.01, share=0.05, negligible=2e-3),
    torch.bfloat16: Limits(difference=0.05, share=0.1, negligible=0.01),
}


@dataclass(frozen=True, kw_only=True)
class ExportCheck:
    """How near the exported model is to the policy that was trained.

    Args:
        tokens: That were compared.
        dtype: That the export is saved in, such as `bfloat16`.
        difference: Mean absolute difference of their log-probabilities, in nats a token.
        largest: The largest one.
        limits: What both may be off.
        moved: Mean absolute difference between the trained policy and the base model.
        share: Of what the training changed, how much is in the export: 1 when all; None where it changed nothing.
        share_error: Its standard error.
    """

    tokens: int
    dtype: str
    difference: float
    largest: float
    limits: Limits
    moved: float
    share: float | None
    share_error: float

    @property
    def equal(self) -> bool:
        """Say whether the export is the policy, but for rounding."""
        if not self.difference <= self.limits.difference:  # nor where it is no number
            return False
        if self.share is None or self.difference <= self.limits.negligible:
            return True
        return abs(self.share - 1) <= self.limits.share + 3 * self.share_error

    def __str__(self) -> str:
        share = "" if self.share is None else f", {self.share:.0%} of which is in the export"
        return (
            f"{self.difference:.2g} nats a token apart, at most {self.largest:.2g}; training moved the policy by "
            f"{self.moved:.2g}{share}; saved in {self.dtype}, n = {self.tokens:,} tokens"
        )


def condition_of(check: ExportCheck | None) -> Condition:
    """Return a check as a condition of the promotion. One that does not hold ends the run, so here it does."""
    name = "Exported model equals the trained policy"
    if check is None:
        value = "nothing was merged: all weights were trained, and saved as they are"
        return Condition(name=name, value=value, limit="rounding alone", holds=None)
    return Condition(name=name, value=str(check), limit=_limit(check), holds=True)


def _limit(check: ExportCheck) -> str:
    return f"at most {check.limits.difference:g} nats, and {1 - check.limits.share:.0%} to {1 + check.limits.share:.0%}"


def check_export(
    large_model_reference: str,
    *,
    model_dir: str,
    adapter_dir: str,
    predictions_path: str,
    prompt_sequence_length: int,
    target_sequence_length: int,
) -> ExportCheck | None:
    """Compare the exported model with the policy that was trained; None where all weights learnt, so that none was merged.

    One model is in memory at a time, in the dtype that it is stored in.

    Args:
        large_model_reference: The base model.
        model_dir: The tuned model, merged.
        adapter_dir: The policy's adapter.
        predictions_path: Answers to compare on.
        prompt_sequence_length: Most tokens of a prompt.
        target_sequence_length: Most tokens of an answer.

    Raises:
        ModelError: If the base model cannot be loaded.
        RunError: If the export cannot be loaded, or is not the policy.
    """
    if not (Path(adapter_dir) / "adapter_config.json").is_file():
        return None
    from peft import PeftModel

    step.say("Comparing the exported model, loaded anew, with the policy that was trained")
    rows = [row for row in read_predictions(predictions_path) if row["token_ids"]][:ANSWERS]
    answers = [row["token_ids"] for row in rows]

    def prompts_as(reference: str) -> list[list[int]]:
        text_format = TextFormat(
            load_tokenizer(reference),
            prompt_sequence_length=prompt_sequence_length,
            target_sequence_length=target_sequence_length,
        )
        return [text_format.prompt_ids(row["prompt"]) for row in rows]

    prompts = prompts_as(large_model_reference)
    policy = PeftModel.from_pretrained(
        base_model.load_causal_lm(large_model_reference, dtype="auto", on_cpu=True), adapter_dir, torch_device="cpu"
    )
    trained = token_log_probabilities(policy.get_base_model(), prompts, answers)
    with policy.disable_adapter():
        untrained = token_log_probabilities(policy.get_base_model(), prompts, answers)
    del policy
    gc.collect()
    try:
        exported = base_model.load_causal_lm(model_dir, dtype="auto", on_cpu=True)
    except ModelError as error:
        raise RunError(f"The exported model is not what was trained, so nothing is registered. {error}") from None
    check = compare(
        exported=token_log_probabilities(exported, prompts_as(model_dir), answers),
        trained=trained,
        untrained=untrained,
        dtype=exported.dtype,
    )
    if not check.equal:
        raise RunError(
            f"The exported model is not the policy that was trained: {check} ({_limit(check)}). Nothing was registered. "
            f"The export is in {model_dir}; the adapter, in {adapter_dir}, is whole: serve the base model with it."
        )
    return check


def compare(
    *, exported: torch.Tensor, trained: torch.Tensor, untrained: torch.Tensor, dtype: torch.dtype
) -> ExportCheck:
    """Compare log-probabilities of the same tokens by three models, each of shape (tokens).

    The share is the slope of what the export changed on what the training changed, through the origin.

    Args:
        exported: By the exported model.
        trained: By the policy that was trained.
        untrained: By the base model.
        dtype: That the export is saved in.
    """
    difference = (exported - trained).abs()
    wanted, found = trained - untrained, exported - untrained
    power = wanted.square().sum().item()
    share, share_error = None, 0.0
    if power > 0:
        share = (found @ wanted).item() / power
        rest = (found - share * wanted).square().sum().item() / max(1, len(wanted) - 1)
        share_error = (rest / power) ** 0.5
    return ExportCheck(
        tokens=len(trained),
        dtype=str(dtype).removeprefix("torch."),
        difference=difference.mean().item(),
        largest=difference.max().item(),
        limits=LIMITS[dtype],
        moved=wanted.abs().mean().item(),
        share=share,
        share_error=share_error,
    )


@torch.no_grad()
def token_log_probabilities(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Return log p of every token of every answer, one after the other, float64, on the CPU.

    Args:
        model: A causal language model of transformers in the machine's memory, maybe with an adapter in it.
        prompts: As tokens, one for each answer.
        answers: As tokens.
    """
    device = base_model.device()
    found = []
    with in_float32(model.eval(), device):
        for start in range(0, len(answers), _TOGETHER):
            rows = slice(start, start + _TOGETHER)
            packed = pack(prompts[rows], answers[rows], device=device, share=False)
            logs = log_probabilities(model, packed, temperature=1.0)[0].double().cpu()
            found += [row[: len(answer)] for row, answer in zip(logs, answers[rows], strict=True)]
    return torch.cat(found)
