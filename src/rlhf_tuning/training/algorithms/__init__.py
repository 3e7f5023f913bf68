"""The RL algorithms, one file each.

To add one: its file, a line in `ALGORITHMS`, its name among the choices of the parameter `rl_algorithm`, a test.
"""

import importlib
from typing import Any, Protocol, cast

#: `rl_algorithm` to the module that implements it, imported only when it is used: TRL's trainers take seconds.
ALGORITHMS: dict[str, str] = {
    "rloo": "rlhf_tuning.training.algorithms.rloo",
    "grpo": "rlhf_tuning.training.algorithms.grpo",
}


class Algorithm(Protocol):
    """What an algorithm's module offers."""

    def build_arguments(self, *, kl_coeff: float, **settings: Any) -> Any:
        """Return TRL's configuration, with `kl_coeff` in this project's one meaning (see `reinforcement`)."""

    def trainer_class(self) -> Any:
        """Return TRL's trainer."""


def load_algorithm(name: str) -> Algorithm:
    """Return the module of an algorithm that the parameter `rl_algorithm` allows."""
    return cast(Algorithm, importlib.import_module(ALGORITHMS[name]))
