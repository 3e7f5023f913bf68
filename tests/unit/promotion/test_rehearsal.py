"""What keeps a deployment from being rehearsed is told; tests/serving rehearses one with a real vLLM."""

import importlib.util
import json
import tempfile
from pathlib import Path

import pytest
from tuned_run import PROMPTS, write_model

from rlhf_tuning import environment, vllm_program
from rlhf_tuning.promotion.rehearsal import rehearse
from rlhf_tuning.registry import register_model

FAKE = str(Path(__file__).parents[2] / "support" / "fake_vllm.py")


@pytest.fixture
def rehearsed(tmp_path, monkeypatch):
    """Rehearse the deployment of a registered model."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    version = register_model(
        model_dir=str(write_model(tmp_path / "model")),
        adapter_dir="",
        name="palms",
        manifest={"parameters": {}},
        registry_dir=tmp_path / "registry",
    )
    evaluation = tmp_path / "evaluation"
    evaluation.write_text(json.dumps({"answers": [{"prompt": prompt} for prompt in PROMPTS]}))
    return lambda: rehearse(version.resource_name, str(evaluation), str(tmp_path / "registry"))


def test_without_vllm_there_is_none(rehearsed, monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "VLLM_PYTHON", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(vllm_program, "FOLDER", tmp_path / "vllm")
    assert rehearsed() == ("No rehearsal of a deployment, for there is no vLLM here; rlhf serve says how to install it")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"start": "ValueError: Too little memory"}, "failed: vLLM ended: ValueError: Too little memory. Its log: "),
        ({"chat": "?!?!"}, "makes no sense: "),
        ({"chat": ""}, "its answer to 'Be brief.\\n\\nCreate a description for Plantation Palms.' is empty"),
    ],
)
def test_a_server_that_dies_or_makes_no_sense_fails_no_run(rehearsed, monkeypatch, fault, words):
    monkeypatch.setattr(environment, "VLLM_PYTHON", FAKE)
    monkeypatch.setenv("FAKE_VLLM", json.dumps(fault))
    assert words in rehearsed()
