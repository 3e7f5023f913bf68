"""A Cloud Storage server on this machine for the real client: its JSON API for objects, and faults on demand.

`STORAGE_EMULATOR_HOST` leads the client here. It answers as the service documents it: pages of a list, ranges,
generations (412 and 404), objects marked as gzip that it unpacks for those who do not accept gzip, and checksums.
The packaged emulators know neither preconditions nor pages, and none can break a connection.
"""

import base64
import gzip
import json
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
from local_http import served


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with one request.

    Args:
        status: Answer with this status instead.
        after: Send only so many bytes of the body.
        then: What follows them. `reset` and `close` end the connection, `stall` keeps it open and silent, and `short`
            had announced no more than that, as some proxies do.
        ignore_range: Send the whole object, whatever was asked.
        first: Do this before answering.
    """

    status: int = 0
    after: int | None = None
    then: Literal["reset", "close", "stall", "short"] = "reset"
    ignore_range: bool = False
    first: Callable[[], object] = bool


@dataclass
class StoredObject:
    """One object, of which only the last generation is kept."""

    data: bytes
    generation: int
    content_encoding: str = ""

    def metadata(self, bucket: str, name: str) -> dict[str, object]:
        found = {
            "kind": "storage#object",
            "name": name,
            "bucket": bucket,
            "size": str(len(self.data)),
            "generation": str(self.generation),
            "crc32c": self.crc32c(),
        }
        return found | ({"contentEncoding": self.content_encoding} if self.content_encoding else {})

    def crc32c(self) -> str:
        return base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()


@dataclass
class CloudStorage:
    """What the server stores, what it was asked, and what shall go wrong.

    Args:
        page_size: The most objects in one page of a list.
        download_faults: For one download after the other, from the left.
        list_faults: For one request of a list or of an object's metadata after the other.
        bucket_faults: For one request of a bucket's metadata after the other, which the client also makes by itself.
        write_faults: For one upload or deletion after the other; of a fault the status alone counts.
        downloads: The range of every download, `FIRST-LAST`.
        pages: How many pages of lists were sent.
        faults_happened: Whether there was any fault so far.
        address: The value for `STORAGE_EMULATOR_HOST`.
        buckets: What is stored, by bucket and name.
        metadata: What a bucket says of itself, by bucket.
        stop: Set at the end; those who wait can wait for this.
    """

    page_size: int = 1000
    download_faults: deque[Fault] = field(default_factory=deque)
    list_faults: deque[Fault] = field(default_factory=deque)
    bucket_faults: deque[Fault] = field(default_factory=deque)
    write_faults: deque[Fault] = field(default_factory=deque)
    downloads: list[str] = field(default_factory=list)
    pages: int = 0
    faults_happened: bool = False
    address: str = ""
    buckets: dict[str, dict[str, StoredObject]] = field(default_factory=lambda: {"bucket": {}})
    metadata: dict[str, dict[str, object]] = field(
        default_factory=lambda: {
            "bucket": {"location": "US-CENTRAL1", "locationType": "region", "projectNumber": "123456789"}
        }
    )
    stop: threading.Event = field(default_factory=threading.Event)
    _generation: int = 1_700_000_000_000_000

    def put(self, name: str, data: bytes, *, content_encoding: str = "") -> None:
        """Store an object in the bucket called `bucket`, as a new generation."""
        self._generation += 1
        self.buckets["bucket"][name] = StoredObject(data, self._generation, content_encoding)

    def delete(self, name: str) -> None:
        """Delete an object of that bucket."""
        del self.buckets["bucket"][name]


@contextmanager
def serve_cloud_storage() -> Iterator[CloudStorage]:
    """Serve an empty bucket called `bucket` until the block ends."""
    cloud = CloudStorage()

    class Handler(_Handler):
        storage = cloud

    with served(Handler) as cloud.address:
        try:
            yield cloud
        finally:
            cloud.stop.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    storage: CloudStorage

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client may reset what we broke, or what it no longer needs
            super().handle()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        match = re.fullmatch(r"(/download)?/storage/v1/b/([^/]+)/o(?:/(.*))?", url.path)
        if match is None:
            return self._get_bucket(unquote(url.path).removeprefix("/storage/v1/b/"))
        is_download, bucket, name = match[1] is not None, unquote(match[2]), unquote(match[3] or "")
        if is_download:
            self.storage.downloads.append(self.headers.get("Range", "").removeprefix("bytes="))
        faults = self.storage.download_faults if is_download else self.storage.list_faults
        self.storage.faults_happened |= bool(faults)
        fault = faults.popleft() if faults else Fault()
        fault.first()
        stored = self.storage.buckets.get(bucket)
        if fault.status:
            return self._refuse(fault.status, "refused")
        if stored is None:
            return self._refuse(404, "The specified bucket does not exist.")
        if not name:
            return self._list(bucket, stored, query)
        found = stored.get(name)
        if found is None or query.get("generation", str(found.generation)) != str(found.generation):
            return self._refuse(404, f"No such object: {bucket}/{name}")
        if query.get("ifGenerationMatch", str(found.generation)) != str(found.generation):
            return self._refuse(412, "At least one of the pre-conditions you specified did not hold.")
        if not is_download:
            return self._answer_json(200, found.metadata(bucket, name))
        return self._download(found, fault)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._write_refused(re.split(r"/b/|/o", self.path)[1]):
            return None
        # As the client puts the parts together: metadata, then content.
        boundary = b"--" + self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
        described, content = body.split(boundary)[1:3]
        name = json.loads(described.partition(b"\r\n\r\n")[2])["name"]
        self.storage.put(name, content.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))
        return self._answer_json(200, self.storage.buckets["bucket"][name].metadata("bucket", name))

    def do_DELETE(self) -> None:
        bucket, name = re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.*)", urlsplit(self.path).path).groups()  # type: ignore[union-attr]
        if self._write_refused(bucket):
            return None
        if unquote(name) not in self.storage.buckets["bucket"]:
            return self._refuse(404, f"No such object: {bucket}/{name}")
        self.storage.delete(unquote(name))
        return self._answer(204, b"", {}, Fault())

    def _write_refused(self, bucket: str) -> bool:
        fault = self.storage.write_faults.popleft() if self.storage.write_faults else Fault()
        if fault.status:
            self._refuse(fault.status, "refused")
        elif bucket not in self.storage.buckets:
            self._refuse(404, "The specified bucket does not exist.")
        else:
            return False
        return True

    def _get_bucket(self, bucket: str) -> None:
        fault = self.storage.bucket_faults.popleft() if self.storage.bucket_faults else Fault()
        if fault.status:
            return self._refuse(fault.status, "refused")
        if bucket not in self.storage.metadata:
            return self._refuse(404, "The specified bucket does not exist.")
        self._answer_json(200, {"kind": "storage#bucket", "name": bucket} | self.storage.metadata[bucket])

    def _list(self, bucket: str, stored: dict[str, StoredObject], query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        below = [name for name in sorted(stored) if name.startswith(prefix)]
        if delimiter:
            below = [name for name in below if delimiter not in name.removeprefix(prefix)]
        start = int(query.get("pageToken", "0"))
        end = start + self.storage.page_size
        items = [stored[name].metadata(bucket, name) for name in below[start:end]]
        # The service leaves `items` out of an empty page.
        page: dict[str, object] = {"kind": "storage#objects"} | ({"items": items} if items else {})
        if end < len(below):
            page["nextPageToken"] = str(end)
        self.storage.pages += 1
        self._answer_json(200, page)

    def _download(self, found: StoredObject, fault: Fault) -> None:
        data, status = found.data, 200
        headers = {
            "Content-Type": "application/octet-stream",
            "X-Goog-Generation": str(found.generation),
            "X-Goog-Hash": f"crc32c={found.crc32c()}",
            "X-Goog-Stored-Content-Encoding": found.content_encoding or "identity",
            "X-Goog-Stored-Content-Length": str(len(data)),
        }
        wanted = self.headers.get("Range", "")
        if found.content_encoding == "gzip" and "gzip" not in self.headers.get("Accept-Encoding", ""):
            data, wanted = gzip.decompress(data), ""
            headers["X-Guploader-Response-Body-Transformations"] = "gunzipped"
        elif found.content_encoding:
            headers["Content-Encoding"] = found.content_encoding
        if wanted and not fault.ignore_range:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last or len(data)) + 1, len(data))
            if start >= len(data):
                return self._refuse(416, "Requested range not satisfiable")
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            data, status = data[start:end], 206
        self._answer(status, data, headers, fault)

    def _refuse(self, status: int, message: str) -> None:
        self._answer_json(status, {"error": {"code": status, "message": message, "errors": [{"message": message}]}})

    def _answer_json(self, status: int, body: object) -> None:
        self._answer(status, json.dumps(body).encode(), {"Content-Type": "application/json; charset=UTF-8"}, Fault())

    def _answer(self, status: int, body: bytes, headers: dict[str, str], fault: Fault) -> None:
        sent = body if fault.after is None else body[: fault.after]
        length = len(sent if fault.then == "short" else body)
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(sent)
        if len(sent) == length:
            return
        self.close_connection = True
        if fault.then == "stall":
            self.storage.stop.wait()
        if fault.then == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, format: str, *args: object) -> None:
        pass
