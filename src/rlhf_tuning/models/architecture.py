"""The shape of a language model, from its config.json alone: enough to forecast what it costs. Needs no torch.

Weights are counted by formula. A layer has the products for query, key, value and output, and two or three of the MLP:

    attention = 2 x hidden x query + 2 x hidden x key_value
    mlp = 3 x hidden x intermediate (gated: Llama, Qwen, Gemma, Mistral) or 2 x (GPT-2, OPT, NeoX, Falcon)
    all = layers x (attention + mlp) + hidden x vocabulary x (1 tied, else 2)

Norms and biases, some thousandths of it, are left out. Mixtures of experts and models without attention have other
formulas and are refused.
"""

from dataclasses import dataclass
from typing import Any

from rlhf_tuning.errors import ModelError
from rlhf_tuning.models.model_reference import (
    local_folder,
    model_source,
    problem_with_name,
    resolve_reference,
    split_revision,
)
from rlhf_tuning.models.packaged_models import ALIASES

#: Model types whose MLP has two products, not three.
_PLAIN_MLP = (
    *("bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj"),
    *("mpt", "nemotron", "opt", "phi", "starcoder2", "xglm"),
)
#: What configs call the longest text that a model was made for.
_POSITIONS = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length", "max_sequence_length"),
    *("seq_length", "context_length", "max_target_positions"),
)
_STORED_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of a decoder-only transformer.

    Args:
        name: What to call it.
        hidden: Of the residual stream.
        intermediate: Of the MLP.
        layers: How many.
        query: Heads times their size.
        key_value: Key heads times their size.
        heads: Of the queries.
        vocabulary: Tokens.
        tied: Whether the output head is the embedding.
        gated: Whether the MLP has three products.
        positions: The longest text; 0 where there is no limit.
        stored_bytes: Of a weight, in the files.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    query: int
    key_value: int
    heads: int
    vocabulary: int
    tied: bool = False
    gated: bool = True
    positions: int = 0
    stored_bytes: int = 2

    @property
    def embedding(self) -> int:
        """Weights of the embedding, or of the output head."""
        return self.hidden * self.vocabulary

    @property
    def linear(self) -> int:
        """Weights of the layers' products, which LoRA adapts and a text passes through."""
        return self.layers * sum(rows * columns for rows, columns in self._products)

    @property
    def parameters(self) -> int:
        """All weights; a tied output head counts once."""
        return self.linear + self.embedding * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA adapter on every product of the layers."""
        return self.layers * rank * sum(rows + columns for rows, columns in self._products)

    @property
    def _products(self) -> tuple[tuple[int, int], ...]:
        attention = ((self.hidden, self.query), (self.query, self.hidden), *(((self.hidden, self.key_value),) * 2))
        return (*attention, *(((self.hidden, self.intermediate),) * (3 if self.gated else 2)))


def _llama(name: str, hidden: int, intermediate: int, layers: int, heads: int, *, tied: bool = False) -> Architecture:
    """A Llama 3: eight key heads and 128,256 tokens."""
    size = 64 if hidden == 2048 else 128
    return Architecture(
        name=name,
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        heads=heads,
        query=heads * size,
        key_value=8 * size,
        vocabulary=128_256,
        tied=tied,
        positions=131_072,
    )


LLAMA_1B = _llama("Llama 3.2 1B", 2048, 8192, 16, 32, tied=True)
LLAMA_8B = _llama("Llama 3.1 8B", 4096, 14_336, 32, 32)
LLAMA_70B = _llama("Llama 3.1 70B", 8192, 28_672, 80, 64)
SMOLLM2_135M = Architecture(
    name="SmolLM2 135M",
    hidden=576,
    intermediate=1536,
    layers=30,
    heads=9,
    query=576,
    key_value=192,
    vocabulary=49_152,
    tied=True,
    positions=8192,
    stored_bytes=4,  # as this project converts it
)

#: Models known without their files, by hub id or alias.
KNOWN: dict[str, Architecture] = {
    **dict.fromkeys(("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"), SMOLLM2_135M),
    **dict.fromkeys(("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct"), LLAMA_1B),
    **dict.fromkeys(("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"), LLAMA_8B),
    **dict.fromkeys(("meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-70B-Instruct"), LLAMA_70B),
}


def read_architecture(reference: str, *, parameter: str = "large_model_reference") -> Architecture:
    """Return the shape of a base model: one of `KNOWN`, or that of a config.json in a folder or on the hub.

    Raises:
        ModelError: If there is no config.json to read, or it describes no model with a formula here.
    """
    if problem := problem_with_name(reference, parameter=parameter):
        raise ModelError(problem)
    if (name := split_revision(reference)[0]) in KNOWN:
        return KNOWN[name]
    known = ", ".join((*ALIASES, *(name for name in KNOWN if name not in ALIASES)))
    hint = f"A forecast needs a folder with config.json alone, without weights, or one of: {known}."
    folder = local_folder(reference, weights=False)
    if folder is None:
        try:
            # One question to the hub, where transformers would ask for half a minute.
            reference = resolve_reference(reference, parameter=parameter).reference
        except ModelError as error:
            raise ModelError(f"{error}\n{hint}") from None
    elif not (folder / "config.json").is_file():
        raise ModelError(f"{parameter} is {reference!r}, a folder without config.json, or none at all.\n{hint}")
    try:
        config = load_config(reference)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ModelError(f"{parameter} is {reference!r}, whose config.json cannot be read: {reason}.\n{hint}") from None
    return from_config(config, name=reference, parameter=parameter)


def load_config(reference: str) -> Any:
    """Return the transformers config of a model. Code that comes with it is not run."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(**model_source(reference, weights=False), trust_remote_code=False)


