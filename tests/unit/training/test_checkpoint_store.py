"""Where checkpoints are kept: on this machine and, where a bucket is not mounted, in Cloud Storage."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gcs_server import CloudStorage, Fault, serve_cloud_storage

from rlhf_tuning import cloud_storage, environment
from rlhf_tuning.errors import RunError
from rlhf_tuning.training.checkpoint_store import (
    KEPT_DAYS,
    Checkpoint,
    Store,
    beside_the_runs,
    forget_old,
    trained_to,
)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudStorage]:
    monkeypatch.setattr(cloud_storage, "RETRY_SECONDS", 1.0)
    monkeypatch.setattr(cloud_storage, "RETRY_DELAY_SECONDS", 0.01)
    with serve_cloud_storage() as cloud:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud.address)
        cloud_storage._client.cache_clear()
        yield cloud
        cloud_storage._client.cache_clear()


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, cloud: CloudStorage, tmp_path: Path) -> str:
    return str(tmp_path / "kept" / "some") if request.param == "folder" else "gs://bucket/root/.checkpoints/some"


def add(store: Store, step: int) -> Checkpoint:
    file = store.put(f"{step:08}.pt", lambda stream: stream.write(b"weights"))  # type: ignore[arg-type, return-value]
    checkpoint = Checkpoint(step, "some", "2027-01-31 06:00:00", [file])
    store.add(checkpoint)
    return checkpoint


def test_the_newest_stays_whole_and_goes_at_the_end(place: str) -> None:
    store = Store(place)
    assert store.take()
    add(store, 3)
    newest = add(store, 12)
    assert Store(place).checkpoints() == [newest]
    with store.open(newest.files[0]) as stream:
        assert stream.read() == b"weights"
    store.put("00000012.pt", lambda stream: stream.write(b"WEIGHTS"))  # type: ignore[arg-type, return-value]
    with pytest.raises(RunError, match=r"some/00000012\.pt is not what was written"):
        store.open(newest.files[0])
    store.put("00000013.json", lambda stream: stream.write(b"{}"))  # type: ignore[arg-type, return-value]
    assert str(store.checkpoints()[0]).endswith("00000013.json is no manifest of a checkpoint")
    store.forget()
    assert Store(place).checkpoints() == []
    with pytest.raises(FileNotFoundError):
        store.open(newest.files[0])


def test_a_bucket_that_cannot_be_written_to_says_what_to_grant(cloud: CloudStorage) -> None:
    cloud.write_faults.append(Fault(status=403))
    with pytest.raises(OSError, match=r"roles/storage\.objectUser"):
        add(Store("gs://bucket/some"), 1)
    with pytest.raises(OSError, match="no such bucket"):
        add(Store("gs://gone/some"), 1)


def test_they_stand_beside_the_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    path = "/gcs/bucket/root/job/task/adapter"
    assert beside_the_runs("/runs/a-run/task/adapter", "/runs/a-run/task/adapter") == "/runs/.checkpoints"
    assert beside_the_runs(path, "gs://bucket/root/job/task/adapter") == "gs://bucket/root/.checkpoints"
    (tmp_path / "bucket").mkdir()
    monkeypatch.setattr(environment, "GCS_MOUNT", tmp_path)
    assert beside_the_runs(path, "gs://bucket/root/job/task/adapter") == "/gcs/bucket/root/.checkpoints"
    assert beside_the_runs(path, "minio://mlpipeline/root/job/task/adapter") == ""
    assert "only on gs:// could a retry find them" in capsys.readouterr().out


def test_what_was_trained_is_known_by_its_manifest(tmp_path: Path) -> None:
    store = Store(str(tmp_path / ".checkpoints" / "some"))
    assert trained_to(tmp_path, 0.0) == 0
    add(store, 12)
    manifest = tmp_path / ".checkpoints" / "some" / "00000012.json"
    assert json.loads(manifest.read_text())["step"] == 12
    assert trained_to(tmp_path, 0.0) == 12
    assert trained_to(tmp_path, manifest.stat().st_mtime + 1) == 0


def test_of_two_that_train_the_same_one_writes(tmp_path: Path) -> None:
    first, second = Store(str(tmp_path / "same")), Store(str(tmp_path / "same"))
    assert first.take()
    assert not second.take()
    first.forget()
    assert second.take()
    second.leave()


def test_what_was_stopped_long_ago_is_given_up(tmp_path: Path) -> None:
    for name, days in (("lately", KEPT_DAYS - 1), ("long-ago", KEPT_DAYS + 1), ("still-trained", KEPT_DAYS + 1)):
        store = Store(str(tmp_path / name))
        assert store.take()
        add(store, 3)
        for path in (tmp_path / name).iterdir():
            os.utime(path, (time.time() - days * 86_400,) * 2)
        if name != "still-trained":
            store.leave()
    (tmp_path / "note.txt").write_text("of a person")
    assert forget_old(str(tmp_path)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lately", "note.txt", "still-trained"]
    store.leave()
    assert forget_old("gs://bucket/root/.checkpoints") == 0
