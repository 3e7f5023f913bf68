"""Where a vLLM is found, with a stand-in for it; how it runs and ends is tested with the server that it is."""

import importlib.util
from pathlib import Path

import pytest

from rlhf_tuning import environment, vllm_program
from rlhf_tuning.errors import UserError

FAKE = str(Path(__file__).parents[1] / "support" / "fake_vllm.py")


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "VLLM_PYTHON", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(vllm_program, "FOLDER", tmp_path / "vllm")
    return tmp_path / "vllm"


def test_a_vllm_is_found_where_it_is_named_or_in_its_place(nowhere, monkeypatch):
    assert vllm_program.find_vllm() is None
    found = vllm_program.Vllm(python=FAKE, version="0.32.0", device="cpu")
    assert vllm_program.find_vllm(FAKE) == found
    monkeypatch.setattr(environment, "VLLM_PYTHON", FAKE)
    assert vllm_program.find_vllm() == found
    monkeypatch.setattr(environment, "VLLM_PYTHON", "")
    (nowhere / "bin").mkdir(parents=True)
    (nowhere / "bin" / "python").symlink_to(FAKE)
    assert vllm_program.find_vllm().python == str(nowhere / "bin" / "python")


def test_a_vllm_that_cannot_be_imported_says_why_and_how_to_install_it(nowhere, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", '{"import": "RuntimeError: operator torchvision::nms does not exist"}')
    with pytest.raises(UserError, match=r"torchvision::nms does not exist\. Install it anew") as raised:
        vllm_program.find_vllm(FAKE)
    assert f"{nowhere}/bin/pip install vllm" in str(raised.value)
    with pytest.raises(UserError, match=r"/nope cannot be run \(No such file or directory\)"):
        vllm_program.find_vllm("/nope")


@pytest.mark.parametrize("said", ["", "-c import vllm; print(1)", "0.32.0 "])
def test_a_program_that_tells_no_version_and_device_is_no_python_with_vllm(nowhere, tmp_path, said):
    other = tmp_path / "other"
    other.write_text(f"#!/bin/sh\necho '{said}'\n")
    other.chmod(0o755)
    with pytest.raises(UserError, match=rf"{other} is no Python with a vLLM for this machine\. Install one:"):
        vllm_program.find_vllm(str(other))
