"""The command by which kfp starts a component: a shell script whose last line calls Python, and its arguments.

The shell passes no signal on: as the first process of a container it ignores Ctrl-C, a stop and a preemption's notice, and
the trainer learns of none. With `exec` Python takes the shell's place and gets them itself.
"""

from collections.abc import Sequence

_CALL = "_KFP_RUNTIME=true python3 -m"
_IN_PLACE = "_KFP_RUNTIME=true exec python3 -m"


def python_in_place_of_shell(command: Sequence[str]) -> list[str]:
    """Return kfp's command with `exec`; other commands stay as they are."""
    script = _script(command)
    return [word.replace(_CALL, _IN_PLACE, 1) if index == script else word for index, word in enumerate(command)]


def program_and_arguments(command: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return the component's source and the executor's arguments, which follow the script; None for other commands."""
    script = _script(command)
    if script is None:
        return None
    return command[script + 1], list(command[script + 2 :])


def _script(command: Sequence[str]) -> int | None:
    return next((index for index, word in enumerate(command) if _CALL in word), None)
