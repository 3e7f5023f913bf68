import tempfile
from pathlib import Path

import pytest

from rlhf_tuning import environment
from rlhf_tuning.data.output import scratch_folder, written_together


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


def test_a_scratch_folder_stands_beside_the_file_and_is_removed_with_what_is_in_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a"
    with scratch_folder(str(target)) as folder:
        (folder / "rows").write_bytes(b"rows")
        assert folder.parent == target.parent
        assert folder.name.startswith(".")
    assert list(target.parent.iterdir()) == []


def test_a_scratch_folder_is_removed_when_the_work_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with scratch_folder(str(tmp_path / "a")) as folder:
            (folder / "rows").write_bytes(b"rows")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_stays_off_a_mounted_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "GCS_MOUNT", tmp_path / "gcs")
    for beside in (str(tmp_path / "gcs" / "bucket" / "a"), ""):
        with scratch_folder(beside) as folder:
            assert folder.parent == Path(tempfile.gettempdir())
    assert list(tmp_path.iterdir()) == []
