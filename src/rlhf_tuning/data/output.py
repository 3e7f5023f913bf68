"""Files that appear under their names only when they are complete."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rlhf_tuning import environment


@contextlib.contextmanager
def written_together(*paths: str) -> Iterator[list[BinaryIO]]:
    """Open files for writing beside their final names, and give them those names if the body succeeds.

    Whatever stops the body, earlier files of these names stay as they were and no half-written one is left.

    Args:
        paths: Where the files shall stand. Missing folders are made.
    """
    finals = [Path(path) for path in paths]
    partials = [final.with_name(f".{final.name}.{os.getpid()}.partial") for final in finals]
    try:
        with contextlib.ExitStack() as stack:
            streams: list[BinaryIO] = []
            for final, partial in zip(finals, partials, strict=True):
                final.parent.mkdir(parents=True, exist_ok=True)
                streams.append(stack.enter_context(partial.open("wb")))
            yield streams
        for final, partial in zip(finals, partials, strict=True):
            partial.replace(final)
    except BaseException:
        for partial in partials:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def scratch_folder(beside: str = "") -> Iterator[Path]:
    """Make a folder for what waits on disk, and remove it afterwards.

    Args:
        beside: A file that will be written: the folder stands on its disk, which has room; but on the local disk where
            that is a bucket, or where no file is named.
    """
    parent = Path(beside).absolute().parent if beside else None
    if parent is not None and parent.is_relative_to(environment.GCS_MOUNT):
        parent = None
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rows-", dir=parent) as folder:
        yield Path(folder)
