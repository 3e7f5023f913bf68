"""Where buckets are mounted, and where something else is. How objects are read, the tests of `data.sources` show."""

from pathlib import Path

import pytest
from gcs_server import CloudStorage
from pod import python_in_a_pod

from rlhf_tuning import cloud_storage, environment

#: As Linux writes it: two file systems at one place, the one above last; a blank in a name; a bucket mounted by itself.
MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
40 27 0:50 / /gcs rw,relatime - ext4 /dev/sda1 rw
41 40 0:51 / /gcs rw,relatime shared:1 - {kind} {source} rw,user_id=0,group_id=0,allow_other
42 27 0:52 / /with\\040blank rw,relatime master:2 - fuse.gcsfuse other rw
43 41 0:53 / /gcs/alone rw,relatime - fuse bucket rw
"""


def test_reads_the_kind_of_every_mount(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS.format(kind="tmpfs", source="tmpfs"))
    assert cloud_storage.mounts(table) == {
        "/proc": "proc",
        "/gcs": "tmpfs",
        "/with blank": "fuse.gcsfuse",
        "/gcs/alone": "fuse",
    }
    assert cloud_storage.mounts(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("kind", "alone", "other"),
    [
        ("fuse.gcsfuse", True, True),  # Vertex
        ("fuse", True, True),  # an older gcsfuse
        ("tmpfs", True, False),  # Kubeflow's scratch volume, and one bucket mounted over it
        ("ext4", True, False),
    ],
)
def test_a_bucket_is_mounted_where_a_file_system_of_its_kind_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, alone: bool, other: bool
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS.format(kind=kind, source="x"))
    found = cloud_storage.mounts(table)
    monkeypatch.setattr(cloud_storage, "mounts", lambda: found)
    assert cloud_storage.mounted("gs://alone/a") == (Path("/gcs/alone/a") if alone else None)
    assert cloud_storage.mounted("gs://other/b/c") == (Path("/gcs/other/b/c") if other else None)


def test_a_folder_that_was_named_is_taken_for_the_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "GCS_MOUNT", tmp_path)
    (tmp_path / "bucket").mkdir()
    assert cloud_storage.mounted("gs://bucket/a") == tmp_path / "bucket" / "a"
    assert cloud_storage.mounted("gs://other/a") is None


def test_the_empty_volume_that_kubeflow_mounts_at_gcs_is_no_bucket(cloud: CloudStorage, tmp_path: Path) -> None:
    cloud.put("data/a.jsonl", b"one\n")
    code = (
        "import os\n"
        "from rlhf_tuning.data.sources import read_blocks, read_object, resolve\n"
        "assert os.path.ismount('/gcs')\n"
        "os.makedirs('/gcs/bucket/data')  # as Kubeflow's launcher does for outputs in the same bucket\n"
        "[source] = resolve('gs://bucket/data', parameter='prompt_dataset')\n"
        "print(source.name, *read_blocks(source, parameter='prompt_dataset'))\n"
        "print(read_object('gs://bucket/data/a.jsonl', parameter='judge_rubric'))\n"
    )
    told = python_in_a_pod(code, root=tmp_path, scratch=("/gcs",))
    assert told == "gs://bucket/data/a.jsonl b'one\\n'\nb'one\\n'\n"
