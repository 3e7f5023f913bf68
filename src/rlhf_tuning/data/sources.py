"""Where a dataset's bytes come from: a reference becomes an ordered list of files, and a file becomes numbered lines.

A reference is a local file, a folder (its `*.jsonl` and `*.jsonl.gz` files), a glob (`**` crosses folders), or the same
three on Cloud Storage (`gs://bucket/name`). Where a bucket is mounted under `/gcs`, as on Vertex, the mount is read;
elsewhere objects are streamed with the credentials that Google's libraries find. Files that begin as gzip does are
unpacked, whatever their name.
"""

import contextlib
import glob
import gzip
import io
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn, cast

from rlhf_tuning.errors import DataError

if TYPE_CHECKING:
    from google.cloud.storage import Blob

#: Where Vertex mounts every bucket that its service account can see.
GCS_MOUNT = Path("/gcs")

#: What belongs to a dataset when a whole folder is given.
SUFFIXES = (".jsonl", ".jsonl.gz")

_GZIP_MAGIC = b"\x1f\x8b"
_GLOB_CHARACTERS = re.compile(r"[*?\[]")
_BUFFER_BYTES = 2**20
_DOWNLOAD_BYTES = 8 * 2**20
_ACCEPTED = "Give a JSONL file, a folder of *.jsonl files, a glob such as 'data/*.jsonl', or the same on gs://."


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a dataset.

    Args:
        name: The path or `gs://` address, as problems name it.
        open: Opens the file's bytes as they are stored.
    """

    name: str
    open: Callable[[], BinaryIO]


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


def read_lines(source: Source, *, parameter: str) -> Iterator[tuple[int, bytes]]:
    r"""Yield every line of a file with its number from 1, as bytes that may still end in `\n`.

    Raises:
        DataError: If the file cannot be read to its end.
    """
    try:
        with source.open() as stored, _unpacked(stored) as stream:
            yield from enumerate(stream, 1)
    except Exception as error:
        _raise_readable(error, source.name, parameter)


def _unpacked(stored: BinaryIO) -> BinaryIO:
    """Return the file's text bytes; what was stored with gzip is known by its first two bytes."""
    buffered = io.BufferedReader(cast(io.RawIOBase, stored), _BUFFER_BYTES)
    if buffered.peek(2)[:2] == _GZIP_MAGIC:
        unzipped = gzip.GzipFile(fileobj=buffered, mode="rb")
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, unzipped), _BUFFER_BYTES))
    return buffered


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
        files = [file for file in glob.glob(path, recursive=True) if os.path.isfile(file)]
        if not files:
            raise DataError(f"{parameter} is {reference!r}, but no file matches it. {_ACCEPTED}")
    else:
        # isfile and isdir also say no where a folder on the way is closed to us; stat tells the two apart.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(path)
        raise DataError(f"{parameter} is {reference!r}, but there is no such file or folder. {_ACCEPTED}")
    in_cloud = reference.startswith("gs://")
    return [
        Source(name=_unmounted(file) if in_cloud else file, open=partial(_open_file, file)) for file in sorted(files)
    ]


def _open_file(path: str) -> BinaryIO:
    return cast(BinaryIO, open(path, "rb", buffering=0))


def _cloud_sources(reference: str, parameter: str) -> list[Source]:
    """List Cloud Storage objects, through the mount where there is one."""
    bucket_name, _, name = reference.removeprefix("gs://").partition("/")
    if not bucket_name or _GLOB_CHARACTERS.search(bucket_name):
        raise DataError(f"{parameter} is {reference!r}, which names no bucket. Write it as gs://bucket/folder/*.jsonl.")
    if os.path.ismount(GCS_MOUNT) or os.path.ismount(GCS_MOUNT / bucket_name):
        return _local_sources(str(GCS_MOUNT / bucket_name / name), reference.rstrip("/"), parameter)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # it asks for grpcio-status, which nothing here needs
        from google.cloud import storage

    bucket = storage.Client().bucket(bucket_name)
    magic = _GLOB_CHARACTERS.search(name)
    if magic:
        matches = _glob_pattern(name)
        listed = bucket.list_blobs(prefix=name[: magic.start()])
        blobs = [blob for blob in listed if blob.name == name or matches.fullmatch(blob.name)]
        missing = f"{parameter} is {reference!r}, but no object matches it. {_ACCEPTED}"
    else:
        exact = bucket.get_blob(name) if name and not name.endswith("/") else None
        folder = f"{name.rstrip('/')}/" if name else ""
        blobs = [exact] if exact is not None else list(bucket.list_blobs(prefix=folder, delimiter="/"))
        if exact is None:
            blobs = [blob for blob in blobs if _in_folder_dataset(blob.name.removeprefix(folder))]
        missing = (
            f"{parameter} is {reference!r}, but there is no such object, nor a folder with *.jsonl objects. {_ACCEPTED}"
        )
    blobs = [blob for blob in blobs if not blob.name.endswith("/")]
    if not blobs:
        raise DataError(missing)
    return [
        Source(name=f"gs://{bucket_name}/{blob.name}", open=partial(_open_blob, blob))
        for blob in sorted(blobs, key=lambda blob: blob.name)
    ]


def _open_blob(blob: "Blob") -> BinaryIO:
    """Stream one object: the generation that was listed, and as stored, so that ranges of gzip objects are right."""
    stream = blob.open("rb", chunk_size=_DOWNLOAD_BYTES, if_generation_match=blob.generation, raw_download=True)
    return cast(BinaryIO, stream)


def _in_folder_dataset(name: str) -> bool:
    """Say whether a folder's file is part of the dataset; hidden files are often half-written ones."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _unmounted(file: str) -> str:
    return f"gs://{Path(file).relative_to(GCS_MOUNT).as_posix()}"


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
    raise DataError(f"{parameter}: {name} cannot be read: {reason}") from error


def _reason(error: Exception) -> str | None:
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return "its gzip data is damaged or ends early. Copy the file again and compare its size."
    if isinstance(error, PermissionError):
        return "no permission. Let the user who runs this read the file and the folders above it."
    if isinstance(error, OSError):
        return f"{error.strerror or error}."
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
        return "no permission. Grant roles/storage.objectViewer on the bucket to the account that runs this."
    if isinstance(error, api.NotFound):
        return "there is no such bucket or object. Check the spelling."
    if isinstance(error, api.PreconditionFailed):
        return "it changed while it was being read. Run again when nothing writes to it."
    return f"{error}"
