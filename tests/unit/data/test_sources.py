import gzip
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from gcs_server import CloudStorage, Fault

from rlhf_tuning import cloud_storage, environment
from rlhf_tuning.data import sources
from rlhf_tuning.data.sources import LongLine, UnreadableError, read_blocks, resolve
from rlhf_tuning.errors import DataError

# The client forgets to close the connection on which it was refused.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def names(reference: object) -> list[str]:
    return [source.name for source in resolve(str(reference), parameter="prompt_dataset")]


def content(reference: object, **options: int) -> list[bytes | LongLine]:
    """Return the blocks of all files that are meant."""
    found = resolve(str(reference), parameter="prompt_dataset")
    return [block for source in found for block in read_blocks(source, parameter="prompt_dataset", **options)]


def before_error(reference: object, **options: int) -> tuple[bytes, UnreadableError]:
    """Return the text that comes before the error, and the error."""
    [source] = resolve(str(reference), parameter="prompt_dataset")
    blocks: list[bytes | LongLine] = []
    with pytest.raises(UnreadableError) as caught:
        blocks.extend(read_blocks(source, parameter="prompt_dataset", **options))
    return b"".join(blocks), caught.value


def numbered(count: int) -> bytes:
    """Return lines of which no two are alike, and which gzip cannot make much smaller."""
    return b"".join(b"%d %s\n" % (number, os.urandom(400).hex().encode()) for number in range(count))


def test_blocks_end_at_a_line_end_and_make_up_the_file(tmp_path: Path) -> None:
    text = b"one\ntwo\r\n\n" + b"x" * 50 + b"\nthree"
    (tmp_path / "a.jsonl").write_bytes(text)
    for block_bytes in range(3, 70):
        blocks = content(tmp_path, block_bytes=block_bytes)
        assert b"".join(blocks) == text
        assert all(block.endswith(b"\n") for block in blocks[:-1])
        assert all(len(block) <= block_bytes + 50 for block in blocks)
        assert all(blocks)
    assert content(tmp_path) == [text.removesuffix(b"three"), b"three"]


@pytest.mark.parametrize("text", [b"", b"\n", b"x", b"one\n"])
def test_the_smallest_files_are_read_whole(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(text)
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(text))
    assert content(tmp_path) == ([text] * 2 if text else [])


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_beyond_the_limit_is_named_in_its_place_but_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr(sources, "LINE_BYTES", 1000)
    lines = [b"a" * 1000, b"b" * 1001, b"c" * 1000, b"d" * 5000, b"e" * 5000, b"f", b"g" * 1001]
    for end in (b"", b"\n"):
        text = b"\n".join(lines) + end
        (tmp_path / "a.jsonl").write_bytes(gzip.compress(text) if packed else text)
        for block_bytes in (7, 100, 999, 1000, 10_000):
            found: list[bytes | LongLine] = []
            for block in content(tmp_path, block_bytes=block_bytes):
                found += [block] if isinstance(block, LongLine) else block.splitlines()
            assert found == [
                lines[0],
                LongLine(b"b" * 200, 1001),
                lines[2],
                LongLine(b"d" * 200, 5000),
                LongLine(b"e" * 200, 5000),
                lines[5],
                LongLine(b"g" * 200, 1001),
            ]


@pytest.mark.parametrize("packed", [False, True])
def test_memory_does_not_grow_with_the_file_or_with_one_line(tmp_path: Path, packed: bool) -> None:
    piece = b"x" * 2**20
    with gzip.open(tmp_path / "a.jsonl", "wb", 0) if packed else open(tmp_path / "a.jsonl", "wb") as file:
        for line_end in (b"\n",) * 20 + (b"",) * 30:
            file.write(piece + line_end)
    [source] = resolve(str(tmp_path), parameter="prompt_dataset")
    tracemalloc.start()
    last = deque(read_blocks(source, parameter="prompt_dataset"), maxlen=1).pop()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last == LongLine(b"x" * 200, 30 * 2**20)
    assert peak < sources.LINE_BYTES + 8 * 2**20


def test_a_folder_means_its_jsonl_files_by_name_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", "notes.txt", ".a.jsonl.7.partial", ".hidden.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jsonl").mkdir()
    assert names(tmp_path) == [str(tmp_path / "a.jsonl.gz"), str(tmp_path / "b.jsonl")]


