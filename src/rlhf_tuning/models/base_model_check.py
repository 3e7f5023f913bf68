"""The one check of a base model before anything is spent on it: its files, config, weights and tokenizer together.

Needs no torch, and reads of the weights the headers alone. Where torch is at hand, transformers itself says whether the
weights fit, with a model that has none; elsewhere as much as names and shapes tell.

Each question is a function that yields what stands against the model, a sentence with what to do. `_STAGES` lists them all.
"""

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlhf_tuning.errors import ModelError
from rlhf_tuning.models import stored_weights
from rlhf_tuning.models.architecture import load_config, settings_of
from rlhf_tuning.models.model_reference import ModelFiles, files_at_hand, files_of, problem_with_name
from rlhf_tuning.models.packaged_models import ALIASES
from rlhf_tuning.models.stored_weights import INDEX, SINGLE, StoredWeight
from rlhf_tuning.models.text_format import RefusedConversationError, TextFormat, Turn
from rlhf_tuning.models.tokenizer import load_tokenizer

_ADAPTER = "adapter_config.json"
_LFS_POINTER = b"version https://git-lfs"
#: Endings of what is loaded beside the weights.
_LOADED = (".json", ".model", ".txt", ".jinja", ".tiktoken")
#: Files of JSON objects.
_READ = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"),
    *("special_tokens_map.json", "added_tokens.json"),
)
#: Endings of the files that hold a vocabulary.
_TOKENIZERS = ("tokenizer.json", ".model", ".tiktoken", "vocab.json", "vocab.txt", "tekken.json")
_PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")
_CHOOSE = "Choose a causal language model, such as HuggingFaceTB/SmolLM2-1.7B-Instruct."


