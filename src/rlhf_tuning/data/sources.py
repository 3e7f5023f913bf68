"""Where a dataset's bytes come from: a reference becomes an ordered list of files, and a file becomes blocks of lines.

A reference is a local file, a folder (its `*.jsonl` and `*.jsonl.gz` files), a glob (`**` crosses folders), or the same
three on Cloud Storage (`gs://bucket/name`), read through its mount where there is one. Files that begin as gzip does are
unpacked, whatever their name.

A file is read as it was when it was listed: one that changes before its end is reached is an error.
"""

import contextlib
import errno
import glob
import gzip
import itertools
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn, cast

from rlhf_tuning import cloud_storage, environment
from rlhf_tuning.cloud_storage import ChangedError, StoredObject
from rlhf_tuning.errors import DataError

#: What belongs to a dataset when a whole folder is given.
SUFFIXES = (".jsonl", ".jsonl.gz")

#: A longer line is not collected in memory but given as a `LongLine`. A row of 16 MiB is no row anyone trains on.
LINE_BYTES = 16 * 2**20

#: About how long the blocks of `read_blocks` are.
BLOCK_BYTES = 2**20

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib's word for a gzip header and trailer, both checked
_GZIP_PIECE_BYTES = 2**16  # small, because each of many short members copies what follows it in the piece
_GLOB_CHARACTERS = re.compile(r"[*?\[]")
_LONG_LINE_HEAD_BYTES = 200
_EXPORT = (
    "Download its files: hf download --repo-type dataset OWNER/NAME --local-dir data; and make rows that are read here of "
    "them: rlhf convert 'data/**/*.parquet' --output train.jsonl."
)
_HUB_NAME = re.compile(r"[\w-]+/[\w-]+")
_ACCEPTED = "Give a JSONL file, a folder of *.jsonl files, a glob such as 'data/*.jsonl', or the same on gs://."


class UnreadableError(DataError):
    """A file cannot be read, or not to its end.

    Args:
        parameter: The parameter that named the file.
        name: The file.
        reason: Why, and what to do about it; full sentences that may follow a colon.
    """

    def __init__(self, parameter: str, name: str, reason: str) -> None:
        super().__init__(f"{parameter}: {name} cannot be read: {reason}")
        self.parameter, self.name, self.reason = parameter, name, reason

    def __reduce__(self) -> tuple[type["UnreadableError"], tuple[str, str, str]]:
        # The default would call it with the message alone, in the process that receives it from a worker.
        return UnreadableError, (self.parameter, self.name, self.reason)


class LongLine(NamedTuple):
    """A line of more than `LINE_BYTES`, of which only the beginning was kept.

    Attributes:
        head: Its first bytes, for a message.
        size: Its length in bytes, without the line's end.
    """

    head: bytes
    size: int