def test_a_glob_matches_files_in_order_and_two_stars_cross_folders(tmp_path: Path) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    for name in ("x/y/c.jsonl", "x/b.jsonl", "a.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jsonl").mkdir()
    assert names(tmp_path / "*.jsonl") == [str(tmp_path / "a.jsonl")]
    assert names(tmp_path / "**" / "*.jsonl") == [str(tmp_path / n) for n in ("a.jsonl", "x/b.jsonl", "x/y/c.jsonl")]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "data[1].jsonl").touch()
    (tmp_path / "data1.jsonl").touch()
    assert names(tmp_path / "data[1].jsonl") == [str(tmp_path / "data[1].jsonl")]


def test_knows_gzip_by_content_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    (tmp_path / "b.jsonl.gz").write_bytes(b"three\n")
    assert content(tmp_path) == [b"one\ntwo\n", b"three\n"]


def test_reads_thousands_of_short_gzip_members_and_their_padding(tmp_path: Path) -> None:
    lines = [b"%d\n" % number for number in range(3000)]
    (tmp_path / "a.jsonl").write_bytes(b"".join(map(gzip.compress, lines)) + bytes(100_000))
    assert content(tmp_path) == [b"".join(lines)]
    assert b"".join(content(tmp_path, block_bytes=100)) == b"".join(lines)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "prompt_dataset is empty"),
        ("  ", "prompt_dataset is empty"),
        ("missing.jsonl", "no such file or folder"),
        ("empty_folder", "holds no \\*.jsonl file"),
        ("*.nothing", "no file matches it"),
        ("fifo", "not an ordinary file"),
        ("file/below.jsonl", "no such file or folder"),
        ("nul\0.jsonl", "which no file can be called"),
        ("s3://bucket/a.jsonl", "s3:// cannot be read"),
        ("gs:///a.jsonl", "names no bucket"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_names_parameter_path_and_remedy_when_nothing_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty_folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DataError, match=message) as caught:
        resolve(reference, parameter="prompt_dataset")
    assert str(caught.value).startswith("prompt_dataset")
    assert (repr(reference) in str(caught.value)) or reference.strip() in str(caught.value)


def test_says_who_must_be_let_in_when_a_file_is_closed_to_us(tmp_path: Path) -> None:
    def closed() -> Any:
        raise PermissionError(13, "Permission denied")

    source = sources.Source(name="a.jsonl", open=closed)
    with pytest.raises(DataError, match=r"prompt_dataset: a\.jsonl cannot be read: no permission"):
        list(read_blocks(source, parameter="prompt_dataset"))


@pytest.mark.parametrize("pattern", ["closed/*.jsonl", "*/*.jsonl", "**/*.jsonl", "*/inner/*.jsonl", "*/*/*.jsonl"])
def test_a_glob_does_not_take_a_folder_that_is_closed_to_us_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    for name in ("closed", "open"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "a.jsonl").write_text("{}")
        (tmp_path / name / "inner" / "a.jsonl").write_text("{}")
    assert resolve(str(tmp_path / pattern), parameter="prompt_dataset")
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"prompt_dataset: .* cannot be read: no permission"):
        resolve(str(tmp_path / pattern), parameter="prompt_dataset")


@pytest.mark.parametrize("reference", ["hf://datasets/Anthropic/hh-rlhf", "Anthropic/hh-rlhf"])
def test_a_dataset_of_the_hub_comes_with_the_way_to_export_it(reference: str) -> None:
    with pytest.raises(DataError, match=r"hf download --repo-type dataset.*rlhf convert"):
        resolve(reference, parameter="preference_dataset")


def test_says_when_a_folder_on_the_way_is_closed_to_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.stat

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(DataError, match=r"prompt_dataset: .*closed/a\.jsonl cannot be read: no permission"):
        resolve(str(tmp_path / "closed" / "a.jsonl"), parameter="prompt_dataset")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_gives_every_line_before_gzip_data_ends_early(tmp_path: Path, kept: float) -> None:
    text = numbered(2000)
    whole = gzip.compress(text)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: int(len(whole) * kept)])
    read, error = before_error(tmp_path)
    assert text.startswith(read)
    assert read.endswith(b"\n")
    # Gzip holds back a little of what it knows.
    assert len(read) > len(text) * kept * 0.95 - 2000
    assert str(error).startswith(
        f"prompt_dataset: {tmp_path / 'a.jsonl.gz'} cannot be read: its gzip data is damaged: it "
    )
    assert error.reason.startswith("its gzip data is damaged: it ends early, after ")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_gives_every_line_before_a_gzip_member_that_is_damaged(tmp_path: Path) -> None:
    first, second = numbered(300), numbered(300)
    damaged = bytearray(gzip.compress(second))
    damaged[len(damaged) // 2 :] = bytes(byte ^ 0x55 for byte in damaged[len(damaged) // 2 :])
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(first) + damaged)
    read, error = before_error(tmp_path)
    assert read.startswith(first + second[: int(len(second) * 0.47)])
    assert error.reason.startswith("its gzip data is damaged: it is not what was written, after ")


