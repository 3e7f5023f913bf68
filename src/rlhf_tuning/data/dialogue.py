"""Whole dialogues of users and assistants, each of whose answers is to be learnt."""

from collections.abc import Sequence

from rlhf_tuning.data.problems import Fault
from rlhf_tuning.data.rows import Conversation, Row


def read_dialogue(
    turns: Conversation, field: str, key: str, faults: list[Fault], *, answerer: str = "assistant", offset: int = 0
) -> Row | None:
    """Return the row that a dialogue is; or None, with the reason added to `faults`.

    The user speaks first, the assistant last, and an answer follows what a user said.

    Args:
        turns: The dialogue, without a leading system turn.
        field: The array's name.
        key: The name of the field that tells who speaks.
        faults: What is wrong with the row.
        answerer: What that field calls the assistant.
        offset: How many messages stand before the first of `turns`.
    """
    if not turns:
        return None
    _check_order([turn["role"] for turn in turns], field, key, faults, answerer, offset)
    return None if faults else Row(turns[:-1], answer=turns[-1]["content"], dialogue=True)


def _check_order(roles: Sequence[str], field: str, key: str, faults: list[Fault], answerer: str, offset: int) -> None:
    def wrong(index: int, found: str, accepted: str) -> None:
        faults.append(Fault("wrong_turn", f"{field}[{index + offset}].{key}", f'"{found}"', accepted))

    for index, role in enumerate(roles):
        if role == "system":
            wrong(index, role, "a system message only at the start")
        elif role == "assistant" and index == 0:
            wrong(index, answerer, '"user" in the first message')
        elif role == "assistant" and roles[index - 1] == "assistant":
            wrong(index, answerer, '"user" before each answer')
    if roles[-1] == "user":
        wrong(len(roles) - 1, "user", f'"{answerer}" in the last message, whose answer is learnt')


def with_system(row: Row, system: str) -> Row:
    """Return a row with a system turn before all others; as it is where that is blank."""
    if not system.strip():
        return row
    return row._replace(prompt=[{"role": "system", "content": system}, *row.prompt])
