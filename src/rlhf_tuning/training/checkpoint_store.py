"""Where checkpoints are kept: a folder for each thing that is trained, named by what makes it.

A checkpoint is some files and a manifest, which names them with their sizes and digests. Each file is written beside its
place and then renamed into it, and the manifest comes last: what was half-written when a machine died has none, and what is
not what the manifest says is no checkpoint. A folder is renamed nowhere, since Cloud Storage cannot do that at once.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import BinaryIO, cast

import xxhash

from rlhf_tuning import cloud_storage, step
from rlhf_tuning.errors import RunError

#: Beside the runs.
_PLACE = ".checkpoints"
_MANIFEST = ".json"
_LOCK = "lock"
_PARTIAL = ".partial"
#: After so many days without a write what a training left that was stopped is given up.
KEPT_DAYS = 30


def beside_the_runs(path: str, uri: str) -> str:
    """Return the place of all checkpoints under a pipeline root, where a retry of a step and a later run find them.

    Empty, which is said, where there is none that outlasts the step.

    Args:
        path: Of an artifact that the step writes: under the root, its run and its step.
        uri: Of the same.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or (scheme == "gs" and cloud_storage.mounted(uri)):
        return str(Path(path).parents[2] / _PLACE)
    if scheme == "gs":
        return f"gs://{PurePosixPath(rest).parents[2] / _PLACE}"
    step.say(f"No checkpoints are kept: the pipeline root is on {scheme}://, and only on gs:// could a retry find them")
    return ""


def trained_to(pipeline_root: Path, since: float) -> int:
    """Return the step of the newest checkpoint under a pipeline root; 0 where none was written since a time."""
    manifests = {path: path.stat().st_mtime for path in (pipeline_root / _PLACE).glob(f"*/*{_MANIFEST}")}
    newest = max(manifests, key=manifests.__getitem__, default=None)
    return int(newest.stem) if newest and manifests[newest] >= since else 0


def forget_old(place: str) -> int:
    """Remove the checkpoints that no training has written to for `KEPT_DAYS`, and return of how many trainings they were.

    Those in a bucket that is not mounted stay: a lifecycle rule of the bucket can remove them.

    Args:
        place: Of all checkpoints.

    Raises:
        OSError: If it cannot be read.
    """
    forgotten = 0
    for folder in [] if place.startswith("gs://") else list(Path(place).glob("*/")):
        # A mounted bucket gives folders the time at which it was mounted.
        newest = max(path.stat().st_mtime for path in list(folder.iterdir()) or [folder])
        if time.time() - newest > KEPT_DAYS * 24 * 3600 and (kept := _Folder(folder)).take():
            kept.clear()
            forgotten += not folder.exists()
    return forgotten


@dataclass(frozen=True)
class StoredFile:
    """A file of a checkpoint."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole, as its manifest has it.

    Args:
        step: The last that was taken.
        made_from: What made it, as a digest.
        saved: When, in words.
        files: Of each process, in order.
    """

    step: int
    made_from: str
    saved: str
    files: Sequence[StoredFile]

    @property
    def manifest(self) -> str:
        """The name of its manifest."""
        return f"{self.step:08}{_MANIFEST}"


class _Folder:
    """Files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: BinaryIO | None = None

    def __str__(self) -> str:
        return str(self._folder)

    def take(self) -> bool:
        """Lock it. The lock is the kernel's, so that a dead process never stands in the way."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = (self._folder / _LOCK).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        except OSError:
            pass  # a file system without locks
        # A training that goes on after long is no old one.
        os.utime(lock.fileno())
        self._lock = lock
        return True

    def put(self, name: str, write: Callable[[BinaryIO], None]) -> StoredFile:
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / (name + _PARTIAL)
        try:
            with partial.open("w+b") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
                written = _described(name, stream)
            partial.replace(self._folder / name)
        finally:
            partial.unlink(missing_ok=True)
        return written

    def open(self, name: str) -> BinaryIO:
        return (self._folder / name).open("rb")

    def names(self) -> list[str]:
        return [path.name for path in self._folder.glob("*") if path.name != _LOCK]

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self.leave()

    def leave(self) -> None:
        if self._lock:
            self._lock.close()


