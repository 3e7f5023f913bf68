import gzip
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from rlhf_tuning.data import sources
from rlhf_tuning.data.sources import read_lines, resolve
from rlhf_tuning.errors import DataError


def names(reference: object) -> list[str]:
    return [source.name for source in resolve(str(reference), parameter="prompt_dataset")]


def content(reference: object) -> list[tuple[int, bytes]]:
    found = resolve(str(reference), parameter="prompt_dataset")
    return [numbered for source in found for numbered in read_lines(source, parameter="prompt_dataset")]


def test_numbers_the_lines_of_a_file_from_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"one\ntwo\r\nthree")
    assert content(tmp_path / "a.jsonl") == [(1, b"one\n"), (2, b"two\r\n"), (3, b"three")]


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
    assert [line for _, line in content(tmp_path)] == [b"one\n", b"two\n", b"three\n"]


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
        list(read_lines(source, parameter="prompt_dataset"))


def test_says_when_a_folder_on_the_way_is_closed_to_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.stat

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(DataError, match=r"prompt_dataset: .*closed/a\.jsonl cannot be read: no permission"):
        resolve(str(tmp_path / "closed" / "a.jsonl"), parameter="prompt_dataset")


def test_says_when_gzip_data_ends_early(tmp_path: Path) -> None:
    whole = gzip.compress(os.urandom(5000))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"prompt_dataset: .*a\.jsonl\.gz cannot be read: its gzip data is damaged"):
        content(tmp_path)


def test_lets_errors_that_are_not_of_reading_through() -> None:
    def broken() -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(read_lines(sources.Source(name="a", open=broken), parameter="prompt_dataset"))


def test_importing_sources_does_not_import_google_cloud() -> None:
    code = "import sys, rlhf_tuning.data.check; sys.exit('google.cloud.storage' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Cloud Storage: the real client against a server of this test.


