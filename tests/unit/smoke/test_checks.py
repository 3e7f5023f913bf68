"""What a step finds out about its place: seen in words, never raised."""

import os
from pathlib import Path

from tests.support.gcs_server import CloudStorage

from rlhf_tuning import environment
from rlhf_tuning.smoke.checks import FAILS, NOTE, WORKS, Check, check_handed_over, check_place, write_checks


def found(path: Path, probe_object: str = "") -> dict[str, Check]:
    return {check.name: check for check in check_place("A step", artifact_path=str(path), probe_object=probe_object)}


def test_a_good_place_has_nothing_that_fails(tmp_path: Path) -> None:
    checks = found(tmp_path / "root/step/checks")
    assert {check.state for check in checks.values()} == {WORKS, NOTE}
    assert f"user {os.getuid()}" in checks["Who the step is"].seen
    assert checks["Cloud Storage can be read"].state == NOTE
    assert not list((tmp_path / "root/step").iterdir()), "what was tried is taken away again"


def test_an_object_is_read_by_the_way_that_datasets_are(tmp_path: Path, cloud: CloudStorage) -> None:
    cloud.put("rows.jsonl", b"12345")
    assert found(tmp_path / "checks", "gs://bucket/rows.jsonl")["Cloud Storage can be read"].seen.startswith("read 5 ")
    missing = found(tmp_path / "checks", "gs://bucket/none.jsonl")["Cloud Storage can be read"]
    assert missing.state == FAILS
    assert "roles/storage.objectViewer" in missing.remedy


def test_a_folder_that_cannot_be_written_says_whom_to_give_what(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "gcs").mkdir()
    (tmp_path / "gcs/bucket").write_text("a file where a folder should be, which stops root too")
    monkeypatch.setattr(environment, "GCS_MOUNT", tmp_path / "gcs")
    check = found(tmp_path / "gcs/bucket/step/checks")["Artifacts can be written"]
    assert check.state == FAILS
    assert "roles/storage.objectAdmin" in check.remedy


def test_an_artifact_that_does_not_arrive_is_a_check_that_fails(tmp_path: Path) -> None:
    assert check_handed_over("A step", str(tmp_path / "none"))[0].state == FAILS
    (tmp_path / "cut").write_text('[{"step":')
    assert check_handed_over("A step", str(tmp_path / "cut"))[0].state == FAILS
    before = [Check(step="Before", name="x", state=WORKS, seen="y")]
    write_checks(before, str(tmp_path / "whole"))
    check, read = check_handed_over("A step", str(tmp_path / "whole"))
    assert (check.state, read) == (WORKS, before)
