"""Each kind of damage is done to a tiny model that is whole, and must be told in a sentence with what to do."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import Hub, running_hub
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from rlhf_tuning.errors import ModelError
from rlhf_tuning.models import base_model_check
from rlhf_tuning.models.base_model import load_causal_lm, load_scoring_model
from rlhf_tuning.models.base_model_check import check_base_model, check_models_at_hand
from rlhf_tuning.models.stored_weights import StoredWeight

Weights = dict[str, torch.Tensor]
FILE = "model.safetensors"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A whole model, to be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture(params=["torch", "no torch"])
def each_way(request: pytest.FixtureRequest) -> bool:
    """By transformers' own loading, and by names and shapes alone."""
    return bool(request.param == "torch")


def refusal(folder: Path, *, torch: bool = True) -> str:
    with pytest.raises(ModelError) as caught:
        check_base_model(str(folder), torch=torch)
    return str(caught.value)


def configure(folder: Path, file: str = "config.json", **settings: Any) -> None:
    stored = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(stored | settings))


def store(folder: Path, change: Callable[[Weights], Weights]) -> None:
    save_file(change(load_file(folder / FILE)), folder / FILE, metadata={"format": "pt"})


def renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name.replace(old, new, 1): weight for name, weight in weights.items()}


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: weight for name, weight in weights.items() if part not in name}


