"""A language model that scores: its own trunk, with a score head in the place of its output head.

transformers has a sequence classifier for about half of its causal models. Here the trunk is taken out of the causal
model, so each of them can score. Weights have the names that transformers' classifiers give them: the head's is
`score.weight`, and those of the trunk are the policy's too, so that one adapter fits both.
"""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from rlhf_tuning.errors import ModelError

_HEAD = "score.weight"


class ScoreHead(nn.Linear):
    """A score head that works in float32 whatever the precision around it; (..., size) to (..., 1). It starts small."""

    def __init__(self, size: int) -> None:
        super().__init__(size, 1, bias=False)

    def reset_parameters(self) -> None:
        """Draw small random weights."""
        nn.init.normal_(self.weight, std=1 / math.sqrt(self.in_features + 1))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the score at every position."""
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.linear(input.float(), self.weight.float())


def scoring_model(causal_lm: Any) -> Any:
    """Return a model of a causal language model's trunk and a new score head, `score`.

    It shares the trunk's weights and has no `forward`: `packing.last_hidden` passes through the trunk, `base_model`.

    Args:
        causal_lm: A causal language model of transformers.

    Raises:
        ModelError: If it has no output head.
    """
    trunk, output = causal_lm.base_model, causal_lm.get_output_embeddings()
    if output is None:
        raise ModelError(
            f"{type(causal_lm).__name__} has no output head apart from its layers, so it cannot become a reward model. "
            "Name another base as reward_model_reference."
        )
    kinds = type(causal_lm).__mro__
    family = kinds[kinds.index(PreTrainedModel) - 1]
    name = type(trunk).__name__.removesuffix("Model") + "ForSequenceClassification"
    settings = {"__module__": family.__module__, "base_model_prefix": causal_lm.base_model_prefix}
    model = type(name, (family,), settings)(causal_lm.config)
    model.config.num_labels = 1
    setattr(model, model.base_model_prefix, trunk)
    model.score = ScoreHead(output.weight.shape[1]).to(output.weight.device)
    # What a model knows of its parts, without new weights for them.
    with no_init_weights():
        model.post_init()
    return model.eval()


def name_trunk(causal_lm: Any) -> None:
    """Let `base_model` be the trunk of models whose text part transformers has cut out of a larger one, such as Llama 4."""
    if causal_lm.base_model is causal_lm:
        causal_lm.base_model_prefix = next(
            name for name, part in causal_lm.named_children() if isinstance(part, PreTrainedModel)
        )


def load_head(model: Any, directory: str) -> None:
    """Put the score head that is saved in a folder, beside a whole trunk, into a scoring model."""
    for path in sorted(Path(directory).glob("*.safetensors")):
        with safe_open(path, "pt") as weights:
            if _HEAD in weights.keys():  # noqa: SIM118
                model.score.weight.data.copy_(weights.get_tensor(_HEAD))
                return
    raise ModelError(f"{directory} holds no reward model: {_HEAD} is missing. Train one with reward_model_pipeline.")
