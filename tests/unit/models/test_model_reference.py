import shutil

import pytest

from rlhf_tuning.errors import ModelError
from rlhf_tuning.models import model_reference
from rlhf_tuning.models.model_reference import resolve_reference


def test_a_folder_is_known_by_its_content_not_its_place(tiny_model, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_model, copy)
    assert resolve_reference(str(copy)).fingerprint == resolve_reference(str(tiny_model)).fingerprint


def test_other_weights_have_another_fingerprint(tiny_model, tmp_path):
    copy = tmp_path / "changed"
    shutil.copytree(tiny_model, copy)
    before = resolve_reference(str(copy)).fingerprint
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert resolve_reference(str(copy)).fingerprint != before


def test_a_change_in_large_weights_is_seen_by_samples(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(bytes(4_000_000))
    before = model_reference._sampled_bytes(model_reference._LocalFile(file), whole_up_to=1000)
    # Tuning moves weights everywhere, so also where a sample looks.
    file.write_bytes(bytes([1]) * 4_000_000)
    assert model_reference._sampled_bytes(model_reference._LocalFile(file), whole_up_to=1000) != before


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("", "empty"),
        ("./no/such/folder", "no such folder"),
        ("/no/such/folder", "no such folder"),
        ("text-bison@001", "retired"),
        ("t5-small", "retired"),
        ("publishers/google/models/chat-bison@002", "retired"),
        ("llama-2-7b", "meta-llama/Llama-2-7b-hf"),
        ("what is this?", "cannot be a hub id"),
        ("palms--tiny/model", "cannot be a hub id"),
    ],
)
def test_an_unusable_reference_gets_a_message_that_names_what_can_be_used(reference, words):
    with pytest.raises(ModelError, match="large_model_reference") as caught:
        resolve_reference(reference)
    assert words in str(caught.value)
    assert "smollm2-135m-instruct" in str(caught.value)


def test_a_folder_without_files_is_refused(tmp_path):
    (tmp_path / "checkpoint-100").mkdir()
    with pytest.raises(ModelError, match="or no file right in it"):
        resolve_reference(str(tmp_path))


def test_the_alias_is_known_without_any_network():
    assert resolve_reference("smollm2-135m-instruct").fingerprint.startswith("sha256:")


def test_a_hub_id_is_refused_in_words_when_neither_hub_nor_cache_has_it(monkeypatch):
    import huggingface_hub

    def unreachable(*arguments, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(ModelError, match="cannot be reached"):
        resolve_reference("nobody/nothing-of-this-name")
