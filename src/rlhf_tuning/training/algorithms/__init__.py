"""The RL algorithms, one file each: what an answer is compared with, and TRL's trainer, whose loss it is.

To add one: its file, a line in `ALGORITHMS`, its name among the choices of the parameter `rl_algorithm`, a test.
"""

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    import torch

#: `rl_algorithm` to the module that implements it, imported only when it is used: TRL's trainers take seconds.
ALGORITHMS: dict[str, str] = {
    "rloo": "rlhf_tuning.training.algorithms.rloo",
    "grpo": "rlhf_tuning.training.algorithms.grpo",
}


class Algorithm(Protocol):
    """What an algorithm's module offers."""

    def build_arguments(self, *, kl_coeff: float, **settings: Any) -> Any:
        """Return TRL's configuration; `kl_coeff` only says whether there is a reference (see `on_policy`)."""

    def trainer_class(self) -> Any:
        """Return TRL's trainer."""

    def advantages(self, rewards: "torch.Tensor", group: int) -> "torch.Tensor":
        """Return how much better each answer's reward is than those to the same prompt, of which `group` are neighbours."""


def load_algorithm(name: str) -> Algorithm:
    """Return the module of an algorithm that the parameter `rl_algorithm` allows."""
    return cast(Algorithm, importlib.import_module(ALGORITHMS[name]))
