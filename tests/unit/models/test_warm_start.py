import json
import shutil

import pytest

from rlhf_tuning import environment
from rlhf_tuning.errors import ModelError, ParameterError
from rlhf_tuning.models.model_reference import resolve_reference
from rlhf_tuning.models.warm_start import ResolvedAdapter, adapter_folder, resolve_adapter
from rlhf_tuning.registry import register_model


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    """A real LoRA adapter of rank 8 on the tiny model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    return folder


def resolve(reference, base, **settings):
    return resolve_adapter(
        str(reference),
        large_model_reference=str(base),
        large_model_fingerprint=resolve_reference(str(base)).fingerprint,
        **{"rank": 8} | settings,
    )


def test_none_stays_none(tiny_model):
    assert resolve("", tiny_model, rank=0) == ResolvedAdapter()


def test_a_folder_is_fingerprinted_by_its_content(adapter, tiny_model, tmp_path):
    found = resolve(adapter, tiny_model)
    assert found.folder == str(adapter)
    copy = shutil.copytree(adapter, tmp_path / "copy")
    assert resolve(copy, tiny_model).fingerprint == found.fingerprint
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert resolve(copy, tiny_model).fingerprint != found.fingerprint


def test_the_same_base_in_another_folder_is_the_same_base(adapter, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "base")
    assert resolve(adapter, tmp_path / "base").folder == str(adapter)


def test_a_registered_model_is_found_and_its_base_is_told_by_its_manifest(
    adapter, tiny_model, tiny_plain_model, tmp_path
):
    version = register_model(
        model_dir=str(tiny_model),
        adapter_dir=str(adapter),
        name="palms",
        manifest={"fingerprints": {"large_model": resolve_reference(str(tiny_model)).fingerprint}},
        aliases=("champion",),
        registry_dir=tmp_path,
    )
    found = resolve("palms@champion", tiny_model, registry_dir=str(tmp_path))
    assert found.folder == str(version.path / "adapter")
    with pytest.raises(ModelError, match="another base model"):
        resolve("palms@champion", tiny_plain_model, registry_dir=str(tmp_path))


def test_an_adapter_of_another_base_is_refused(adapter, tiny_plain_model):
    with pytest.raises(ModelError, match="another base model"):
        resolve(adapter, tiny_plain_model)


def test_an_adapter_of_another_rank_is_refused_with_its_rank(adapter, tiny_model):
    with pytest.raises(ParameterError, match=r"rank 8, but lora_dim is 16\. Set lora_dim to 8"):
        resolve(adapter, tiny_model, rank=16)
    with pytest.raises(ParameterError, match=r"but adapter_size is 16\. Set adapter_size to 8"):
        resolve(adapter, tiny_model, rank=16, rank_parameter="adapter_size")


def test_full_fine_tuning_has_nothing_to_start_from(adapter, tiny_model):
    with pytest.raises(ParameterError, match="lora_dim 0"):
        resolve(adapter, tiny_model, rank=0)


def test_a_missing_model_is_named_with_those_that_there_are(tiny_model, tmp_path):
    with pytest.raises(ModelError, match=r"warm_start_adapter is 'palms@champion'.*none yet"):
        resolve("palms@champion", tiny_model, registry_dir=str(tmp_path))


def test_a_folder_without_an_adapter_is_refused(tiny_model):
    with pytest.raises(ModelError, match="there is no LoRA adapter"):
        resolve(tiny_model, tiny_model)


@pytest.mark.parametrize("settings", ["{", json.dumps({"peft_type": "PROMPT_TUNING"})])
def test_what_is_no_lora_is_refused(adapter, tiny_model, tmp_path, settings):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    (copy / "adapter_config.json").write_text(settings)
    with pytest.raises(ModelError, match=r"not valid JSON|no LoRA adapter"):
        resolve(copy, tiny_model)


def test_an_adapter_on_cloud_storage_is_copied_by_the_step_that_needs_it(
    adapter, tiny_model, cloud, tmp_path, monkeypatch
):
    monkeypatch.setattr(environment, "CACHE_DIR", tmp_path)
    for file in adapter.iterdir():
        cloud.put(f"adapter/{file.name}", file.read_bytes())
    found = resolve("gs://bucket/adapter", tiny_model)
    assert found == ResolvedAdapter(folder="gs://bucket/adapter", fingerprint=resolve(adapter, tiny_model).fingerprint)
    copy = adapter_folder(found.folder)
    assert (copy / "adapter_model.safetensors").read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()
    assert adapter_folder(str(adapter)) == adapter
    with pytest.raises(ModelError, match="warm_start_adapter: There is no folder gs://bucket/none in Cloud Storage"):
        resolve("gs://bucket/none", tiny_model)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, r"on the output head too \(lm_head\)"),
        ({"target_modules": r".*\.lm_head"}, r"on the output head too \(.*lm_head\)"),
        ({"task_type": "SEQ_CLS"}, r"scores or sorts texts \(SEQ_CLS\)"),
    ],
)
def test_an_adapter_that_cannot_learn_here_is_refused_before_anything_is_spent(
    adapter, tiny_model, tmp_path, changed, message
):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    settings = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(settings | changed))
    with pytest.raises(ModelError, match=message):
        resolve(copy, tiny_model)
