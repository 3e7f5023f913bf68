"""The tail serves any method: one that has no reward model compiles for every target, and ends as every tune does."""

import json
from pathlib import Path

import pytest
import toy_method
import yaml
from kfp import compiler
from tests.pipelines.local.test_local_run import run_request

from rlhf_pipelines.targets import TARGETS
from rlhf_tuning.parameters import PARAMETERS
from rlhf_tuning.registry import list_models


@pytest.mark.parametrize("target", TARGETS)
def test_a_method_without_a_reward_model_compiles(target: str, tmp_path: Path) -> None:
    compiler.Compiler().compile(toy_method.for_target(target), str(tmp_path / "method.yaml"))
    (pipeline, *_) = yaml.safe_load_all((tmp_path / "method.yaml").read_text())
    tail = pipeline["components"]["comp-evaluate-and-promote"]["dag"]["tasks"]
    for answers in ("infer", "infer-2"):
        for name in ("seed", "inference_engine"):
            assert tail[answers]["inputs"]["parameters"][name] == {"componentInputParameter": name}


@pytest.mark.slow
def test_it_is_compared_judged_reported_and_registered(tiny_model: Path, tmp_path: Path) -> None:
    for name, count in (("prompts", 20), ("eval", 8)):
        rows = [{"input_text": f"Describe {name} {number}."} for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = {name: "" if parameter.required else parameter.default for name, parameter in PARAMETERS.items()} | {
        "prompt_dataset": str(tmp_path / "prompts.jsonl"),
        "eval_dataset": str(tmp_path / "eval.jsonl"),
        "large_model_reference": str(tiny_model),
        "model_display_name": "kept",
        "registry_dir": str(tmp_path / "registry"),
        "scorer": "house_style",
        "prompt_sequence_length": 48,
        "target_sequence_length": 8,
        "dtype": "float32",
    }
    takes = toy_method.keep_base_pipeline.component_spec.inputs
    status, output, outputs = run_request(
        tmp_path,
        target="toy_method:keep_base_pipeline",
        arguments={name: value for name, value in arguments.items() if name in takes},
    )
    assert status == 0, output
    left = json.loads(outputs.read_text())
    assert left["parameters"]["model_resource_name"] == "models/kept@1"
    summary = Path(left["artifacts"]["summary"]["path"]).read_text()
    assert "Not promoted" in summary
    assert "house style" in summary
    report = Path(left["artifacts"]["report"]["path"]).read_text()
    assert 'id="reward-model"' not in report
    (model,) = list_models(tmp_path / "registry")
    assert "challenger" in str(model)
