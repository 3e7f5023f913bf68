"""What a model said, as a part of a dataset: it must be a text that the checks of data let pass."""

from rlhf_tuning.data.fields import read_text
from rlhf_tuning.data.problems import Fault


def fault_of(answer: str) -> str:
    """Return why an answer can stand in no dataset: `empty` or `no_text`; an empty string where it can."""
    if not answer.strip():
        return "empty"
    faults: list[Fault] = []
    read_text(answer, "", faults)
    return "no_text" if faults else ""