def _never_changed() -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a dataset. It can be pickled, so that another process may read it.

    Args:
        name: The path or `gs://` address, as problems name it.
        open: Opens the file's bytes as they are stored.
        size: How many bytes are stored, where that is known.
        changed: Says whether the file is no longer the one that was listed. Where `open` is held to what was listed,
            as on Cloud Storage, it need not ask.
    """

    name: str
    open: Callable[[], BinaryIO]
    size: int | None = None
    changed: Callable[[], bool] = _never_changed


def resolve(reference: str, *, parameter: str) -> list[Source]:
    """Return the files that `reference` means, in the order of their names.

    Args:
        reference: A local path, folder or glob, or one that starts with `gs://`.
        parameter: The parameter that holds it, for messages.

    Raises:
        DataError: If there is nothing to read there, or no permission to see it.
    """
    if not reference.strip():
        raise DataError(f"{parameter} is empty. {_ACCEPTED}")
    if "\0" in reference:
        raise DataError(f"{parameter} is {reference!r}, which no file can be called. {_ACCEPTED}")
    try:
        if reference.startswith("gs://"):
            return _cloud_sources(reference, parameter)
        if reference.startswith("hf://"):
            raise DataError(
                f"{parameter} is {reference!r}, but datasets of the Hugging Face hub are no files. {_EXPORT}"
            )
        if "://" in reference:
            raise DataError(
                f"{parameter} is {reference!r}, but {reference.split('://')[0]}:// cannot be read. {_ACCEPTED}"
            )
        return _local_sources(os.path.expanduser(reference), reference, parameter)
    except DataError:
        raise
    except ValueError as error:  # such as a bucket's name that breaks the rules for names
        raise DataError(f"{parameter} is {reference!r}, which is no valid address ({error}). {_ACCEPTED}") from error
    except Exception as error:
        _raise_readable(error, reference, parameter)


def read_object(reference: str, *, parameter: str) -> bytes:
    """Return what one small file on Cloud Storage holds, read as the files of a dataset are.

    Args:
        reference: Its `gs://` address.
        parameter: The parameter that holds it, for messages.

    Raises:
        DataError: If it cannot be read.
    """
    bucket, name = cloud_storage.split(reference)
    if not bucket or not name:
        raise DataError(f"{parameter} is {reference!r}, which names no file. Write it as gs://bucket/folder/name.")
    try:
        path = cloud_storage.mounted(reference)
        if path is not None:
            source = _local_source(str(path), reference)
        else:
            stored = cloud_storage.find(bucket, name)
            if stored is None:
                raise FileNotFoundError(errno.ENOENT, "there is no such bucket or object. Check the spelling")
            source = _cloud_source(stored)
        return b"".join(_text(source, BLOCK_BYTES))
    except ValueError as error:  # such as a bucket's name that breaks the rules for names
        raise DataError(f"{parameter} is {reference!r}, which is no valid address ({error}).") from error
    except Exception as error:
        _raise_readable(error, reference, parameter)


def read_blocks(source: Source, *, parameter: str, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes | LongLine]:
    r"""Yield a file's unpacked bytes in order, cut after a `\n`; only the last block may end without one.

    A line of more than `LINE_BYTES` comes as a `LongLine` in its place, so memory stays bounded. Every line that is whole
    is yielded before an error is raised; the one that broke off is not.

    Args:
        source: The file.
        parameter: The parameter that named it, for messages.
        block_bytes: About how long a block is; one with a longer line in it is longer.

    Raises:
        UnreadableError: If the file cannot be read to its end, is damaged, or changed since it was listed.
    """
    yield from _whole_lines(read_pieces(source, parameter=parameter, piece_bytes=min(block_bytes, LINE_BYTES)))


def read_pieces(source: Source, *, parameter: str, piece_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield a file's unpacked bytes in order, cut anywhere; the rest is as of `read_blocks`."""
    try:
        yield from _text(source, piece_bytes)
    except Exception as error:
        # A change explains whatever it broke.
        _raise_readable(ChangedError() if source.changed() else error, source.name, parameter)


def _whole_lines(pieces: Iterator[bytes]) -> Iterator[bytes | LongLine]:
    """Cut pieces of text after their last line's end, and carry the rest over to the next."""
    carried: list[bytes] = []
    held = 0
    long: LongLine | None = None
    for piece in pieces:
        if long is not None or held + len(piece) > LINE_BYTES:
            # Only here can the line that is carried over be too long, or be one of which we keep no more.
            end = piece.find(b"\n")
            length = held + (len(piece) if end < 0 else end)
            if long is None and length > LINE_BYTES:
                start = (*carried, piece[: max(length - held, 0)])
                head = b"".join(part[:_LONG_LINE_HEAD_BYTES] for part in start)[:_LONG_LINE_HEAD_BYTES]
                long = LongLine(head, 0)
            if long is not None:
                carried, held = [], length
                if end < 0:
                    continue
                yield long._replace(size=length)
                long, held, piece = None, 0, piece[end + 1 :]
        cut = piece.rfind(b"\n") + 1
        if cut:
            yield b"".join((*carried, memoryview(piece)[:cut]))
            carried, held = [], 0
            piece = piece[cut:]
        if piece:
            carried.append(piece)
            held += len(piece)
    if long is not None:
        yield long._replace(size=held)
    elif held:
        yield b"".join(carried)


