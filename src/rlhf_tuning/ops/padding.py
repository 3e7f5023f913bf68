"""Token sequences of different lengths in one tensor."""

from collections.abc import Sequence

import torch


def left_padded(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask`, each of shape (sequences, longest), padded on the left."""
    longest = max(len(ids) for ids in sequences)
    input_ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    attention_mask = torch.zeros((len(sequences), longest), dtype=torch.long)
    for row, ids in enumerate(sequences):
        input_ids[row, longest - len(ids) :] = torch.tensor(ids, dtype=torch.long)
        attention_mask[row, longest - len(ids) :] = 1
    return {"input_ids": input_ids.to(device), "attention_mask": attention_mask.to(device)}


def unpadded(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, of_answers: torch.Tensor
) -> tuple[list[list[int]], list[list[int]]]:
    """Return prompts and answers from rows that are padded on the right and end with an answer, each of a token or more.

    Args:
        input_ids: (rows, longest)
        attention_mask: Where a token is. (rows, longest)
        of_answers: Where one of an answer is. (rows, longest), bool
    """
    lengths = attention_mask.sum(dim=1).tolist()
    starts = of_answers.int().argmax(dim=1).tolist()
    rows = list(zip(input_ids.tolist(), starts, lengths, strict=True))
    return [ids[:start] for ids, start, _ in rows], [ids[start:length] for ids, start, length in rows]


def unpadded_answers(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, columns: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return prompts and answers from rows of a left-padded prompt and a right-padded answer in the last `columns`."""
    prompts, answers = [], []
    for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
        kept = [token if keep else None for token, keep in zip(ids, mask, strict=True)]
        prompts.append([token for token in kept[:-columns] if token is not None])
        answers.append([token for token in kept[-columns:] if token is not None])
    return prompts, answers


def placed(values: torch.Tensor, answers: Sequence[Sequence[int]], where: torch.Tensor) -> torch.Tensor:
    """Put what is known of answers' tokens where a mask has these tokens.

    Args:
        values: Of each answer's tokens, and of nothing after its end. (answers, longest answer)
        answers: As tokens.
        where: (answers, any), bool
    """
    lengths = torch.tensor([len(answer) for answer in answers], device=values.device)
    real = torch.arange(values.shape[1], device=values.device) < lengths[:, None]  # (answers, longest answer)
    return values.new_zeros(where.shape).masked_scatter(where, values[real])