@pytest.mark.parametrize(
    "tail",
    [b"x", gzip.compress(b"two\n")[:-1], gzip.compress(b"two\n")[:-8] + bytes(8)],
    ids=["garbage", "short trailer", "wrong checksum"],
)
def test_gives_the_text_before_garbage_a_short_trailer_or_a_wrong_checksum(tmp_path: Path, tail: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b"one\n") + tail)
    read, error = before_error(tmp_path)
    assert read == (b"one\n" if tail == b"x" else b"one\ntwo\n")
    assert error.reason.endswith(f"after {len(read)} bytes of text. Copy the file again and compare its size.")


@pytest.mark.parametrize("change", ["append", "shorten", "touch", "replace", "delete"])
def test_says_when_a_file_changes_while_it_is_read(tmp_path: Path, change: str) -> None:
    (tmp_path / "target").write_bytes(b"one\n" * 1000)
    (tmp_path / "other").write_bytes(b"two\n" * 1000)
    path = tmp_path / "a.jsonl"
    path.symlink_to(tmp_path / "target")
    os.utime(tmp_path / "other", ns=(1, 1))
    [source] = resolve(str(path), parameter="prompt_dataset")
    blocks = read_blocks(source, parameter="prompt_dataset", block_bytes=100)
    next(blocks)
    if change == "append":
        with path.open("ab") as file:
            file.write(b"three\n")
    elif change == "shorten":
        os.truncate(path, 2)
    elif change == "touch":
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()
        if change == "replace":
            path.symlink_to(tmp_path / "other")
    with pytest.raises(
        UnreadableError, match=r"a\.jsonl cannot be read: it changed while it was being read\. Run again"
    ):
        list(blocks)


def test_a_change_explains_the_damage_that_it_did(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(numbered(2000)))
    [source] = resolve(str(tmp_path), parameter="prompt_dataset")
    blocks = read_blocks(source, parameter="prompt_dataset", block_bytes=1000)
    next(blocks)
    os.truncate(tmp_path / "a.jsonl", 100_000)
    with pytest.raises(UnreadableError, match="it changed while it was being read"):
        list(blocks)


def test_a_mount_that_says_stale_says_changed(tmp_path: Path) -> None:
    def stale() -> Any:
        raise OSError(116, "Stale file handle")

    with pytest.raises(UnreadableError, match="it changed while it was being read"):
        list(read_blocks(sources.Source(name="a", open=stale), parameter="prompt_dataset"))


def test_knows_the_size_and_may_be_sent_to_another_process(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"one\n")
    [source] = pickle.loads(pickle.dumps(resolve(str(tmp_path), parameter="prompt_dataset")))
    assert source.size == 4
    assert list(read_blocks(source, parameter="prompt_dataset")) == [b"one\n"]


def test_lets_errors_that_are_not_of_reading_through() -> None:
    def broken() -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(read_blocks(sources.Source(name="a", open=broken), parameter="prompt_dataset"))


def test_importing_sources_does_not_import_google_cloud() -> None:
    code = "import sys, rlhf_tuning.data.check; sys.exit('google.cloud.storage' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Cloud Storage: the real client against the server of these tests.


def put_all(cloud: CloudStorage, *objects: str) -> None:
    for name in objects:
        cloud.put(name, b"")


