"""What a model's safetensors files hold, by their headers alone, and whether it is what an architecture takes.

Needs no torch: a file begins with eight bytes that say how long its header is, and the header is JSON.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from rlhf_tuning.models.model_reference import ModelFile, ModelFiles

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

#: Read at first, which is the whole header of most files.
_BEGINNING = 2**16
#: No header is longer, for safetensors itself.
_LONGEST_HEADER = 100_000_000

_SHARD = re.compile(r".+-\d{5}-of-(?P<count>\d{5})\.safetensors")
_LAYER = re.compile(r"(?P<stem>.+?)\.(?P<number>\d+)\.")

#: Parts of a name that come from what a model was wrapped in when it was saved.
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "module": "data parallel training",
    "_forward_module": "Lightning",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "base_layer": "PEFT",
    "base_model": "PEFT",
    "lora_A": "PEFT",
    "lora_B": "PEFT",
}
#: How names begin in causal models of transformers: with the trunk, the head, or the first module of a trunk alone.
_BEGINNINGS = {
    *("backbone", "bert", "decoder", "embed_out", "encoder", "h", "language_model", "layers", "lm_head", "model"),
    "transformer",
}
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "embeddings", "tokens_embed")
_HEADS = {"lm_head", "embed_out", "output_projection", "lm_loss", "pred_layer", "head", "output"}
#: Types of models that count a layer as often as they pass through it.
_LAYERS_USED_AGAIN = {"hrm_text"}
#: So many rows more than tokens the embeddings of some architectures have.
_SPARE_ROWS = 8


class StoredWeight(NamedTuple):
    """A weight as its file's header has it."""

    dtype: str
    shape: tuple[int, ...]


class DamagedFileError(ValueError):
    """A file that is not what its name says, or not all of it."""


