"""What a step needs of its machine, looked at before anything long begins, so that what is missing costs no hours."""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from rlhf_tuning.errors import MachineError

#: CUDA's major version to the oldest driver that its programs run with (NVIDIA's page on CUDA compatibility).
LEAST_DRIVER = {12: 525, 13: 580}
#: Where a container's limit of memory stands, by the version of control groups.
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_DEVICES, _DRIVER = Path("/dev"), Path("/proc/driver/nvidia/version")


def memory() -> int:
    """Return the bytes of memory that this process may have: the machine's, or fewer in a container."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [path.read_text(encoding="utf-8").strip() for path in _MEMORY_LIMITS if path.is_file()]
    return min([there, *(int(limit) for limit in limits if limit.isdecimal())])


def check_gpu() -> None:
    """Refuse a machine with a GPU that torch cannot use: it would compute on the CPU, and say nothing, for days.

    A GPU that is hidden, and a torch that was built without CUDA, are there on purpose.

    Raises:
        MachineError: Saying why, and what to do.
    """
    import torch

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    cuda = torch.version.cuda
    if hidden or cuda is None or not list(_DEVICES.glob("nvidia[0-9]*")) or torch.cuda.is_available():
        return
    driver, least = driver_version(), LEAST_DRIVER.get(int(cuda.partition(".")[0]), 0)
    if driver and int(driver.partition(".")[0]) < least:
        raise MachineError(
            f"The NVIDIA driver of this machine is {driver}, and torch with CUDA {cuda} needs {least} or newer. Take a "
            "machine or a node image with a newer driver. On GPUs of data centres NVIDIA's compatibility libraries help "
            "too: docs/operations/google-cloud.md says how."
        )
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        reason = "it names no reason"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
    raise MachineError(
        f"This machine has an NVIDIA GPU{f' with driver {driver}' if driver else ''}, but torch with CUDA {cuda} cannot use "
        f"it: {reason.rstrip('.')}. Mend that, or set CUDA_VISIBLE_DEVICES to nothing to use the CPU on purpose."
    )


def driver_version() -> str:
    """Return the version of NVIDIA's driver, such as `580.82.07`; empty where there is none."""
    if not _DRIVER.is_file():
        return ""
    found = re.search(r"\b\d{3,}(?:\.\d+)+", _DRIVER.read_text(encoding="utf-8"))
    return found[0] if found else ""


def check_writable(folder: Path, *, what: str, remedy: str) -> None:
    """Refuse a folder in which nothing can be written, now rather than when there is something to write.

    Args:
        folder: Made if it is not there.
        what: What would be done there, as a sentence begins.
        remedy: What to do, as a full sentence.

    Raises:
        MachineError: If nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MachineError(f"{what} in {folder}, where nothing can be written: {error.strerror}. {remedy}") from None


def check_room(folder: Path, needed: int, *, what: str, remedy: str) -> None:
    """Refuse what does not fit on a disk.

    Args:
        folder: Where it is to be written; it need not be there yet.
        needed: Bytes.
        what: What it is, as a sentence begins.
        remedy: What to do, as a full sentence.

    Raises:
        MachineError: If there is less room.
    """
    free = free_room(folder)
    if needed > free:
        raise MachineError(
            f"{what} needs {gigabytes(needed)} in {folder}, and its disk has {gigabytes(free)} left. {remedy}"
        )


def free_room(folder: Path) -> int:
    """Return the bytes that can still be written to a folder, which need not be there yet.

    A file system that has no size, as some of the network say, has room for anything.
    """
    usage = shutil.disk_usage(_existing(folder))
    return usage.free if usage.total else sys.maxsize


def same_disk(one: Path, other: Path) -> bool:
    """Say whether what is written to two folders takes the same room."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def gigabytes(size: int) -> str:
    """Return a size as people read it, such as `3.4 GB`."""
    if size < 1e9:
        return f"{size / 1e6:.1f} MB"
    return f"{size / 1e9:.1f} GB" if size < 1e10 else f"{size / 1e9:,.0f} GB"


def _existing(folder: Path) -> Path:
    """Return a folder, or the one above it that is there already."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