@dataclass(frozen=True)
class _Model:
    """What the questions are asked of.

    Args:
        found: Its files.
        whole: Whether it is of no use without weights and a tokenizer.
        torch: Whether transformers may be asked what it would load, where torch is installed.
    """

    found: ModelFiles
    whole: bool
    torch: bool

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config.json as it stands in the file; empty where it cannot be read."""
        settings = self.json("config.json")
        return settings if isinstance(settings, dict) else {}

    @cached_property
    def config(self) -> Any:
        """The config as transformers has it."""
        return load_config(self.found.source)

    @cached_property
    def weight_files(self) -> list[str]:
        """The names of the files that are loaded; of those that an index names, also such as are not there."""
        first = self.settings.get("transformers_weights") or (SINGLE if SINGLE in self.found.files else INDEX)
        return [first] if first.endswith(".safetensors") else sorted({*self.index.values()})

    @cached_property
    def index(self) -> dict[str, str]:
        """The file of each weight, as the index has it; empty where there is none that can be read."""
        index = self.json(INDEX)
        files = index.get("weight_map") if isinstance(index, dict) else None
        return {str(name): str(file) for name, file in files.items()} if isinstance(files, dict) else {}

    @cached_property
    def headers(self) -> tuple[dict[str, StoredWeight], list[str]]:
        """The stored weights by name, and what is wrong with which of their files."""
        files = self.found.files
        return stored_weights.read_headers({name: files[name] for name in self.weight_files if name in files})

    @cached_property
    def weights(self) -> dict[str, StoredWeight]:
        """The stored weights by name; none where not all of them are at hand."""
        return self.headers[0] if all(name in self.found.files for name in self.weight_files) else {}

    def json(self, name: str) -> Any:
        """Return what a file holds; None where it is not there or holds no JSON."""
        file = self.found.files.get(name)
        if file is None:
            return None
        try:
            return json.loads(file.read(0, file.size))
        except ValueError:
            return None


def check_base_model(reference: str, *, parameter: str = "large_model_reference", torch: bool = True) -> None:
    """Refuse a model that cannot be tuned, before anything is spent on it. One of this project's own is known to be good.

    Args:
        reference: The model.
        parameter: The parameter that holds it, for messages.
        torch: Whether transformers may be asked what it would load, where torch is installed; to import that takes seconds.

    Raises:
        ModelError: Saying all that stands against it, and what to do.
        ModelNotAtHandError: If it cannot be looked at from here.
    """
    _refuse_name(reference, parameter)
    if reference not in ALIASES:
        _refuse(_Model(files_of(reference, parameter=parameter), whole=True, torch=torch), reference, parameter)


def check_models_at_hand(values: Mapping[str, object], *, whole: bool = True) -> None:
    """Refuse the base models of a run, as `check_base_model` does, as far as they are here or in the hub's cache.

    Args:
        values: The run's parameters.
        whole: Whether a folder with a config alone is refused.

    Raises:
        ModelError: Saying all that stands against one of them.
    """
    for parameter in ("large_model_reference", "reward_model_reference", "student_model_reference"):
        reference = str(values.get(parameter) or "")
        _refuse_name(reference, parameter)
        if reference and (found := files_at_hand(reference)):
            _refuse(_Model(found, whole, torch=True), reference, parameter)


def _refuse_name(reference: str, parameter: str) -> None:
    if problem := problem_with_name(reference, parameter=parameter):
        raise ModelError(problem)


def _refuse(model: _Model, reference: str, parameter: str) -> None:
    for stage in _STAGES:
        if problems := [problem for question in stage for problem in question(model)]:
            listed = "".join(f"\n  - {problem}" for problem in problems)
            raise ModelError(f"{parameter} is {reference!r}, a model that cannot be tuned as it is:{listed}")


def _asks_for_files(model: _Model) -> Iterator[str]:
    present = model.found.files
    if "config.json" not in present:
        if _ADAPTER in present:
            yield (
                "It is an adapter alone, without its base model. Merge it into that (merge_and_unload of peft) and save the "
                "result, or tune the base model and give the adapter as warm_start_adapter."
            )
        else:
            yield "It is a folder without config.json, so it holds no transformers model. Give the folder that has it."
    elif not model.weight_files and model.found.complete and model.whole:
        others = [name for name in sorted(present) if name.endswith(".safetensors")]
        if INDEX in present:
            yield f"{INDEX} is damaged: it names no file. Fetch it anew."
        elif others:
            yield (
                f"It has safetensors files ({', '.join(others[:3])}), but neither {SINGLE} nor {INDEX}, by which they are "
                "found. Fetch the one that is missing, or save the model again with save_pretrained."
            )
        else:
            yield (
                "It has no *.safetensors weights. Other formats can run code when they are loaded and are refused: save the "
                "model again with save_pretrained."
            )


def _asks_for_pointers(model: _Model) -> Iterator[str]:
    pointers = [
        name
        for name, file in sorted(model.found.files.items())
        if (name.endswith(_LOADED) or name in model.weight_files)
        and file.size < 1024
        and file.read(0, len(_LFS_POINTER)) == _LFS_POINTER
    ]
    if pointers:
        yield (
            f"In place of {', '.join(pointers)} it has what Git LFS leaves behind, a pointer. "
            "Fetch the files themselves: run 'git lfs pull' in the folder, or use 'hf download'."
        )


def _asks_for_whole_files(model: _Model) -> Iterator[str]:
    for name in (*_READ, INDEX):
        if name in model.found.files and not isinstance(model.json(name), dict):
            yield f"{name} is not valid JSON, so it is cut short or damaged. Fetch it anew."
    for problem in model.headers[1]:
        yield f"{problem}. Fetch it anew."
    divided = model.weight_files == sorted({*model.index.values()})
    if divided and (problem := stored_weights.problem_with_shards(model.index, model.headers[0], model.found)):
        yield f"{problem}. Fetch the model's files anew."


def _asks_for_an_adapter(model: _Model) -> Iterator[str]:
    if _ADAPTER in model.found.files and "config.json" in model.found.files:
        yield (
            f"Beside a whole model it holds an adapter ({_ADAPTER}), which would be applied on top. If that is in the model "
            "already, move adapter_config.json and adapter_model.safetensors elsewhere; else merge it "
            "(merge_and_unload of peft) and save the result."
        )


def _asks_for_the_kind(model: _Model) -> Iterator[str]:
    from transformers import CONFIG_MAPPING, __version__

    kind = str(model.settings.get("model_type") or "")
    if kind not in CONFIG_MAPPING:
        if "auto_map" in model.settings:
            yield (
                f"It is of the type {kind!r}, which comes with code of its own (auto_map). Such code is never run. Choose a "
                "model of an architecture that transformers has."
            )
        elif kind:
            yield f"It is of the type {kind!r}, which transformers {__version__} does not have. Choose another model."
        else:
            yield "Its config.json has no model_type, so nobody knows what it is. Use the one that belongs to the weights."
        return
    families = _model_types()
    causal = kind in families["CAUSAL_LM"]
    seq_to_seq = kind in families["SEQ_TO_SEQ_CAUSAL_LM"]
    if causal:
        try:
            seq_to_seq = model.config.is_encoder_decoder
        except Exception as error:  # whatever a config's own checks raise
            yield f"Its config.json cannot be used: {_reason(error)}. Use the one that belongs to the weights."
            return
    if seq_to_seq:
        yield f"It is an encoder-decoder ({kind}). {_CHOOSE}"
    elif kind in families["MASKED_LM"] and not (causal and model.settings.get("is_decoder")):
        yield f"It is an encoder ({kind}), which reads text and writes none. {_CHOOSE}"
    elif not causal:
        named = ", ".join(model.settings.get("architectures") or [kind])
        yield f"It is no causal language model ({named}). {_CHOOSE}"


@cache
def _model_types() -> dict[str, set[str]]:
    """Return the model types of some of transformers' families. Its source is read, since to import that takes torch."""
    module = find_spec("transformers.models.auto.modeling_auto")
    assert module is not None
    source = ast.parse(Path(str(module.origin)).read_text(encoding="utf-8"))
    return {
        family: {kind for kind, _ in ast.literal_eval(assigned.value.args[0])}
        for assigned in source.body
        for family in ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM")
        if isinstance(assigned, ast.Assign)
        and isinstance(assigned.value, ast.Call)
        and ast.unparse(assigned.targets[0]) == f"MODEL_FOR_{family}_MAPPING_NAMES"
    }