def shard(folder: Path, *, names: int = 2, stored: int = 2, lost: str = "") -> None:
    """Divide the weights into two files, of which some are stored, and some named in the index; one weight may be lost."""
    weights = sorted(load_file(folder / FILE).items())
    (folder / FILE).unlink()
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    parts = dict(zip(files, (dict(weights[:9]), dict(weights[9:])), strict=True))
    for file in files[:stored]:
        save_file(without(lost)(parts[file]) if lost else parts[file], folder / file, metadata={"format": "pt"})
    index = {name: file for file in files[:names] for name in parts[file]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def added(folder: Path, *, special: bool, number: int) -> None:
    """Give the tokenizer a token."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    token = tokenizer["added_tokens"][0] | {"id": number, "content": "<tool>", "special": special}
    tokenizer["added_tokens"].append(token)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def rows(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


def resized(folder: Path, rows: int) -> None:
    """Give the embedding another number of rows."""
    store(folder, lambda weights: weights | {"model.embed_tokens.weight": torch.ones(rows, 32)})
    configure(folder, vocab_size=rows)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 538090408\n"
FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a pointer for weights": (lambda m: (m / FILE).write_text(LFS), "model.safetensors it has what Git LFS leaves"),
    "a pointer for a config": (lambda m: (m / "config.json").write_text(LFS), "git lfs pull"),
    "weights cut short": (lambda m: (m / FILE).write_bytes((m / FILE).read_bytes()[:-9]), "is cut short: "),
    "a header cut short": (lambda m: (m / FILE).write_bytes((m / FILE).read_bytes()[:99]), "header alone has"),
    "weights too long": (lambda m: (m / FILE).write_bytes((m / FILE).read_bytes() + b"0"), "is damaged: "),
    "an empty file": (lambda m: (m / FILE).write_bytes(b""), "is no safetensors file"),
    "a web page for weights": (lambda m: (m / FILE).write_text("<!doctype html>" * 9), "is no safetensors file"),
    "a config cut short": (lambda m: (m / "config.json").write_text('{"a": '), "config.json is not valid JSON"),
    "a tokenizer cut short": (lambda m: (m / "tokenizer.json").write_text("{"), "tokenizer.json is not valid JSON"),
    "no config": (lambda m: (m / "config.json").unlink(), "a folder without config.json"),
    "other weights": (lambda m: (m / FILE).rename(m / "pytorch_model.bin"), "has no *.safetensors weights"),
    "weights under another name": (lambda m: (m / FILE).rename(m / "weights.safetensors"), "but neither"),
    "a file of two missing": (lambda m: shard(m, stored=1), "00002-of-00002.safetensors, which is not there"),
    "a file that no index names": (lambda m: shard(m, names=1), "names 1 files of 2"),
    "a weight that no file has": (
        lambda m: shard(m, lost="model.norm.weight"),
        "none of its files has (model.norm.weight)",
    ),
    "an adapter beside it": (lambda m: (m / "adapter_config.json").write_text("{}"), "applied on top"),
    "no tokenizer": (lambda m: (m / "tokenizer.json").unlink(), "It has no tokenizer"),
    "no end": (lambda m: configure(m, "tokenizer_config.json", eos_token=None), "Name it as eos_token"),
    "SentencePiece alone": (
        lambda m: (m / "tokenizer.json").rename(m / "tokenizer.model"),
        "packages sentencepiece and protobuf are installed",
    ),
    "a newer tokenizer": (
        lambda m: configure(m, "tokenizer.json", model={"type": "BPE2", "vocab": {}}),
        "of a newer kind than tokenizers",
    ),
    "a tokenizer of another model": (lambda m: resized(m, 99), "its embedding 99 rows: it is the tokenizer of another"),
    "no template by default": (
        lambda m: (
            (m / "chat_template.jinja").unlink(),
            configure(m, "tokenizer_config.json", chat_template=[{"name": "rag", "template": ""}]),
        ),
        "several chat templates (rag)",
    ),
    "a template that fails": (
        lambda m: (m / "chat_template.jinja").write_text("{{ messages[0]['content'] + 1 }}"),
        "fails, even on one user turn: TypeError",
    ),
    "a template that is none": (lambda m: (m / "chat_template.jinja").write_text("{% for %}"), "Mend it"),
    "a token in use without a row": (lambda m: added(m, special=False, number=rows(m)), "none: <tool>"),
}
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "an encoder-decoder": ({"model_type": "t5"}, "encoder-decoder (t5)"),
    "an encoder-decoder with a causal class": ({"model_type": "bart", "is_encoder_decoder": True}, "encoder-decoder"),
    "an encoder": ({"model_type": "modernbert"}, "encoder (modernbert)"),
    "an encoder with a causal class": ({"model_type": "roberta"}, "encoder (roberta)"),
    "a model of images": ({"model_type": "vit", "architectures": ["ViTModel"]}, "no causal language model (ViTModel)"),
    "code of its own": ({"model_type": "x", "auto_map": {"AutoConfig": "x.X"}}, "comes with code of its own"),
    "a type of the future": ({"model_type": "llama9"}, "transformers 5"),
    "no type": ({"model_type": ""}, "has no model_type"),
    "a config that makes no sense": ({"hidden_size": "wide"}, "config.json cannot be used"),
    "a quantised config": ({"quantization_config": {"quant_method": "gptq"}}, "and its weights are not. Remove"),
}
WEIGHTS: dict[str, tuple[Callable[[Weights], Weights], dict[str, Any], str]] = {
    "torch.compile": (renamed("", "_orig_mod."), {}, "'_orig_mod', of torch.compile"),
    "an unknown wrapper": (renamed("", "policy.net."), {}, "were saved with what wrapped the model"),
    "a wrapper inside": (renamed("layers.0.", "layers.0._checkpoint_wrapped_module."), {}, "activation checkpointing"),
    "an adapter not merged": (renamed("q_proj.", "q_proj.base_layer."), {}, "Merge the adapter"),
    "a layer missing": (without(".layers.1."), {}, "would be random numbers"),
    "no output head": (
        lambda weights: weights,
        {"tie_word_embeddings": False},
        "output head (lm_head.weight) is missing",
    ),
    "other rows": (lambda weights: weights, {"vocab_size": 900}, "900 x 32 by config.json"),
}
SHAPES: dict[str, tuple[Callable[[Weights], Weights], dict[str, Any], str]] = {
    "a weight missing": (
        without("layers.0.mlp.up_proj"),
        {},
        "(model.layers.0.mlp.up_proj.weight) and would be random",
    ),
    "biases missing": (lambda weights: weights, {"attention_bias": True}, "8 are missing"),
    "another shape": (lambda weights: weights, {"intermediate_size": 48}, "and 5 more do not fit either"),
    "biases that are left out": (
        lambda weights: weights | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)},
        {},
        "leave out (model.layers.0.self_attn.q_proj.bias)",
    ),
    "norms that are left out": (
        lambda weights: weights | {"model.layers.0.self_attn.q_norm.weight": torch.zeros(8)},
        {},
        "leave out (model.layers.0.self_attn.q_norm.weight)",
    ),
    "a layer that is left out": (
        lambda weights: weights,
        {"num_hidden_layers": 1},
        "such as attention_bias or num_hidden",
    ),
    "heads that make no sense": (lambda weights: weights, {"num_key_value_heads": 0}, "No model can be built"),
    "padding without a row": (lambda weights: weights, {"pad_token_id": 5000}, "No model can be built"),
}


def test_a_whole_model_passes(model: Path, each_way: bool) -> None:
    check_base_model(str(model), torch=each_way)


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_not_whole_or_do_not_fit_each_other_are_named(kind: str, model: Path) -> None:
    damage, words = FILES[kind]
    damage(model)
    told = refusal(model)
    assert words in told
    assert told.startswith(f"large_model_reference is '{model}', a model that cannot be tuned as it is:\n  - ")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_causal_model_is_told_by_its_config(kind: str, model: Path) -> None:
    settings, words = KINDS[kind]
    configure(model, **settings)
    assert words in refusal(model)


def damaged(folder: Path, kind: tuple[Callable[[Weights], Weights], dict[str, Any], str]) -> str:
    change, settings, words = kind
    store(folder, change)
    configure(folder, **settings)
    return words


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_under_other_names_or_missing_are_told_with_torch_and_without(
    kind: str, model: Path, each_way: bool
) -> None:
    words = damaged(model, WEIGHTS[kind])
    assert words in refusal(model, torch=each_way)


@pytest.mark.parametrize("kind", SHAPES)
def test_weights_that_transformers_could_not_place_are_told(kind: str, model: Path) -> None:
    words = damaged(model, SHAPES[kind])
    assert words in refusal(model)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I32"])
def test_quantised_weights_are_told_whatever_their_config_says(dtype: str, model: Path) -> None:
    kinds = {"F8_E4M3": torch.float8_e4m3fn, "I32": torch.int32}
    store(model, lambda weights: {name: weight.to(kinds[dtype]) for name, weight in weights.items()})
    assert f"stored as {dtype}, so they are quantised" in refusal(model)
    configure(model, quantization_config={"quant_method": "fp8"})
    assert "It is quantised (fp8), and only plain weights are tuned" in refusal(model)


@pytest.mark.parametrize(
    "harmless",
    {
        "tables of rotary positions": lambda m: store(
            m, lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        ),
        "a score head": lambda m: store(m, lambda w: w | {"score.weight": torch.ones(1, 32)}),
        "a value head": lambda m: store(m, lambda w: w | {"v_head.summary.weight": torch.ones(1, 32)}),
        "the trunk alone": lambda m: store(m, renamed("model.", "")),
        "several files": shard,
        "code that nobody needs": lambda m: configure(m, auto_map={"AutoModelForCausalLM": "x.X"}),
        "a token that only images take": lambda m: added(m, special=True, number=rows(m)),
        "rows for no token": lambda m: resized(m, 512),
        "a template that takes no single turn": lambda m: (m / "chat_template.jinja").write_text(
            "{{ raise_exception('Give a system turn.') }}"
        ),
        "pointers for what is not loaded": lambda m: (m / "pytorch_model.bin").write_text(LFS),
    }.items(),
    ids=lambda case: case[0],
)
def test_what_is_harmless_passes(harmless: tuple[str, Callable[[Path], Any]], model: Path, each_way: bool) -> None:
    harmless[1](model)
    check_base_model(str(model), torch=each_way)


def test_everything_that_stands_against_a_model_is_told_at_once(model: Path) -> None:
    (model / "tokenizer_config.json").write_text("")
    (model / FILE).write_bytes(b"")
    assert refusal(model).count("\n  - ") == 2


def test_an_adapter_alone_is_told_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "give the adapter as warm_start_adapter" in refusal(tmp_path)


def test_a_model_that_is_not_there_and_a_folder_of_the_cache_are_told(tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(tmp_path / "nothing")
    (tmp_path / "models--palms--tiny" / "snapshots").mkdir(parents=True)
    assert "the hub id, palms/tiny" in refusal(tmp_path / "models--palms--tiny")


def test_models_at_hand_are_checked_and_others_left_to_the_run(model: Path) -> None:
    elsewhere = {"large_model_reference": "/mnt/models/llama", "reward_model_reference": "gs://bucket/llama"}
    check_models_at_hand(elsewhere | {"batch_size": 4})
    check_models_at_hand({"large_model_reference": "palms/in-no-cache"})
    (model / FILE).unlink()
    with pytest.raises(ModelError, match=r"reward_model_reference is .*\n.*no \*\.safetensors"):
        check_models_at_hand({"large_model_reference": "", "reward_model_reference": str(model)})
    (model / "tokenizer.json").unlink()
    check_models_at_hand({"reward_model_reference": str(model)}, whole=False)
    with pytest.raises(ModelError, match="the hub id, palms/tiny"):
        check_models_at_hand({"large_model_reference": "models--palms--tiny"})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process asks, with a cache of its own."""
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template[template.index("/{") :])
        yield hub


