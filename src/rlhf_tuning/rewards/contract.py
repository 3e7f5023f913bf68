"""What Google's reinforcement tuning hands to reward functions and services: rows and answers of Gemini, as JSON.

example   {"systemInstruction": {"parts": [{"text": "..."}]},
           "contents": [{"role": "user" | "model", "parts": [{"text": "..."}]}, ...], "references": {"answer": "..."}}
response  {"role": "model", "parts": [{"text": "..."}]}
"""

from typing import Any

from rlhf_tuning.rewards import Answer, Example

_ROLES = {"user": "user", "assistant": "model"}


def google_example(example: Example) -> dict[str, Any]:
    """Return a row as Google has it. Its instruction is where training puts it: in the system turn, or before the prompt."""
    row: dict[str, Any] = {}
    turns = example["prompt"]
    if turns[0]["role"] == "system":
        row["systemInstruction"] = {"parts": [{"text": turns[0]["content"]}]}
        turns = turns[1:]
    row["contents"] = [{"role": _ROLES[turn["role"]], "parts": [{"text": turn["content"]}]} for turn in turns]
    if "references" in example:
        row["references"] = example["references"]
    return row


def google_response(answer: Answer) -> dict[str, Any]:
    """Return an answer as Google has it."""
    return {"role": "model", "parts": [{"text": answer.text}]}
