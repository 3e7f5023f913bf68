"""What a step needs of its machine, looked at before anything long begins, so that what is missing costs no hours."""

import shutil
from pathlib import Path

from rlhf_tuning.errors import MachineError


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
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise MachineError(
            f"{what} needs {gigabytes(needed)} in {folder}, and its disk has {gigabytes(free)} left. {remedy}"
        )


def gigabytes(size: int) -> str:
    """Return a size as people read it, such as `3.4 GB`."""
    return f"{size / 1e9:.1f} GB" if size < 1e10 else f"{size / 1e9:,.0f} GB"
