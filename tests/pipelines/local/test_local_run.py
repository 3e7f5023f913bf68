import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf_pipelines.local import local_run
from rlhf_pipelines.local.local_run import RunRequest, planned_steps

#: Of `toy_pipelines`.
FOLDER = Path(__file__).parents[2] / "support"


def run_request(folder: Path, *, target: str, arguments: dict[str, Any]) -> tuple[int, str, Path]:
    outputs = folder / "outputs.json"
    request = RunRequest(
        target=target, arguments=arguments, pipeline_root=str(folder / "root"), caching=True, outputs=str(outputs)
    )
    request.write(folder / "request.json")
    path = os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_pipelines.local.local_run", str(folder / "request.json")],
        env={
            **os.environ,
            "PYTHONPATH": path,
            "RLHF_PROGRESS": "events",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, outputs


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line.partition("@rlhf ")[2]) for line in output.splitlines() if "@rlhf " in line]


def test_plan_names_the_steps_of_nested_pipelines_and_outputs_are_written_within_the_root_alone(tmp_path: Path) -> None:
    status, output, outputs = run_request(
        tmp_path, target="toy_pipelines:toy_pipeline", arguments={"text": "plum", "ran": str(tmp_path / "ran")}
    )
    assert status == 0, output
    plan = next(event for event in events(output) if event["event"] == "plan")
    assert sorted(plan["steps"], key=lambda step: str(step["task"])) == [
        {"task": "prepare", "component": "prepare", "name": "Prepare Data"},
        {"task": "report", "component": "report", "name": "Report Results"},
        {"task": "train", "component": "train", "name": "Toy Trainer"},
    ]
    found = json.loads(outputs.read_text(encoding="utf-8"))
    assert found["parameters"] == {"model_resource_name": "models/plum@1"}
    assert Path(found["artifacts"]["summary"]["path"]).read_text(encoding="utf-8") == "Base   0.1\nTuned  PLUM\n"
    assert {path.name for path in tmp_path.iterdir()} == {"request.json", "outputs.json", "root", "ran"}


def test_failed_step_is_left_to_its_own_event(tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.write_text("user", encoding="utf-8")
    arguments = {"text": "plum", "ran": str(tmp_path / "ran"), "trouble": str(trouble)}
    status, output, outputs = run_request(tmp_path, target="toy_pipelines:toy_pipeline", arguments=arguments)
    assert status == 1
    assert [event["step"] for event in events(output) if event["event"] == "error"] == ["Train"]
    assert "Traceback" not in output
    assert not outputs.exists()


def test_of_the_branches_of_a_condition_the_first_is_planned_or_the_one_that_is_known_to_run() -> None:
    from rlhf_pipelines.compile import load_pipeline

    spec = load_pipeline("recurring_rlhf_pipeline").pipeline_spec
    names = [step["name"] for step in planned_steps(spec, {"supervises": False})]
    assert {"Count New Preferences", "Choose Start", "Reinforcer"} <= set(names)
    assert not {"Nothing New", "Supervised Trainer"} & set(names)
    assert len(names) == 14
    more = {step["name"] for step in planned_steps(spec, {"supervises": True})} - set(names)
    assert more == {"Import Supervised Dataset", "Supervised Trainer"}


def test_outputs_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local_run, "_die_with_parent", lambda _: None)
    monkeypatch.setattr(local_run, "_run", lambda _: {"artifacts": {}})
    outputs = tmp_path / "outputs.json"
    request = RunRequest(target="", arguments={}, pipeline_root="", caching=True, outputs=str(outputs))
    request.write(tmp_path / "request.json")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            local_run.main(str(tmp_path / "request.json"))
    assert not outputs.exists()
    assert local_run.main(str(tmp_path / "request.json")) == 0
    assert json.loads(outputs.read_text()) == {"artifacts": {}}