def _text(source: Source, piece_bytes: int) -> Iterator[bytes]:
    """Yield a file's text in pieces; what was stored with gzip is known by its first two bytes."""
    with source.open() as stored:
        start = stored.read(len(_GZIP_MAGIC))
        if start == _GZIP_MAGIC:
            packed = itertools.chain((start,), iter(partial(stored.read, _GZIP_PIECE_BYTES), b""))
            yield from _unzipped(packed, piece_bytes)
        else:
            yield start
            while piece := stored.read(piece_bytes):
                yield piece
    if source.changed():
        raise ChangedError


def _unzipped(stored: Iterator[bytes], piece_bytes: int) -> Iterator[bytes]:
    """Unpack gzip members one after the other, and yield all that stands before damage before raising."""
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    parts: list[bytes] = []
    held = total = 0
    damage = ""
    for packed in stored:
        while packed and not damage:
            if unpacker.eof:
                packed = packed.lstrip(b"\0")  # tapes and block devices pad with zeros
                if not packed:
                    break
                unpacker = zlib.decompressobj(_GZIP_WINDOW)
            before = unpacker.copy()
            try:
                text = unpacker.decompress(packed, piece_bytes - held)
            except zlib.error:
                text, damage = _text_before_damage(before, packed), "it is not what was written"
            parts.append(text)
            held += len(text)
            packed = unpacker.unconsumed_tail or unpacker.unused_data
            if held >= piece_bytes:
                yield b"".join(parts)
                total += held
                parts, held = [], 0
        if damage:
            break
    if not damage and not unpacker.eof:
        parts.append(unpacker.flush())
        damage = "it ends early"
    yield (rest := b"".join(parts))
    if damage:
        raise gzip.BadGzipFile(
            f"its gzip data is damaged: {damage}, after {total + len(rest):,} bytes of text. "
            "Copy the file again and compare its size."
        )


def _text_before_damage(unpacker: "zlib._Decompress", packed: bytes) -> bytes:
    """Unpack byte by byte, because a call that meets damage gives nothing of what it unpacked before."""
    text = []
    with contextlib.suppress(zlib.error):
        for byte in packed:
            text.append(unpacker.decompress(bytes((byte,))))
    return b"".join(text)


def _local_sources(path: str, reference: str, parameter: str) -> list[Source]:
    """List local files. Those behind a mounted bucket keep the `gs://` name that the person wrote."""
    # A name that exists wins over its reading as a glob: data[1].jsonl is a fine name for a file.
    if os.path.isfile(path):
        files = [path]
    elif os.path.isdir(path):
        entries = [os.path.join(path, name) for name in os.listdir(path) if _in_folder_dataset(name)]
        files = [entry for entry in entries if os.path.isfile(entry)]
        if not files:
            raise DataError(
                f"{parameter} is the folder {reference!r}, which holds no *.jsonl file. {_ACCEPTED} "
                "Folders inside it are not searched: use a glob with ** for them."
            )
    elif os.path.exists(path):
        raise DataError(f"{parameter} is {reference!r}, which is not an ordinary file. {_ACCEPTED}")
    elif _GLOB_CHARACTERS.search(path):
        _look_into_folders(path)
        files = [file for file in glob.glob(path, recursive=True) if os.path.isfile(file)]
        if not files:
            raise DataError(f"{parameter} is {reference!r}, but no file matches it. {_ACCEPTED}")
    else:
        # isfile and isdir also say no where a folder on the way is closed to us; stat tells the two apart.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(path)
        hint = f" If it is a dataset of the Hugging Face hub: {_EXPORT}" if _HUB_NAME.fullmatch(reference) else ""
        raise DataError(f"{parameter} is {reference!r}, but there is no such file or folder. {_ACCEPTED}{hint}")
    in_cloud = reference.startswith("gs://")
    return [_local_source(file, _unmounted(file) if in_cloud else file) for file in sorted(files)]


def _look_into_folders(pattern: str) -> None:
    """List every folder that a glob looks into: a glob takes one that is closed to us for an empty one."""
    folder = os.path.dirname(pattern)
    for name in glob.iglob(folder, recursive=True) if folder else (os.curdir,):
        if os.path.isdir(name):
            with os.scandir(name):
                pass
    if _GLOB_CHARACTERS.search(folder):
        _look_into_folders(folder)