class _Bucket:
    """Objects in a bucket that is not mounted; `OSError` with what to do where it cannot be reached."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._bucket, self._prefix = cloud_storage.split(f"{address}/")

    def __str__(self) -> str:
        return self._address

    def take(self) -> bool:
        """There is no lock: of two that train the same here, each writes whole objects of like content."""
        return True

    def put(self, name: str, write: Callable[[BinaryIO], None]) -> StoredFile:
        with TemporaryFile() as stream, _explained():
            write(stream)
            written = _described(name, stream)
            stream.seek(0)
            cloud_storage.write(self._bucket, self._prefix + name, stream, written.size)
        return written

    def open(self, name: str) -> BinaryIO:
        with _explained():
            found = cloud_storage.find(self._bucket, self._prefix + name)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            copy = TemporaryFile()  # noqa: SIM115
            with found.open() as stream:
                shutil.copyfileobj(stream, copy, 2**24)
        copy.seek(0)
        return cast(BinaryIO, copy)

    def names(self) -> list[str]:
        with _explained():
            found = cloud_storage.objects(self._bucket, prefix=self._prefix, within_folders=False)
            return [stored.name.removeprefix(self._prefix) for stored in found]

    def delete(self, name: str) -> None:
        with _explained():
            cloud_storage.delete(self._bucket, self._prefix + name)

    def clear(self) -> None:
        with suppress(OSError):
            for name in self.names():
                self.delete(name)

    def leave(self) -> None:
        pass


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        why = cloud_storage.reason(error, role="objectUser")
        if why is None:
            raise
        raise OSError(errno.EIO, why) from error


class Store:
    """The checkpoints of one thing that is trained.

    Args:
        place: Their folder, or its `gs://` address where the bucket is not mounted.
    """

    def __init__(self, place: str) -> None:
        self._place = _Bucket(place) if place.startswith("gs://") else _Folder(Path(place))

    def take(self) -> bool:
        """Keep others from writing here until `forget` or `leave`, or the end of this process; False where one does it now.

        Raises:
            OSError: If nothing can be written here.
        """
        return self._place.take()

    def put(self, name: str, write: Callable[[BinaryIO], None]) -> StoredFile:
        """Write a file, whole or not at all.

        Raises:
            OSError: If it cannot be written.
        """
        return self._place.put(name, write)

    def add(self, checkpoint: Checkpoint) -> None:
        """Make a checkpoint of files that have been put, and remove all older ones.

        Raises:
            OSError: If it cannot be written.
        """
        text = json.dumps(asdict(checkpoint), indent=2) + "\n"
        self.put(checkpoint.manifest, lambda stream: _write_text(stream, text))
        self.keep(checkpoint)

    def keep(self, checkpoint: Checkpoint | None) -> None:
        """Remove everything but this checkpoint, or everything."""
        kept = {checkpoint.manifest, *(file.name for file in checkpoint.files)} if checkpoint else set()
        for name in self._place.names():
            if name not in kept:
                self._place.delete(name)

    def checkpoints(self) -> list[Checkpoint | str]:
        """Return the checkpoints whose manifest can be read, the newest first; of the others what is wrong.

        Raises:
            OSError: If the place cannot be read.
        """
        found: list[Checkpoint | str] = []
        for name in sorted((name for name in self._place.names() if name.endswith(_MANIFEST)), reverse=True):
            try:
                with self._place.open(name) as stream:
                    fields = json.load(stream)
                files = [StoredFile(**file) for file in fields.pop("files")]
                found.append(Checkpoint(**fields, files=files))
            except (ValueError, TypeError, AttributeError, KeyError):
                found.append(f"{self._place}/{name} is no manifest of a checkpoint")
        return found

    def open(self, file: StoredFile) -> BinaryIO:
        """Open a file, once it is known to be whole.

        Raises:
            RunError: If it is not what its manifest says.
            OSError: If it cannot be read.
        """
        stream = self._place.open(file.name)
        if _described(file.name, stream) != file:
            stream.close()
            raise RunError(f"{self._place}/{file.name} is not what was written")
        stream.seek(0)
        return stream

    def forget(self) -> None:
        """Remove everything, and let others write here."""
        self._place.clear()

    def leave(self) -> None:
        """Let others write here, and take what is there."""
        self._place.leave()


def _described(name: str, stream: BinaryIO) -> StoredFile:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return StoredFile(name, size, hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest())  # type: ignore[arg-type]


def _write_text(stream: BinaryIO, text: str) -> None:
    stream.write(text.encode())
