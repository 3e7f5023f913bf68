"""Which folders of this machine a run's containers see: each at its own path, so that a path means the same inside."""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf_tuning.evaluation.judges.rubric import rubric_file
from rlhf_tuning.evaluation.regression_suite import suite_file
from rlhf_tuning.parameters import Value

#: Parameters with these endings hold paths, among other things.
_DATA_ENDINGS = ("_dataset", "_uri", "_reference", "_adapter")
_FOLDER_ENDING = "_dir"


@dataclass(frozen=True)
class Mount:
    """A file or folder that containers see at the path that it has here."""

    path: str
    read_only: bool


def expand_home(arguments: Mapping[str, Value]) -> dict[str, Value]:
    """Return the arguments with `~` written out in paths: in a container it would be another folder."""
    return {
        name: os.path.expanduser(value) if isinstance(value, str) and _is_path(name, value) else value
        for name, value in arguments.items()
    }


def choose_mounts(arguments: Mapping[str, Value], *, writable: Iterable[Path], readable: Iterable[Path]) -> list[Mount]:
    """Return what the containers need to see.

    Args:
        arguments: The pipeline's. Local datasets, models and a rubric's file are seen read-only, folders to write to
            (`*_dir`) are made.
        writable: Folders that the steps write to; made if they are not there.
        readable: Files and folders that the steps may read; left out if they are not there.
    """
    folders = [Path(str(value)) for name, value in arguments.items() if name.endswith(_FOLDER_ENDING) and value]
    mounts: list[Mount] = []
    for folder in [*writable, *folders]:
        folder.mkdir(parents=True, exist_ok=True)
        mounts.append(Mount(os.path.abspath(folder), read_only=False))
    data = [str(value) for name, value in arguments.items() if _is_data(name, value) and value]
    paths = [path for reference in data for path in _local_paths(reference)]
    for path in [*paths, *map(str, readable)]:
        absolute = os.path.abspath(path)
        if os.path.exists(absolute) and not any(_is_within(absolute, mount.path) for mount in mounts):
            mounts.append(Mount(absolute, read_only=True))
    return mounts


def _is_path(name: str, value: Value) -> bool:
    return name.endswith(_FOLDER_ENDING) or _is_data(name, value)


def _is_data(name: str, value: Value) -> bool:
    """Say whether a parameter names what is read; of a rubric, which may be words, and of a suite its value tells."""
    return (
        name.endswith(_DATA_ENDINGS)
        or (name == "judge_rubric" and bool(rubric_file(str(value))))
        or (name == "regression_suite" and bool(suite_file(str(value))))
    )


def _local_paths(reference: str) -> Iterator[str]:
    """Yield the file or folder that a reference means, what a glob starts from, and what links in it lead to."""
    if os.path.exists(reference):
        start = reference
        entries = [reference, *(entry.path for entry in os.scandir(reference))] if os.path.isdir(reference) else []
    elif glob.has_magic(reference) and "://" not in reference:
        start = reference
        while glob.has_magic(start):
            start = os.path.dirname(start)
        entries = glob.glob(reference, recursive=True)
    else:
        return  # a hub id, an alias, a bucket, or a mistake that the first step tells
    yield start or "."
    for entry in entries:
        yield from _link_targets(entry)


def _link_targets(path: str) -> Iterator[str]:
    """Yield what a symbolic link leads to, link by link: the hub's cache keeps its weights beside the model's folder."""
    seen = set()
    while os.path.islink(path) and path not in seen:
        seen.add(path)
        path = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(path)), os.readlink(path)))
        yield path


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