def test_a_model_on_the_hub_is_checked_without_its_weights_being_fetched(hub: Hub, model: Path) -> None:
    hub.commit("palms/whole", model)
    check_base_model("palms/whole")
    assert [one for one in hub.asked if FILE in one] == [
        f"GET /palms/whole/resolve/{hub.names['palms/whole']['main']}/{FILE} bytes=0-65535"
    ]
    check_models_at_hand({"large_model_reference": "palms/whole"})
    store(model, renamed("", "module."))
    hub.commit("palms/wrapped", model)
    with pytest.raises(ModelError, match="data parallel training"):
        check_base_model("palms/wrapped")


@pytest.fixture
def loaded() -> Callable[[Path], None]:
    def load(folder: Path) -> None:
        load_scoring_model(str(folder), dtype=torch.float32)
        load_causal_lm(str(folder), dtype=torch.float32)

    return load


@pytest.mark.parametrize("kind", ["torch.compile", "a layer missing", "other rows"])
def test_loading_stops_where_weights_would_be_random_numbers(
    kind: str, model: Path, loaded: Callable[[Path], None]
) -> None:
    loaded(model)
    words = damaged(model, WEIGHTS[kind])
    with pytest.raises(ModelError) as caught:
        loaded(model)
    assert words in str(caught.value)


