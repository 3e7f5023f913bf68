"""What can go wrong, as people meet it.

RlhfError                  anything this project raises on purpose
├── UserError              the person who started the run can mend it; exit status 2
│   ├── ParameterError     a parameter's value cannot be used
│   ├── DataError          a dataset cannot be used
│   ├── ModelError         a base model, reward model or registered model cannot be used
│   │   └── ModelNotAtHandError   nobody here can say whether it can
│   └── MachineError       the machine has too little of something that the run needs
└── RunError               the run failed for a reason outside its inputs (disk, memory, a service); exit status 1
"""


def how_to_install(extra: str) -> str:
    """Return how the packages of an optional part are installed, for messages about one that is missing."""
    return (
        f"Install it with: pip install '.[{extra}]' in a clone of the repository, or pip install 'rlhf-pipelines[{extra}]' "
        "where a package index has it."
    )


class RlhfError(Exception):
    """Base of every error raised on purpose. The message is complete: what is wrong, where, and what to do."""

    exit_status = 1


class UserError(RlhfError):
    """The inputs cannot be used as they are."""

    exit_status = 2


class ParameterError(UserError):
    """A parameter's value cannot be used."""


class DataError(UserError):
    """A dataset cannot be used."""


class ModelError(UserError):
    """A base model, reward model or registered model cannot be used."""


class ModelNotAtHandError(ModelError):
    """A model cannot be looked at from here, so that nothing is known of it: no hub, no rights, no package."""


class MachineError(UserError):
    """The machine has too little of something that the run needs, or something too old."""


class RunError(RlhfError):
    """The run failed for a reason outside its inputs."""