def settings_of(config: Any) -> dict[str, Any]:
    """Return a language model's settings by a transformers config: under its own names, and those common to all models."""
    text = config.get_text_config()
    return {**text.to_dict(), **{new: getattr(text, new) for new in text.attribute_map}}


def positions(config: Any) -> int:
    """Return the longest text that a model was made for, by its transformers config; 0 where there is no limit."""
    return _size(settings_of(config), *_POSITIONS)


def from_config(config: Any, *, name: str, parameter: str = "large_model_reference") -> Architecture:
    """Return the shape that a transformers config describes.

    Raises:
        ModelError: If it describes no dense decoder-only transformer.
    """
    text = config.get_text_config()
    settings = settings_of(config)
    experts = next((key for key in settings if key.endswith(("num_experts", "local_experts", "routed_experts"))), "")
    if experts and (settings[experts] or 0) > 1:
        raise ModelError(
            f"{parameter} is {name!r}, a mixture of experts ({experts} {settings[experts]}), for which there is no "
            "forecast yet. Forecast a dense model."
        )
    hidden, heads = _size(settings, "hidden_size"), _size(settings, "num_attention_heads")
    layers, vocabulary = _size(settings, "num_hidden_layers"), _size(settings, "vocab_size")
    if not (hidden and heads and layers and vocabulary):
        raise ModelError(
            f"{parameter} is {name!r} (model type {text.model_type!r}), whose config.json does not describe a "
            "transformer with attention alone, for which there is a forecast. Forecast another model."
        )
    size = _size(settings, "head_dim") or hidden // heads
    stored = str(settings.get("dtype") or "").removeprefix("torch.")
    return Architecture(
        name=name,
        hidden=hidden,
        intermediate=_size(settings, "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner") or 4 * hidden,
        layers=layers,
        heads=heads,
        query=heads * size,
        key_value=_key_value_heads(settings, heads) * size,
        vocabulary=vocabulary,
        tied=bool(settings.get("tie_word_embeddings", True)),
        gated=text.model_type not in _PLAIN_MLP,
        positions=positions(config),
        stored_bytes=_STORED_BYTES.get(stored, 4),
    )


def _size(settings: dict[str, Any], *names: str) -> int:
    """Return the first of some settings that is a number, or 0."""
    return next((settings[name] for name in names if isinstance(settings.get(name), int)), 0)


def _key_value_heads(settings: dict[str, Any], heads: int) -> int:
    if settings.get("multi_query") and not settings.get("new_decoder_architecture"):
        return 1
    return _size(settings, "num_key_value_heads", "num_kv_heads") or heads