def read_header(file: ModelFile) -> dict[str, StoredWeight]:
    """Return the weights of a safetensors file by name.

    Raises:
        DamagedFileError: Saying what is wrong.
    """
    size, beginning = file.size, file.read(0, _BEGINNING)
    length = int.from_bytes(beginning[:8], "little")
    if size < 8 or length > _LONGEST_HEADER or not beginning[8:].lstrip().startswith(b"{"):
        raise DamagedFileError("is no safetensors file")
    if 8 + length > size:
        raise DamagedFileError(f"is cut short: {size:,} bytes are here, and its header alone has {length:,}")
    header = beginning[8 : 8 + length]
    if len(header) < length:
        header += file.read(8 + len(header), length - len(header))
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        weights = {name: StoredWeight(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
        whole = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise DamagedFileError("has a damaged header") from None
    if whole != size:
        kind = "is cut short" if size < whole else "is damaged"
        raise DamagedFileError(f"{kind}: {size:,} bytes are here, and {whole:,} belong to it")
    return weights


def read_headers(files: Mapping[str, ModelFile]) -> tuple[dict[str, StoredWeight], list[str]]:
    """Return the weights of several files by name, and what is wrong with which file."""
    weights: dict[str, StoredWeight] = {}
    problems = []
    with ThreadPoolExecutor(8) as pool:
        reading = {name: pool.submit(read_header, file) for name, file in files.items()}
    for name, header in reading.items():
        try:
            weights |= header.result()
        except DamagedFileError as error:
            problems.append(f"{name} {error}")
    return weights, problems


def problem_with_shards(index: Mapping[str, str], weights: Collection[str], found: ModelFiles) -> str:
    """Return what stands against the files that an index names, or an empty string.

    Args:
        index: The file of each weight.
        weights: Names of those that are in these files.
        found: All files of the model.
    """
    named = sorted({*index.values()})
    if absent := [name for name in named if name not in found.files]:
        are = "is" if len(absent) == 1 else "are"
        return f"{INDEX} names {_listed(absent)}, which {are} not there" if found.complete else ""
    shards = [shard for name in named if (shard := _SHARD.fullmatch(name))]
    counts = {shard["count"] for shard in shards}
    if len(counts) == 1 and len(shards) < int(*counts):
        return f"{INDEX} names {len(shards)} files of {int(*counts)}, so the weights in the others would not be loaded"
    if lacking := sorted({*index}.difference(weights)):
        return f"{INDEX} names weights that none of its files has ({_listed(lacking)})"
    return ""


def misfit(needed: Iterable[str], told: Mapping[str, Any]) -> str:
    """Return in which way weights do not fit a model that transformers loaded them into; nothing where they do.

    Args:
        needed: Names of the model's parameters that must be there. Buffers have values to begin with.
        told: What `from_pretrained` said of the loading, with `output_loading_info`.
    """
    names = {*needed}
    missing = sorted(names.intersection(told["missing_keys"]))
    mismatched = sorted(one for one in told["mismatched_keys"] if one[0] in names)
    unexpected = sorted(told["unexpected_keys"])
    if missing:
        if wrapped := _wrapped(missing, unexpected):
            return wrapped
        if all(_is_of_head(name) for name in missing):
            return _NO_HEAD.format(missing[0])
        stored = f" The files have {_listed(unexpected)} instead." if unexpected else ""
        return (
            f"Of the model's {len(names)} weights {len(missing)} are missing ({_listed(missing)}) and would be random "
            f"numbers.{stored} {_SAVE_AGAIN}"
        )
    if mismatched:
        name, here, wanted = mismatched[0]
        return _other_shape(name, tuple(here), tuple(wanted), more=len(mismatched) - 1)
    if lost := _lost(unexpected, names):
        return (
            f"The files have weights that the model would leave out ({_listed(lost)}), so it would compute something else. "
            "The config.json is of another model, or a setting is wrong, such as attention_bias or num_hidden_layers: use "
            "the one that was saved with the weights."
        )
    return ""


def misfit_by_names(
    weights: Mapping[str, StoredWeight], *, trunk: str, layers: int | None, vocabulary: int | None, tied: bool
) -> str:
    """Return in which way weights cannot fit a causal language model, as far as names and shapes tell without the model.

    Args:
        weights: By name.
        trunk: The model's type, by which a trunk may be called.
        layers: How many the model has, where its config tells.
        vocabulary: Rows of its embedding, likewise.
        tied: Whether the output head is the embedding.
    """
    if wrapper := next((part for name in weights for part in name.split(".") if part in _WRAPPERS), ""):
        return _saved_wrapped(next(name for name in weights if wrapper in name.split(".")), wrapper)
    beginnings = {name.split(".")[0] for name in weights}
    if len(beginnings) == 1 and not beginnings & {trunk, *_BEGINNINGS}:
        return _saved_wrapped(next(iter(weights)), *beginnings)
    if layers and trunk not in _LAYERS_USED_AGAIN and (lacking := _lacking_layers(weights, layers)):
        return (
            f"{len(lacking)} of its {layers} layers have no weights (number {_listed(map(str, lacking))}, counted from 0): "
            f"they would be random numbers. {_SAVE_AGAIN}"
        )
    embeddings = [name for name in weights if _module(name) in _EMBEDDINGS and name.endswith(".weight")]
    if len(embeddings) == 1 and vocabulary:
        shape = weights[embeddings[0]].shape
        if not 0 <= shape[0] - vocabulary <= _SPARE_ROWS:
            return _other_shape(embeddings[0], shape, (vocabulary, *shape[1:]))
    if embeddings and not tied and not any(_is_of_head(name) for name in weights):
        return _NO_HEAD.format("lm_head.weight")
    return ""


_SAVE_AGAIN = "Fetch the files anew, or save the model again with save_pretrained."
_NO_HEAD = (
    "The output head ({}) is missing and would be random numbers, as config.json does not say that it is the embedding "
    "(tie_word_embeddings). Take the weights of the whole causal language model, as its own class saved them."
)


def _wrapped(missing: Collection[str], unexpected: Iterable[str]) -> str:
    """Return that names have parts too many, where without them they are those that are missing."""
    unwrapped: Counter[tuple[str, ...]] = Counter()
    example: dict[tuple[str, ...], str] = {}
    wanted = {tuple(name.split(".")) for name in missing}
    for name in unexpected:
        parts = name.split(".")
        for start in range(len(parts)):
            for end in range(start + 1, len(parts)):
                if (*parts[:start], *parts[end:]) in wanted:
                    extra = tuple(parts[start:end])
                    unwrapped[extra] += 1
                    example.setdefault(extra, name)
    if not unwrapped:
        return ""
    extra, _ = unwrapped.most_common(1)[0]
    return _saved_wrapped(example[extra], ".".join(extra))


def _saved_wrapped(name: str, wrapper: str) -> str:
    by = next((by for part in wrapper.split(".") if (by := _WRAPPERS.get(part))), "")
    merge = (
        "Merge the adapter (merge_and_unload of peft) and save the result."
        if by == "PEFT"
        else "Save the model that is inside with save_pretrained, or rename the weights."
    )
    return (
        f"Its weights have names such as {name!r}: they were saved with what wrapped the model "
        f"({wrapper!r}{f', of {by}' if by else ''}), are not found under the architecture's own names, and would be random "
        f"numbers. {merge}"
    )


def _other_shape(name: str, here: tuple[int, ...], wanted: tuple[int, ...], *, more: int = 0) -> str:
    others = f", and {more} more do not fit either" if more else ""
    return (
        f"{name} is {_shape(here)} in the files, and {_shape(wanted)} by config.json{others}. Use the config.json that was "
        "saved with these weights."
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _lost(unexpected: Collection[str], names: Collection[str]) -> list[str]:
    """Return the weights that a model's layers leave out. Those of other modules, and old buffers, are no loss."""
    modules = {".".join(parts[:end]) for name in names for parts in [name.split(".")] for end in range(1, len(parts))}
    layers = _by_layer(names)
    left_out = {
        layer
        for layer, inside in _by_layer(unexpected).items()
        if any(layer[0] == other[0] and inside <= whole for other, whole in layers.items())
    }
    return [
        name
        for name in unexpected
        if (found := _LAYER.match(name))
        and ((found["stem"], found["number"]) in left_out or _lacks(name.split("."), names, modules))
    ]


def _by_layer(names: Iterable[str]) -> dict[tuple[str, str], set[str]]:
    """Return what each numbered layer holds, by where the layers are and its number."""
    inside: dict[tuple[str, str], set[str]] = {}
    for name in names:
        if found := _LAYER.match(name):
            inside.setdefault((found["stem"], found["number"]), set()).add(name[found.end() :])
    return inside


def _lacks(parts: list[str], names: Collection[str], modules: Collection[str]) -> bool:
    if parts[-1] == "bias":
        return ".".join([*parts[:-1], "weight"]) in names
    return parts[-1] == "weight" and ".".join(parts[:-2]) in modules


def _lacking_layers(weights: Iterable[str], layers: int) -> list[int]:
    """Return the numbers of layers of which nothing is there."""
    numbers: dict[str, set[int]] = {}
    for stem, number in _by_layer(weights):
        numbers.setdefault(stem, set()).add(int(number))
    most = max(numbers.values(), key=len, default=set(range(layers)))
    return [number for number in range(layers) if number not in most]


def _is_of_head(name: str) -> bool:
    return not _LAYER.match(name) and not _HEADS.isdisjoint(name.split("."))


def _module(name: str) -> str:
    return name.split(".")[-2] if "." in name else ""


def _listed(names: Iterable[str], most: int = 3) -> str:
    """Return the first of some names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
