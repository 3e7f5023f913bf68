"""Cloud Storage, as every stage uses it: through the mount where there is one, and else object by object.

On Vertex all buckets are mounted under `/gcs`, by a file system of the FUSE kind. That something is mounted there proves
nothing: Kubeflow gives every step an empty volume at `/gcs` in which it keeps artifacts. Elsewhere objects are streamed
with the credentials that Google's libraries find; what the service fails to send is asked for again, from the byte where
it stopped, and an object's checksum is compared at its end.
"""

import base64
import errno
import functools
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from rlhf_tuning import environment

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: How long Cloud Storage may go without sending a byte that we can use, with all attempts, before we give up.
RETRY_SECONDS = 120.0

#: The longest wait before the second attempt; it doubles with every further one, up to 32 seconds.
RETRY_DELAY_SECONDS = 1.0

#: How long one attempt waits for a connection, and for the next bytes.
_STALL_SECONDS = 60.0

_DOWNLOAD_BYTES = 16 * 2**20  # held in memory; each piece costs one wait for the service's answer
#: Where KFP has `gs://` artifacts, whether or not anything is mounted.
_USUAL_MOUNT = Path("/gcs")


class ChangedError(Exception):
    """A file or an object is not what it was when it was listed."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One generation of an object. It can be pickled, so that another process may read it.

    Args:
        bucket: Where it lies.
        name: Its name in the bucket.
        size: In bytes.
        generation: Changes when it is written anew.
        crc32c: Its checksum, as the service writes it, where it has one.
    """

    bucket: str
    name: str
    size: int
    generation: int
    crc32c: str | None

    @property
    def address(self) -> str:
        """Return its `gs://` name."""
        return f"gs://{self.bucket}/{self.name}"

    def open(self) -> BinaryIO:
        """Open its bytes as they are stored."""
        return cast(BinaryIO, _ObjectStream(self, 0, self.size))

    def read(self, start: int, length: int) -> bytes:
        """Return some of its bytes; fewer where it ends."""
        with _ObjectStream(self, start, min(start + length, self.size)) as stream:
            return stream.readall()


def split(address: str) -> tuple[str, str]:
    """Return the bucket and the name in a `gs://` address; either may be empty."""
    bucket, _, name = address.removeprefix("gs://").partition("/")
    return bucket, name


def mounted(address: str) -> Path | None:
    """Return where a `gs://` address is below the mount, or None where its bucket is not mounted.

    What is below a folder that RLHF_GCS_MOUNT names is taken for a bucket.
    """
    bucket, name = split(address)
    root = environment.GCS_MOUNT
    if root != _USUAL_MOUNT:
        found = (root / bucket).is_dir()
    else:
        found_mounts = mounts()
        found = any(found_mounts.get(str(folder), "").startswith("fuse") for folder in (root, root / bucket))
    return root / bucket / name if found else None


def mounts(table: Path = Path("/proc/self/mountinfo")) -> dict[str, str]:
    """Return mount points with the kind of file system that is seen there; none where the system keeps no such table."""
    if not table.is_file():
        return {}
    found = {}
    for line in table.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        place, _, kind = line.partition(" - ")
        folder = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), place.split(" ")[4])
        found[folder] = kind.partition(" ")[0]  # the last one lies on top
    return found


def find(bucket: str, name: str) -> StoredObject | None:
    """Return an object, or None where there is none."""
    blob = _bucket(bucket).get_blob(name, retry=_retry(), timeout=_STALL_SECONDS)
    return None if blob is None else _stored(bucket, blob)


def objects(bucket: str, *, prefix: str = "", within_folders: bool = True) -> Iterator[StoredObject]:
    """Yield the objects whose names begin with `prefix`; without those in folders below it if so asked."""
    delimiter = {} if within_folders else {"delimiter": "/"}
    for blob in _bucket(bucket).list_blobs(prefix=prefix, retry=_retry(), timeout=_STALL_SECONDS, **delimiter):
        if not blob.name.endswith("/"):  # a folder's own entry
            yield _stored(bucket, blob)


def write(bucket: str, name: str, stream: BinaryIO, size: int) -> None:
    """Write an object of so many bytes, whole or not at all."""
    blob = _bucket(bucket).blob(name)
    blob.upload_from_file(stream, size=size, retry=_retry(), timeout=_STALL_SECONDS, checksum="crc32c")


def read_text(address: str) -> str:
    """Return the text of a `gs://` object, through the mount where there is one.

    Raises:
        FileNotFoundError: If there is no such object.
    """
    if (path := mounted(address)) is not None:
        return path.read_text(encoding="utf-8")
    found = find(*split(address))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address)
    with found.open() as stream:
        return stream.read().decode()


