"""A language model in this process: how likely it is to go on with "A" or "B", in both orders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf_tuning import step
from rlhf_tuning.evaluation.judges import JudgeSettings
from rlhf_tuning.evaluation.judges.rubric import VERDICT, question, read_rubric
from rlhf_tuning.evaluation.judges.verdict import Comparison, Verdict
from rlhf_tuning.models import base_model
from rlhf_tuning.models.text_format import TextFormat, Turn
from rlhf_tuning.models.tokenizer import load_tokenizer
from rlhf_tuning.ops.padding import left_padded

_BATCH = 4


class LocalModelJudge:
    """Prefers the answer whose letter is likelier. How much likelier, in log-odds, counts: orders are averaged."""

    name = "local_model"
    most_human_choices = 500

    def __init__(self, model: str, *, rubric: str, dtype: str) -> None:
        self.label = f"judge {Path(model).name}"
        self.notes: list[str] = []
        self._model, self._rubric, self._dtype = model, rubric, dtype

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict | None]:
        """Return the verdict on each comparison; None where the two answers are too long for the model.

        Raises:
            ModelError: If the model cannot be loaded.
        """
        tokenizer = load_tokenizer(self._model)
        model = base_model.load_causal_lm(self._model, dtype=base_model.choose_dtype(self._dtype)).eval()
        text_format = TextFormat(tokenizer, prompt_sequence_length=1, target_sequence_length=1).without_limits()
        opening, letters = _letters(text_format)
        limit = model.config.get_text_config().to_dict().get("max_position_embeddings")
        rows: dict[int, tuple[list[int], list[int]]] = {}
        verdicts: list[Verdict | None] = [None] * len(comparisons)
        for index, comparison in enumerate(comparisons):
            if comparison.first == comparison.second:
                verdicts[index] = Verdict()
                continue
            one, two = (self._ids(text_format, comparison, opening, second_first=order) for order in (False, True))
            if not isinstance(limit, int) or max(len(one), len(two)) <= limit:
                rows[index] = (one, two)
        progress = step.Progress(f"asking {self.label}", 2 * len(rows), "question")
        asked = [ids for pair in rows.values() for ids in pair]
        odds = _log_odds(model, asked, letters, tokenizer.pad_token_id, progress)
        for row, index in enumerate(rows):
            verdicts[index] = Verdict(orders=(-odds[2 * row], odds[2 * row + 1]))
        missing = verdicts.count(None)
        reason = f"they are longer than the {limit:,} positions of the judge"
        note = f"{missing:,} of {len(comparisons):,} pairs, human choices included, have no verdict: {reason}"
        self.notes = [note] if missing else []
        return verdicts

    def _ids(
        self, text_format: TextFormat, comparison: Comparison, opening: list[int], *, second_first: bool
    ) -> list[int]:
        asked = question(self._rubric, comparison, second_first=second_first)
        return text_format.prompt_ids([Turn(role="user", content=asked)]) + opening


def _letters(text_format: TextFormat) -> tuple[list[int], tuple[int, int]]:
    """Return the tokens that open the reply, and those that then say A and B."""
    a, b = (text_format.answer_ids(f"{VERDICT} {letter}") for letter in "AB")
    # Tokenizers differ in whether the blank belongs to the letter.
    same = next(position for position, (one, two) in enumerate(zip(a, b, strict=False)) if one != two)
    return a[:same], (a[same], b[same])


@torch.no_grad()
def _log_odds(
    model: Any, rows: Sequence[Sequence[int]], letters: tuple[int, int], pad_id: int, progress: step.Progress
) -> list[float]:
    """Return log p(A) - log p(B) as the next token of each row."""
    odds = [0.0] * len(rows)
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        inputs = left_padded([rows[row] for row in batch], pad_id, device)
        positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        logits = model(**inputs, position_ids=positions, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        values = logits[:, letters[0]] - logits[:, letters[1]]  # (batch,)
        for row, value in zip(batch, values.tolist(), strict=True):
            odds[row] = value
        progress.update(start + len(batch))
    return odds


def make_judge(settings: JudgeSettings) -> LocalModelJudge:
    """Return the judge that runs `judge_model` here."""
    return LocalModelJudge(settings.judge_model, rubric=read_rubric(settings.judge_rubric), dtype=settings.dtype)