class Bucket:
    """The objects of one bucket, and what the server was asked."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.generation = 1
        self.status = 200
        self.ranges: list[str] = []


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    stored = Bucket()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            match = re.fullmatch(r"(/download)?/storage/v1/b/bucket/o(?:/(.*))?", url.path)
            name = unquote(match[2] or "") if match else ""
            if stored.status != 200:
                self.answer(stored.status, {"error": {"code": stored.status, "message": "refused"}})
            elif match is None or (name and name not in stored.objects):
                self.answer(404, {"error": {"code": 404, "message": "not found"}})
            elif not name:
                below = [n for n in sorted(stored.objects) if n.startswith(query.get("prefix", ""))]
                if "delimiter" in query:
                    below = [n for n in below if "/" not in n.removeprefix(query.get("prefix", ""))]
                # Two to a page, so that paging is part of what is tested.
                start = int(query.get("pageToken", "0"))
                page: dict[str, object] = {"items": [self.item(n) for n in below[start : start + 2]]}
                if start + 2 < len(below):
                    page["nextPageToken"] = str(start + 2)
                self.answer(200, page)
            elif match[1] is None:
                self.answer(200, self.item(name))
            elif query.get("ifGenerationMatch", str(stored.generation)) != str(stored.generation):
                self.answer(412, {"error": {"code": 412, "message": "precondition"}})
            else:
                self.send_range(stored.objects[name])

        def item(self, name: str) -> dict[str, object]:
            size = str(len(stored.objects[name]))
            return {"name": name, "bucket": "bucket", "size": size, "generation": str(stored.generation)}

        def answer(self, status: int, body: object) -> None:
            self.send_bytes(status, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def send_range(self, data: bytes) -> None:
            stored.ranges.append(self.headers["Range"])
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            if int(first) >= len(data):
                self.send_bytes(416, b"", {})
                return
            piece = data[int(first) : int(last) + 1]
            span = f"bytes {first}-{int(first) + len(piece) - 1}/{len(data)}"
            self.send_bytes(206, piece, {"Content-Range": span})

        def send_bytes(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    yield stored
    server.shutdown()
    server.server_close()
    thread.join()


def test_reads_one_cloud_object(bucket: Bucket) -> None:
    bucket.objects = {"a.jsonl": b"one\ntwo\n"}
    assert names("gs://bucket/a.jsonl") == ["gs://bucket/a.jsonl"]
    assert content("gs://bucket/a.jsonl") == [(1, b"one\n"), (2, b"two\n")]


def test_streams_a_cloud_object_in_pieces(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_DOWNLOAD_BYTES", 256 * 1024)
    lines = [b"%d %s\n" % (number, b"x" * 1000) for number in range(600)]
    bucket.objects = {"a.jsonl": b"".join(lines)}
    assert [line for _, line in content("gs://bucket/a.jsonl")] == lines
    assert len(bucket.ranges) >= 2


def test_unpacks_a_cloud_object_stored_with_gzip(bucket: Bucket) -> None:
    bucket.objects = {"a.jsonl": gzip.compress(b"one\n")}
    assert content("gs://bucket/a.jsonl") == [(1, b"one\n")]


@pytest.mark.parametrize("reference", ["gs://bucket/train", "gs://bucket/train/"])
def test_a_cloud_folder_means_the_jsonl_objects_directly_in_it(bucket: Bucket, reference: str) -> None:
    inside = ["train/", "train/c.jsonl", "train/a.jsonl", "train/b.jsonl.gz", "train/notes.txt", "train/x/d.jsonl"]
    bucket.objects = dict.fromkeys([*inside, "training.jsonl", "train.jsonl"], b"")
    assert names(reference) == [f"gs://bucket/train/{name}" for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl")]


def test_a_whole_bucket_means_the_jsonl_objects_at_its_top(bucket: Bucket) -> None:
    bucket.objects = {"a.jsonl": b"", "x/b.jsonl": b""}
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
def test_a_cloud_glob_means_what_a_local_glob_means(bucket: Bucket, pattern: str, matched: list[str]) -> None:
    objects = ["a.jsonl", "d/b-1.jsonl", "d/b-2.jsonl", "d/b-x.jsonl", "d/e/c.jsonl"]
    bucket.objects = dict.fromkeys([*objects, "d/", "d/e/"], b"")
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
def test_names_the_cloud_address_when_nothing_stands_there(bucket: Bucket, reference: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        resolve(reference, parameter="eval_dataset")
    assert "eval_dataset" in str(caught.value)
    assert reference in str(caught.value)


def test_names_the_role_to_grant_when_a_bucket_is_closed_to_us(bucket: Bucket) -> None:
    bucket.status = 403
    with pytest.raises(DataError, match=r"gs://bucket/a\.jsonl cannot be read: .*roles/storage\.objectViewer"):
        resolve("gs://bucket/a.jsonl", parameter="prompt_dataset")


def test_passes_on_what_the_service_says_about_any_other_failure(bucket: Bucket) -> None:
    bucket.status = 400
    with pytest.raises(DataError, match=r"gs://bucket/\*\.jsonl cannot be read: 400 .*refused"):
        resolve("gs://bucket/*.jsonl", parameter="prompt_dataset")


def test_says_when_an_object_changed_after_it_was_listed(bucket: Bucket) -> None:
    bucket.objects = {"a.jsonl": b"one\n"}
    [source] = resolve("gs://bucket/a.jsonl", parameter="prompt_dataset")
    bucket.generation = 2
    with pytest.raises(DataError, match="it changed while it was being read"):
        list(read_lines(source, parameter="prompt_dataset"))


def test_says_how_to_log_in_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    def default(**_: object) -> object:
        raise DefaultCredentialsError("nothing found")  # type: ignore[no-untyped-call]

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google.auth, "default", default)
    with pytest.raises(DataError, match="gcloud auth application-default login"):
        resolve("gs://bucket/a.jsonl", parameter="prompt_dataset")


def test_reads_through_the_mount_where_a_bucket_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "GCS_MOUNT", tmp_path)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "bucket")
    (tmp_path / "bucket" / "d").mkdir(parents=True)
    (tmp_path / "bucket" / "d" / "a.jsonl").write_bytes(b"one\n")
    for reference in ("gs://bucket/d/a.jsonl", "gs://bucket/d/", "gs://bucket/d", "gs://bucket/**/*.jsonl"):
        assert names(reference) == ["gs://bucket/d/a.jsonl"]
        assert content(reference) == [(1, b"one\n")]
    with pytest.raises(DataError, match=r"'gs://bucket/b\.jsonl', but there is no such file"):
        resolve("gs://bucket/b.jsonl", parameter="prompt_dataset")