def _local_source(path: str, name: str) -> Source:
    size, modified = _size_and_time(path)
    changed = partial(_file_changed, path, (size, modified))
    return Source(name=name, open=partial(_open_file, path), size=size, changed=changed)


def _open_file(path: str) -> BinaryIO:
    return cast(BinaryIO, open(path, "rb", buffering=0))


def _size_and_time(path: str) -> tuple[int, int]:
    # Not the inode: mounts of buckets and of networks may give a file another one whenever they like.
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _file_changed(path: str, listed: tuple[int, int]) -> bool:
    try:
        return _size_and_time(path) != listed
    except OSError:
        return True


def _cloud_sources(reference: str, parameter: str) -> list[Source]:
    """List Cloud Storage objects, through the mount where there is one."""
    bucket, name = cloud_storage.split(reference)
    if not bucket or _GLOB_CHARACTERS.search(bucket):
        raise DataError(f"{parameter} is {reference!r}, which names no bucket. Write it as gs://bucket/folder/*.jsonl.")
    path = cloud_storage.mounted(reference)
    if path is not None:
        return _local_sources(str(path), reference.rstrip("/"), parameter)

    found: Iterable[StoredObject]
    magic = _GLOB_CHARACTERS.search(name)
    if magic:
        matches = _glob_pattern(name)
        listed = cloud_storage.objects(bucket, prefix=name[: magic.start()])
        found = (stored for stored in listed if stored.name == name or matches.fullmatch(stored.name))
        missing = f"{parameter} is {reference!r}, but no object matches it. {_ACCEPTED}"
    else:
        is_name = name and not name.endswith("/")
        exact = cloud_storage.find(bucket, name) if is_name else None
        folder = f"{name.rstrip('/')}/" if name else ""
        inside = cloud_storage.objects(bucket, prefix=folder, within_folders=False)
        found = (stored for stored in inside if _in_folder_dataset(stored.name.removeprefix(folder)))
        found = found if exact is None else [exact]
        missing = (
            f"{parameter} is {reference!r}, but there is no such object, nor a folder with *.jsonl objects. {_ACCEPTED}"
        )
    sources = [_cloud_source(stored) for stored in sorted(found, key=lambda stored: stored.name)]
    if not sources:
        raise DataError(missing)
    return sources


def _cloud_source(stored: StoredObject) -> Source:
    return Source(name=stored.address, open=stored.open, size=stored.size)


def _in_folder_dataset(name: str) -> bool:
    """Say whether a folder's file is part of the dataset; hidden files are often half-written ones."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _unmounted(file: str) -> str:
    return f"gs://{Path(file).relative_to(environment.GCS_MOUNT).as_posix()}"


def _glob_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a glob over object names, with the meaning it has for local files: only `**` crosses a slash."""
    parts = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    regex = ""
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", pattern, flags=re.DOTALL):
        if token in parts:
            regex += parts[token]
        elif len(token) > 1:
            inside = token[1:-1].replace("\\", r"\\").replace("[", r"\[")
            regex += f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
        else:
            regex += re.escape(token)
    return re.compile(regex, flags=re.DOTALL)


def _raise_readable(error: Exception, name: str, parameter: str) -> NoReturn:
    """Raise `error` again as one that a person can act on, or as it is when it is none of reading."""
    reason = _reason(error)
    if reason is None:
        raise error
    raise UnreadableError(parameter, name, reason) from error


def _reason(error: Exception) -> str | None:
    if isinstance(error, gzip.BadGzipFile):
        return str(error)
    if isinstance(error, PermissionError):
        return "no permission. Let the user who runs this read the file and the folders above it."
    if isinstance(error, OSError) and error.errno != errno.ESTALE:
        return f"{error.strerror or error}."
    # A stale handle is how mounts of buckets and networks say that a file changed.
    return cloud_storage.reason(ChangedError() if isinstance(error, OSError) else error)