def _asks_for_quantisation(model: _Model) -> Iterator[str]:
    places = [place for place in (model.settings, model.settings.get("text_config")) if isinstance(place, dict)]
    keys = ("quantization_config", "compression_config")
    quantised = next((place[key] for place in places for key in keys if place.get(key)), None)
    matrices = {weight.dtype for name, weight in model.weights.items() if name.endswith(".weight")}
    if quantised is None:
        if odd := sorted(matrices - {*_PLAIN_DTYPES}):
            yield f"Its weights are stored as {', '.join(odd)}, so they are quantised. Take the model in bfloat16."
        return
    method = quantised.get("quant_method") or "bitsandbytes" if isinstance(quantised, dict) else "unknown"
    if matrices and {weight.dtype for weight in model.weights.values()} <= {*_PLAIN_DTYPES}:
        yield (
            f"Its config.json says that it is quantised ({method}), and its weights are not. Remove quantization_config "
            "from config.json."
        )
    else:
        yield (
            f"It is quantised ({method}), and only plain weights are tuned. Take the model that it was made from, in "
            "bfloat16; or dequantise it once, where transformers can, and save the result."
        )


def _asks_for_fitting_weights(model: _Model) -> Iterator[str]:
    if not model.weights:
        return
    if model.torch and find_spec("torch") and find_spec("accelerate"):
        try:
            problem = _misfit_by_transformers(model.config, model.weights)
        except Exception as error:  # whatever an architecture raises of a config that makes no sense
            problem = (
                f"No model can be built by its config.json: {_reason(error)}. Use the one that belongs to the weights."
            )
    else:
        problem = _misfit_by_names(model.config, model.weights)
    if problem:
        yield problem


