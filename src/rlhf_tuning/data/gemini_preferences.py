"""Gemini's rows for preference tuning, and its prompts.

    {"system_instruction": {"parts": [{"text": "..."}]},
     "contents": [{"role": "user", "parts": [{"text": "..."}]}, ...],
     "completions": [{"score": 1, "completion": {"role": "model", "parts": [{"text": "..."}]}},
                     {"score": 0, "completion": {"role": "model", "parts": [{"text": "..."}]}}]}
    a prompt: the same without "completions", and perhaps with "references": {"answer": "..."}

The completion of the higher score is the chosen one. Scores say no more than that: Google's are 1 and 0 whatever the
difference, so an optional "margin" says by how much. Contents and system instruction are as in `gemini_contents`; the first
and the last content are the user's.
"""

import math
from collections.abc import Collection, Mapping

from rlhf_tuning.data.fields import (
    MARGIN,
    REFERENCES,
    check_different,
    check_ends,
    check_fields,
    kind_of,
    read_margin,
    read_references,
)
from rlhf_tuning.data.gemini_contents import SYSTEM, read_content, read_contents, read_system
from rlhf_tuning.data.problems import Fault, describe
from rlhf_tuning.data.rows import Kind, Row
from rlhf_tuning.data.shape import Shape

FIELDS = "contents (and completions)"
SHAPES: dict[Kind, Shape | None] = {"prompt": None, "preference": None}


def recognises(record: Mapping[str, object]) -> bool:
    """Say whether a row is of this format."""
    return "contents" in record


def parse(
    record: Mapping[str, object], *, accepts: Collection[Kind], instruction: str, faults: list[Fault]
) -> Row | None:
    """Return the canonical row; it counts only when nothing was added to `faults`."""
    preference = kind_of(record, accepts, ("completions",)) == "preference"
    required: tuple[str, ...] = ("contents",)
    optional: tuple[str, ...] = (*SYSTEM, *REFERENCES)
    if preference:
        required, optional = ("contents", "completions"), (*SYSTEM, *MARGIN)
    if not check_fields(record, faults, required=required, optional=optional):
        return None
    system = read_system(record, instruction, faults)
    turns = read_contents(record, faults)
    check_ends([turn["role"] for turn in turns], "contents", "role", faults, answerer="model")
    prompt = [{"role": "system", "content": system}, *turns] if system.strip() else turns
    if not preference:
        return Row(prompt, references=read_references(record, faults))
    answers = _read_completions(record["completions"], faults)
    margin = read_margin(record, faults)
    if len(answers) < 2:
        return None
    (_, rejected), (_, chosen) = sorted(answers, key=lambda answer: answer[0])
    return Row(prompt, chosen, rejected, margin=margin)


def _read_completions(completions: object, faults: list[Fault]) -> list[tuple[float, str]]:
    """Return score and text of both completions; fewer where they cannot be read."""
    if not isinstance(completions, list) or len(completions) != 2:
        faults.append(Fault("wrong_type", "completions", describe(completions), "an array of two completions"))
        return []
    before = len(faults)
    answers = [_read_completion(value, f"completions[{index}]", faults) for index, value in enumerate(completions)]
    if len(faults) > before:
        return []
    (first_score, first), (second_score, second) = answers
    if first_score == second_score:
        found = f"{describe(completions[1]['score'])}, that of completions[0] too"
        faults.append(
            Fault("wrong_choice", "completions[1].score", found, "two scores that differ, the higher is better")
        )
    field = "completions[1].completion.parts"
    check_different(first, second, field, field.replace("1", "0"), faults)
    return answers


def _read_completion(value: object, path: str, faults: list[Fault]) -> tuple[float, str]:
    if not isinstance(value, dict):
        faults.append(Fault("wrong_type", path, describe(value), "an object with score and completion"))
        return 0, ""
    if not check_fields(value, faults, required=("score", "completion"), where=f"{path}."):
        return 0, ""
    score, completion = value["score"], value["completion"]
    if isinstance(score, bool) or not isinstance(score, int | float) or score in (math.inf, -math.inf):
        faults.append(
            Fault("wrong_type", f"{path}.score", describe(score), "a number, higher for the better completion")
        )
        score = 0
    if not isinstance(completion, dict):
        faults.append(Fault("wrong_type", f"{path}.completion", describe(completion), "an object with role and parts"))
        return score, ""
    turn = read_content(completion, f"{path}.completion", faults)
    if turn["role"] == "user":
        faults.append(Fault("wrong_turn", f"{path}.completion.role", '"user"', '"model"'))
    return score, turn["content"]