@pytest.fixture
def pieces(cloud: CloudStorage, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Store `a.jsonl` of 40 kB, which is fetched in pieces of 10 kB, and return its text."""
    monkeypatch.setattr(cloud_storage, "_DOWNLOAD_BYTES", 10_000)
    text = numbered(50)[:40_000]
    cloud.put("a.jsonl", text)
    return text


def test_reads_one_cloud_object(cloud: CloudStorage) -> None:
    cloud.put("a.jsonl", b"one\ntwo\n")
    assert names("gs://bucket/a.jsonl") == ["gs://bucket/a.jsonl"]
    assert content("gs://bucket/a.jsonl") == [b"one\ntwo\n"]


def test_an_empty_cloud_object_has_no_blocks(cloud: CloudStorage) -> None:
    cloud.put("a.jsonl", b"")
    assert content("gs://bucket/a.jsonl") == []


def test_knows_the_size_of_an_object_and_may_send_it_to_another_process(cloud: CloudStorage) -> None:
    cloud.put("a.jsonl", b"one\n")
    [source] = pickle.loads(pickle.dumps(resolve("gs://bucket/a.jsonl", parameter="prompt_dataset")))
    assert source.size == 4
    assert list(read_blocks(source, parameter="prompt_dataset")) == [b"one\n"]


def test_streams_a_cloud_object_in_pieces(cloud: CloudStorage, pieces: bytes) -> None:
    assert b"".join(content("gs://bucket/a.jsonl", block_bytes=3000)) == pieces
    assert cloud.downloads == ["0-9999", "10000-19999", "20000-29999", "30000-39999"]


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_unpacks_a_gzip_object_once_whether_or_not_it_is_marked_as_such(
    cloud: CloudStorage, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setattr(cloud_storage, "_DOWNLOAD_BYTES", 10_000)
    text = numbered(50)
    cloud.put("a.jsonl", gzip.compress(text), content_encoding=encoding)
    cloud.download_faults.extend([Fault(), Fault(after=5000)])
    assert b"".join(content("gs://bucket/a.jsonl")) == text
    assert len(cloud.downloads) > 2


def test_reads_many_shards_in_order_over_several_pages(cloud: CloudStorage) -> None:
    cloud.page_size = 7
    for number in range(30):
        cloud.put(f"d/{number:02}.jsonl", b"%d\n" % number)
    for reference in ("gs://bucket/d", "gs://bucket/d/*.jsonl", "gs://bucket/**"):
        assert content(reference) == [b"%d\n" % number for number in range(30)]
    assert cloud.pages == 3 * 5


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(status=503)] * 3,
        [Fault(status=429)] * 3,
        [Fault(status=500), Fault(status=408)],
        [Fault(after=0)] * 2,
        [Fault(after=9000)],
        [Fault(after=9000, then="close"), Fault(after=500, then="close")],
        [Fault(after=9000, then="short"), Fault(after=1, then="short")],
        [Fault(), Fault(after=9999), Fault(status=503), Fault(after=1, then="close"), Fault(after=3, then="short")],
        [Fault(after=8500, then="stall")],
    ],
)
def test_asks_again_from_the_byte_where_the_service_failed(
    cloud: CloudStorage, pieces: bytes, monkeypatch: pytest.MonkeyPatch, faults: list[Fault]
) -> None:
    monkeypatch.setattr(cloud_storage, "_STALL_SECONDS", 0.1)
    cloud.download_faults.extend(faults)
    assert b"".join(content("gs://bucket/a.jsonl", block_bytes=3000)) == pieces
    assert len(cloud.downloads) >= 4
    assert not cloud.download_faults


def test_asks_only_for_what_has_not_come(cloud: CloudStorage, pieces: bytes) -> None:
    cloud.download_faults.append(Fault(after=9000))
    content("gs://bucket/a.jsonl")
    assert cloud.downloads[:3] == ["0-9999", "9000-9999", "10000-19999"]


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(status=429)])
def test_lists_again_when_the_service_fails(cloud: CloudStorage, fault: Fault) -> None:
    cloud.page_size = 1
    put_all(cloud, "a.jsonl", "b.jsonl")
    cloud.list_faults.extend([fault, fault, Fault(), fault])
    assert names("gs://bucket/*.jsonl") == ["gs://bucket/a.jsonl", "gs://bucket/b.jsonl"]
    cloud.list_faults.extend([fault, fault])
    assert names("gs://bucket/a.jsonl") == ["gs://bucket/a.jsonl"]


def test_has_time_as_long_as_bytes_come(cloud: CloudStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_storage, "RETRY_SECONDS", 1.5)
    text = numbered(200)
    cloud.put("a.jsonl", text)
    # Each attempt brings a little; all of them take twice as long as they may without any byte.
    pause = cloud.stop.wait
    cloud.download_faults.extend([Fault(after=9000, first=lambda: pause(0.3))] * 10)
    assert b"".join(content("gs://bucket/a.jsonl")) == text


@pytest.mark.parametrize(
    ("fault", "last"),
    [
        (Fault(status=503), "HTTP status 503"),
        (Fault(after=0), "Connection (broken|aborted)"),
    ],
)
def test_gives_up_with_the_time_it_tried_and_the_last_failure(
    cloud: CloudStorage, pieces: bytes, monkeypatch: pytest.MonkeyPatch, fault: Fault, last: str
) -> None:
    monkeypatch.setattr(cloud_storage, "RETRY_SECONDS", 1.5)
    monkeypatch.setattr(cloud_storage, "RETRY_DELAY_SECONDS", 0.05)
    cloud.download_faults.extend([Fault()] + [fault] * 1000)
    read, error = before_error("gs://bucket/a.jsonl", block_bytes=1000)
    assert pieces.startswith(read)
    assert len(read) > 9000
    assert 3 <= len(cloud.downloads) < 100  # the waits are drawn by chance
    assert error.reason.startswith("Cloud Storage sent nothing for 1.5 seconds, however often it was asked.")
    assert re.search(f"The last failure: .*{last}", error.reason)


def test_gives_up_on_a_list_too(cloud: CloudStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_storage, "RETRY_SECONDS", 0.1)
    cloud.list_faults.extend([Fault(status=503)] * 1000)
    with pytest.raises(DataError, match=r"^eval_dataset: gs://bucket/\* cannot be read: Cloud Storage sent nothing"):
        resolve("gs://bucket/*", parameter="eval_dataset")


def test_gives_up_when_nobody_answers(cloud: CloudStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_storage, "RETRY_SECONDS", 0.05)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    with pytest.raises(DataError, match=r"sent nothing for 0\.05 seconds.*Run again later.*[Cc]onnection"):
        resolve("gs://bucket/a.jsonl", parameter="eval_dataset")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "no Google Cloud credentials work"),
        (403, "roles/storage.objectViewer"),
        (404, "it changed"),
        (400, "400 .*refused"),
    ],
)
def test_does_not_repeat_what_will_not_get_better(
    cloud: CloudStorage, pieces: bytes, status: int, message: str
) -> None:
    cloud.download_faults.extend([Fault(), Fault(status=status)])
    read, error = before_error("gs://bucket/a.jsonl", block_bytes=1000)
    assert pieces.startswith(read)
    assert len(read) > 9000
    assert re.search(message, error.reason)
    assert len(cloud.downloads) == 2


def test_an_object_that_ends_before_its_size_is_never_taken_for_whole(cloud: CloudStorage, pieces: bytes) -> None:
    cloud.download_faults.extend([Fault(), Fault(after=0, then="short")])
    _, error = before_error("gs://bucket/a.jsonl")
    assert error.reason == "it ended after 10,000 of 40,000 bytes."


def test_refuses_other_bytes_than_it_asked_for(cloud: CloudStorage, pieces: bytes) -> None:
    cloud.download_faults.extend([Fault(), Fault(ignore_range=True)])
    assert "other bytes than the range" in before_error("gs://bucket/a.jsonl")[1].reason
    # The right number of bytes, from the wrong place.
    cloud.download_faults.extend([Fault(), Fault(ignore_range=True, after=10_000, then="short")])
    assert "checksum of the object" in before_error("gs://bucket/a.jsonl")[1].reason


@pytest.mark.parametrize("when", ["before the first range", "between two ranges", "within a range", "deleted"])
def test_says_when_an_object_changes_after_it_was_listed(cloud: CloudStorage, pieces: bytes, when: str) -> None:
    def change() -> None:
        if when == "deleted":
            cloud.delete("a.jsonl")
        else:
            cloud.put("a.jsonl", pieces)

    faults = {
        "before the first range": [Fault(first=change)],
        "within a range": [Fault(), Fault(after=9000), Fault(first=change)],
    }
    cloud.download_faults.extend(faults.get(when, [Fault(), Fault(first=change)]))
    read, error = before_error("gs://bucket/a.jsonl", block_bytes=1000)
    assert pieces.startswith(read)
    assert error.reason == "it changed while it was being read. Run again when nothing writes to it."


@pytest.mark.parametrize("reference", ["gs://bucket/train", "gs://bucket/train/"])
def test_a_cloud_folder_means_the_jsonl_objects_directly_in_it(cloud: CloudStorage, reference: str) -> None:
    inside = ["train/", "train/c.jsonl", "train/a.jsonl", "train/b.jsonl.gz", "train/notes.txt", "train/x/d.jsonl"]
    put_all(cloud, *inside, "training.jsonl", "train.jsonl")
    assert names(reference) == [f"gs://bucket/train/{name}" for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl")]


def test_a_whole_bucket_means_the_jsonl_objects_at_its_top(cloud: CloudStorage) -> None:
    put_all(cloud, "a.jsonl", "x/b.jsonl")
    assert names("gs://bucket") == names("gs://bucket/") == ["gs://bucket/a.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*.jsonl", ["a.jsonl"]),
        ("d/*.jsonl", ["d/b-1.jsonl", "d/b-2.jsonl", "d/b-x.jsonl"]),
        ("d/b-[0-9].jsonl", ["d/b-1.jsonl", "d/b-2.jsonl"]),
        ("d/b-[!0-9].jsonl", ["d/b-x.jsonl"]),
        ("?/b-1.jsonl", ["d/b-1.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "d/b-1.jsonl", "d/b-2.jsonl", "d/b-x.jsonl", "d/e/c.jsonl"]),
        ("d/**", ["d/b-1.jsonl", "d/b-2.jsonl", "d/b-x.jsonl", "d/e/c.jsonl"]),
    ],
)
def test_a_cloud_glob_means_what_a_local_glob_means(cloud: CloudStorage, pattern: str, matched: list[str]) -> None:
    put_all(cloud, "a.jsonl", "d/b-1.jsonl", "d/b-2.jsonl", "d/b-x.jsonl", "d/e/c.jsonl", "d/", "d/e/")
    assert names(f"gs://bucket/{pattern}") == [f"gs://bucket/{name}" for name in matched]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("gs://bucket/missing.jsonl", "no such object"),
        ("gs://bucket/*.nothing", "no object matches it"),
        ("gs://other/a.jsonl", "no such object|no such bucket"),
        ("gs://_/a.jsonl", "no valid address"),
    ],
)
def test_names_the_cloud_address_when_nothing_stands_there(cloud: CloudStorage, reference: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        resolve(reference, parameter="eval_dataset")
    assert "eval_dataset" in str(caught.value)
    assert reference in str(caught.value)


def test_names_the_role_to_grant_when_a_bucket_is_closed_to_us(cloud: CloudStorage) -> None:
    cloud.list_faults.append(Fault(status=403))
    with pytest.raises(DataError, match=r"gs://bucket/a\.jsonl cannot be read: .*roles/storage\.objectViewer"):
        resolve("gs://bucket/a.jsonl", parameter="prompt_dataset")


def test_passes_on_what_the_service_says_about_any_other_failure(cloud: CloudStorage) -> None:
    cloud.list_faults.append(Fault(status=400))
    with pytest.raises(DataError, match=r"gs://bucket/\*\.jsonl cannot be read: 400 .*refused"):
        resolve("gs://bucket/*.jsonl", parameter="prompt_dataset")


def test_says_how_to_log_in_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    def default(**_: object) -> object:
        raise DefaultCredentialsError("nothing found")  # type: ignore[no-untyped-call]

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google.auth, "default", default)
    cloud_storage._client.cache_clear()
    with pytest.raises(DataError, match="gcloud auth application-default login"):
        resolve("gs://bucket/a.jsonl", parameter="prompt_dataset")


def test_reads_through_the_mount_where_a_bucket_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "GCS_MOUNT", tmp_path)
    (tmp_path / "bucket" / "d").mkdir(parents=True)
    (tmp_path / "bucket" / "d" / "a.jsonl").write_bytes(b"one\n")
    for reference in ("gs://bucket/d/a.jsonl", "gs://bucket/d/", "gs://bucket/d", "gs://bucket/**/*.jsonl"):
        assert names(reference) == ["gs://bucket/d/a.jsonl"]
        assert content(reference) == [b"one\n"]
    with pytest.raises(DataError, match=r"'gs://bucket/b\.jsonl', but there is no such file"):
        resolve("gs://bucket/b.jsonl", parameter="prompt_dataset")