def write_text(address: str, text: str) -> None:
    """Write a `gs://` object, through the mount where there is one."""
    if (path := mounted(address)) is not None:
        path.write_text(text, encoding="utf-8")
        return
    content = text.encode()
    write(*split(address), io.BytesIO(content), len(content))


def delete(bucket: str, name: str) -> None:
    """Delete an object; nothing where there is none."""
    from google.api_core import exceptions as api

    with suppress(api.NotFound):
        _bucket(bucket).blob(name).delete(retry=_retry(), timeout=_STALL_SECONDS)


def reason(error: Exception, *, role: str = "objectViewer") -> str | None:
    """Return why what takes a role failed, as full sentences with what to do, or None for an error of another kind."""
    if isinstance(error, ChangedError):
        return "it changed while it was being read. Run again when nothing writes to it."
    if not type(error).__module__.startswith("google."):
        return None

    from google.api_core import exceptions as api
    from google.auth.exceptions import GoogleAuthError

    if isinstance(error, GoogleAuthError):
        return (
            "no Google Cloud credentials work here. Run 'gcloud auth application-default login', or run where a "
            f"service account is attached. ({error})"
        )
    if isinstance(error, api.Forbidden | api.Unauthorized):
        return f"no permission. Grant roles/storage.{role} on the bucket to the account that runs this."
    if isinstance(error, api.NotFound):
        return "there is no such bucket or object. Check the spelling."
    if isinstance(error, api.RetryError):
        return (
            f"Cloud Storage sent nothing for {RETRY_SECONDS:g} seconds, however often it was asked. Run again later. "
            f"(The last failure: {_failure(error.cause)})"
        )
    return f"{error}"


def _failure(error: Exception) -> str:
    """Describe a failed attempt; the client's own error for a bad status is a tuple of words and numbers."""
    from google.cloud.storage.exceptions import InvalidResponse

    return f"HTTP status {error.response.status_code}" if isinstance(error, InvalidResponse) else f"{error}"


def _stored(bucket: str, blob: Any) -> StoredObject:
    return StoredObject(bucket=bucket, name=blob.name, size=blob.size, generation=blob.generation, crc32c=blob.crc32c)


def _bucket(name: str) -> Any:
    return _client(os.getpid()).bucket(name)


@functools.cache
def _client(process: int) -> Any:
    """Return the client of this process; a process that was forked must not share the connections of another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # it asks for grpcio-status, which nothing here needs
        from google.cloud import storage

    # Reading needs no project, and not everyone who has credentials has set one.
    return storage.Client(project=None)


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_delay(RETRY_DELAY_SECONDS, 32.0, 2.0).with_timeout(RETRY_SECONDS)


class _ObjectStream(io.RawIOBase):
    """The bytes of one generation of an object, as they are stored, from `start` to `end`.

    The client's own stream takes an answer that stops short for the object's end. This one knows the size.
    """

    def __init__(self, stored: StoredObject, start: int, end: int) -> None:
        import google_crc32c

        self._blob = _bucket(stored.bucket).blob(stored.name)
        self._stored, self._end = stored, end
        self._is_whole = (start, end) == (0, stored.size)
        self._checksum: Any = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
        self._fetched = start
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        if not self._piece and self._fetched < self._end:
            self._piece = memoryview(self._fetch(min(_DOWNLOAD_BYTES, self._end - self._fetched)))
        target = memoryview(buffer)
        count = min(len(target), len(self._piece))
        target[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def _fetch(self, wanted: int) -> bytes:
        """Download the next `wanted` bytes."""
        from google.api_core import exceptions as api

        piece = io.BytesIO()
        while (received := piece.tell()) < wanted:
            try:
                # Raw, or else the service unpacks objects marked as gzip, and then ignores ranges.
                self._blob.download_to_file(
                    piece,
                    start=self._fetched + received,
                    end=self._fetched + wanted - 1,
                    raw_download=True,
                    checksum=None,
                    if_generation_match=self._stored.generation,
                    timeout=_STALL_SECONDS,
                    retry=_retry(),
                )
            except (api.NotFound, api.PreconditionFailed) as error:
                raise ChangedError from error
            except api.RetryError:
                # The client counts the time from its first attempt. As long as bytes come, we have time.
                if piece.tell() == received:
                    raise
            else:
                if piece.tell() == received:
                    raise OSError(
                        errno.EIO, f"it ended after {self._fetched + received:,} of {self._stored.size:,} bytes"
                    )
        if piece.tell() > wanted:
            raise OSError(errno.EIO, "the server sent other bytes than the range it was asked for")
        data = piece.getvalue()
        self._fetched += wanted
        self._checksum.update(data)
        if self._is_whole and self._fetched == self._end:
            expected = self._stored.crc32c
            if expected not in (None, base64.b64encode(self._checksum.digest()).decode()):
                raise OSError(errno.EIO, "what arrived does not have the checksum of the object. Run again")
        return data