def _misfit_by_transformers(config: Any, weights: Mapping[str, StoredWeight]) -> str:
    """Have transformers load weights that are nothing but shapes into a model that has none, and say what it missed."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    _, told = type(empty).from_pretrained(
        None,
        config=empty.config,
        state_dict={name: torch.empty(weight.shape, device="meta") for name, weight in weights.items()},
        device_map="meta",
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    return stored_weights.misfit((name for name, _ in empty.named_parameters()), told)


def _misfit_by_names(config: Any, weights: Mapping[str, StoredWeight]) -> str:
    settings = settings_of(config)
    return stored_weights.misfit_by_names(
        weights,
        trunk=config.model_type.replace("-", "_"),
        layers=settings.get("num_hidden_layers"),
        vocabulary=settings.get("vocab_size"),
        tied=any(where.get("tie_word_embeddings") for where in (settings, config.to_dict())),
    )


def _asks_for_a_tokenizer(model: _Model) -> Iterator[str]:
    present = model.found.files
    if not any(name.endswith(_TOKENIZERS) for name in present):
        if model.found.complete and model.whole:
            yield "It has no tokenizer. Copy the tokenizer.json of the model that it was made from into it."
        return
    try:
        tokenizer = load_tokenizer(model.found.source)
    except ModelError as error:
        if error.__cause__ is None:
            yield str(error)
        elif "tokenizer.json" in present:
            yield (
                f"{error} Its tokenizer.json is damaged, or of a newer kind than tokenizers {version('tokenizers')} reads: "
                "fetch it anew, or save it with that version."
            )
        elif "auto_map" in (model.json("tokenizer_config.json") or {}):
            yield (
                "Its tokenizer comes with code of its own (auto_map in tokenizer_config.json), which is never run, and has "
                "no tokenizer.json. Choose a model that has one."
            )
        elif any(name.endswith(".model") for name in present):
            yield (
                "Of its tokenizer there is the SentencePiece file alone, and no tokenizer.json. Make one once, where the "
                "packages sentencepiece and protobuf are installed: "
                "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)."
            )
        else:
            yield f"{error} A tokenizer.json would do: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)."
        return
    yield from _tokens_without_embedding(tokenizer, settings_of(model.config).get("vocab_size"))
    yield from _unusable_template(tokenizer)


def _tokens_without_embedding(tokenizer: Any, rows: int | None) -> Iterator[str]:
    if not rows:
        return
    if tokenizer.vocab_size > rows:
        yield (
            f"Its tokenizer has {tokenizer.vocab_size:,} tokens and its embedding {rows:,} rows: it is the tokenizer of "
            "another model. Use the one that belongs to the weights."
        )
        return
    added = tokenizer.added_tokens_decoder
    used = {tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id}
    outside = [
        str(token) for number, token in added.items() if number >= rows and (number in used or not token.special)
    ]
    if outside:
        yield (
            f"Its tokenizer has tokens for which its embedding, of {rows:,} rows, has none: {', '.join(outside)}. Add rows "
            "with resize_token_embeddings and save the model again; or take the tokens out of tokenizer.json and "
            "tokenizer_config.json (a padding token is not needed)."
        )


def _unusable_template(tokenizer: Any) -> Iterator[str]:
    template = tokenizer.chat_template
    if isinstance(template, dict) and "default" not in template:
        yield (
            f"Its tokenizer has several chat templates ({', '.join(template)}) and none named default. Give the one to tune "
            "with that name, in tokenizer_config.json or as chat_template.jinja."
        )
        return
    from jinja2 import TemplateError, TemplateSyntaxError

    text_format = TextFormat(tokenizer, prompt_sequence_length=1024, target_sequence_length=1)
    try:
        text_format.prompt_text([Turn(role="user", content="Good morning.")])
    except Exception as error:  # whatever a template's own code raises
        cause = (error.__context__ if isinstance(error, RefusedConversationError) else None) or error
        if isinstance(cause, TemplateError) and not isinstance(cause, TemplateSyntaxError):
            return  # it says what it does not take, which the rows will show
        yield (
            f"Its chat template fails, even on one user turn: {_reason(cause)}. Mend it (chat_template.jinja or "
            "tokenizer_config.json), or remove it to tune on plain text."
        )


def _reason(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300].rstrip('.')}" if words else type(error).__name__


#: All questions. Those of a stage make sense where nothing stands against the model by those before.
_STAGES: tuple[tuple[Callable[[_Model], Iterator[str]], ...], ...] = (
    (_asks_for_pointers,),
    (_asks_for_files,),
    (_asks_for_whole_files, _asks_for_an_adapter),
    (_asks_for_the_kind, _asks_for_quantisation),
    (_asks_for_fitting_weights, _asks_for_a_tokenizer),
)
