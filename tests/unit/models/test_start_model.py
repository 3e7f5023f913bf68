import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_tuning.models.start_model import (
    RECORD,
    Start,
    keep_record,
    made_from,
    record_of,
    start_from,
    supervised_settings,
    times_of,
)
from rlhf_tuning.registry import HELD_OUT_LOSS, TUNING_SETTINGS
from rlhf_tuning.step_times import StepClock, Took

BASE = Start("hub/base@1", "commit:1", "hub/base@1", "commit:1")


@pytest.fixture
def supervised(tmp_path: Path) -> Path:
    folder, adapter = tmp_path / "model", tmp_path / "adapter"
    for place in (folder, adapter):
        place.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    for name, content in ((TUNING_SETTINGS, {"train_steps": 3}), (HELD_OUT_LOSS, {}), ("metrics.jsonl", {})):
        (adapter / name).write_text(json.dumps(content))
    keep_record(str(folder), adapter_dir=str(adapter), made_from={"base_model": "hub/base@1"})
    return folder


def test_the_supervised_model_takes_the_base_models_place_for_both(supervised: Path) -> None:
    start = start_from(BASE, str(supervised))
    assert start[:2] == start[2:]
    assert start.large_model_reference == str(supervised)
    assert supervised_settings(str(supervised)) == {"train_steps": 3}
    assert made_from(str(supervised)) == {"base_model": "hub/base@1"}


def test_it_carries_the_times_of_the_steps_that_made_it(supervised: Path, tmp_path: Path) -> None:
    assert [carrier.metadata for carrier in times_of(str(supervised))] == [{"base_model": "hub/base@1"}]
    took = Took(name="Supervised Trainer", started=1.0, seconds=60.0, run="/runs/1")
    keep_record(str(supervised), adapter_dir=str(tmp_path / "adapter"), made_from={}, times=[took])
    later = SimpleNamespace(uri="/runs/1/train/model", metadata={})
    assert StepClock("Reinforcer", times_of(str(supervised)), [later]).times()[0] == took
    assert times_of("hub/base@1") == times_of(str(tmp_path)) == []
    assert record_of("") == ""


def test_a_reward_model_with_a_base_of_its_own_keeps_it(supervised: Path) -> None:
    start = start_from(BASE._replace(reward_model_reference="hub/other", reward_model_fingerprint="x"), str(supervised))
    assert start[2:] == ("hub/other", "x")
    assert start.large_model_reference == str(supervised)


def test_a_retry_at_the_same_place_writes_the_record_anew(supervised: Path, tmp_path: Path) -> None:
    keep_record(str(supervised), adapter_dir=str(tmp_path / "adapter"), made_from={"base_model": "hub/base@2"})
    assert made_from(str(supervised)) == {"base_model": "hub/base@2"}


def test_the_fingerprint_tells_other_weights_but_not_another_folder_or_another_record(
    supervised: Path, tmp_path: Path
) -> None:
    first = start_from(BASE, str(supervised)).large_model_fingerprint
    copy = Path(shutil.copytree(supervised, tmp_path / "copy"))
    (copy / RECORD / TUNING_SETTINGS).write_text("{}")
    assert start_from(BASE, str(copy)).large_model_fingerprint == first
    (copy / "model.safetensors").write_bytes(b"others!")
    assert start_from(BASE, str(copy)).large_model_fingerprint != first