def small(kind: str) -> tuple[Any, Any]:
    """Return a config and its model without weights, of few layers and experts where the config takes that."""
    few = {"num_hidden_layers": 4, "num_experts": 4, "n_routed_experts": 8, "num_local_experts": 4}
    for settings in (few, {"num_hidden_layers": 4}, {}):
        try:
            config = AutoConfig.for_model(kind, **settings)
            if config.get_text_config() is not config:
                config = AutoConfig.for_model(kind, **({"text_config": settings} if settings else {}))
            with torch.device("meta"):
                return config, AutoModelForCausalLM.from_config(config)
        except Exception:  # whatever an architecture's own checks raise
            continue
    return None, None


@pytest.mark.slow
def test_what_transformers_saves_of_any_causal_architecture_passes() -> None:
    refused, tried = {}, 0
    types = base_model_check._model_types()
    for kind in sorted(types["CAUSAL_LM"] - types["MASKED_LM"]):
        config, network = small(kind)
        if config is None or config.is_encoder_decoder:
            continue
        saved = network.state_dict()
        for name in network.all_tied_weights_keys:
            saved.pop(name, None)
        weights = {
            name: StoredWeight("F32", tuple(weight.shape))
            for name, weight in revert_weight_conversion(network, saved).items()
        }
        tried += 1
        problems = [base_model_check._misfit_by_transformers(config, weights)]
        problems.append(base_model_check._misfit_by_names(config, weights))
        if any(problems):
            refused[kind] = problems
    assert refused == {}
    assert tried > 120
