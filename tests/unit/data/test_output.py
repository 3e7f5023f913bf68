import tempfile
from pathlib import Path

import pytest

from rlhf_tuning.data import output
from rlhf_tuning.data.output import scratch_file, written_together


def test_files_appear_with_their_folders_when_all_is_written(tmp_path: Path) -> None:
    first, second = tmp_path / "x" / "a", tmp_path / "y" / "b"
    with written_together(str(first), str(second)) as (one, two):
        one.write(b"1")
        two.write(b"2")
        assert not first.exists()
        assert not second.exists()
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a", "b"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_earlier_files_and_nothing_half_written(tmp_path: Path, error: type[BaseException]) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"earlier")

    def stopped() -> None:
        with written_together(str(first), str(second)) as (one, _):
            one.write(b"half")
            raise error

    with pytest.raises(error):
        stopped()
    assert first.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [first]


def test_a_folder_that_cannot_be_made_surfaces_as_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), written_together(str(tmp_path / "a"), str(tmp_path / "file" / "b")):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_scratch_file_has_no_name_and_reads_back(tmp_path: Path) -> None:
    with scratch_file(str(tmp_path / "a")) as stream:
        stream.write(b"rows")
        stream.seek(0)
        assert stream.read() == b"rows"
        assert list(tmp_path.iterdir()) == []


def test_a_scratch_file_stays_off_a_mounted_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path | None] = []
    monkeypatch.setattr(output, "GCS_MOUNT", tmp_path / "gcs")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: folders.append(dir))
    scratch_file(str(tmp_path / "gcs" / "bucket" / "a"))
    scratch_file(str(tmp_path / "a"))
    assert folders == [None, tmp_path]
