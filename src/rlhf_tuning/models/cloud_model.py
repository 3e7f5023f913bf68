"""A model in a folder of Cloud Storage that no mount shows here: looked at where it is, and copied here to be loaded.

Copies are kept in the cache, each under the generations of its objects: one that is written anew is copied anew.
"""

import errno
import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from rlhf_tuning import cloud_storage, environment, machine
from rlhf_tuning.cloud_storage import StoredObject
from rlhf_tuning.errors import ModelError, ModelNotAtHandError
from rlhf_tuning.step import say

_WEIGHTS = ".safetensors"
#: Weights as other programs have them. They are refused where they are the only ones, and not worth the way beside others.
_OTHER_WEIGHTS = (".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth")
#: Files that are fetched at the same time.
_AT_ONCE = 8


def files_of(address: str, *, parameter: str = "") -> dict[str, StoredObject]:
    """Return the objects directly in a `gs://` folder, by name; none where there is no such folder.

    Args:
        address: The folder.
        parameter: The parameter that holds it, for messages.

    Raises:
        ModelError: If Cloud Storage does not say, or has no such bucket.
    """
    bucket, name = cloud_storage.split(address.rstrip("/"))
    prefix = f"{name}/" if name else ""
    with explaining(address, parameter=parameter):
        found = cloud_storage.objects(bucket, prefix=prefix, within_folders=False)
        return {stored.name.removeprefix(prefix): stored for stored in found}


def copied(address: str, *, weights: bool) -> Path:
    """Return the folder of the cache with a copy of a model, made now as far as it is missing.

    Args:
        address: Its `gs://` folder.
        weights: Whether they are needed too; a tokenizer or a configuration needs none.

    Raises:
        ModelError: If there is no such folder, or it cannot be read.
        MachineError: If the disk has too little room for it, or the cache cannot be written to.
    """
    files = files_of(address)
    if not files:
        raise ModelError(f"There is no folder {address} in Cloud Storage. Check the spelling.")
    listing = "\n".join(f"{stored.name} {stored.generation}" for _, stored in sorted(files.items()))
    digest = hashlib.sha256(f"{address.rstrip('/')}\n{listing}".encode()).hexdigest()[:16]
    folder = environment.CACHE_DIR / "cloud-models" / f"{PurePosixPath(address).name}-{digest}"
    wanted = {
        name: stored
        for name, stored in files.items()
        if not name.endswith(_OTHER_WEIGHTS) and (weights or not name.endswith(_WEIGHTS))
    }
    machine.check_writable(folder, what=f"{address} would be copied", remedy=environment.NAME_CACHE)
    # One copies, and whoever else needs the model, such as the process of another GPU, waits for it.
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [stored for name, stored in wanted.items() if not (folder / name).is_file()]
        size = sum(stored.size for stored in missing)
        machine.check_room(
            folder,
            size,
            what=f"The copy of {address}",
            remedy="Free some space, name a folder on a larger disk with RLHF_CACHE_DIR, or take a smaller model.",
        )
        if missing and weights:
            say(f"Copying {address} ({machine.gigabytes(size)}) to {folder}")
        with explaining(address), ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda stored: _fetch(stored, folder), missing))
    return folder


@contextmanager
def explaining(address: str, *, parameter: str = "") -> Iterator[None]:
    """Turn what reading an address raises into one of our errors.

    Raises:
        ModelError: Naming the address, and what to do.
        ModelNotAtHandError: Likewise, where others may be able to read it.
    """
    try:
        yield
    except Exception as error:
        reason = cloud_storage.reason(error)
        if isinstance(error, OSError) and error.errno == errno.EIO:  # raised by our own stream
            reason = f"{error.strerror}."
        elif isinstance(error, ValueError):  # a bucket's name that breaks the rules for names
            reason = f"{error}."
        if reason is None:
            raise
        told = f"{parameter}{': ' if parameter else ''}{address} cannot be read: {reason}"
        raise (ModelError(told) if _is_absent(error) else ModelNotAtHandError(told)) from error


def _is_absent(error: Exception) -> bool:
    from google.api_core.exceptions import NotFound

    return isinstance(error, NotFound | ValueError)


def _fetch(stored: StoredObject, folder: Path) -> None:
    """Put an object into a folder: whole, or not at all."""
    name = PurePosixPath(stored.name).name
    partial = folder / f".{name}.partial"
    with stored.open() as source, partial.open("wb") as target:
        shutil.copyfileobj(source, target, 2**20)
    partial.replace(folder / name)
