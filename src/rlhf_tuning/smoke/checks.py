"""What any step can find out about the place where it runs. Nothing here raises: what does not work is what is looked for.

A check says in words what was seen and, where something does not work, what to do. It needs no torch.
"""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhf_tuning import cloud_storage, environment, machine
from rlhf_tuning.data.sources import read_object
from rlhf_tuning.errors import RlhfError

#: What is written and read again to see that a folder can be used.
_PROBE_BYTES = 1 << 20
#: Bytes of a weight in bfloat16, and how many copies of a model a run leaves on its disk: the base and the merged one.
_WEIGHT_BYTES, _COPIES = 2, 2

WORKS, FAILS, NOTE = "works", "fails", "note"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was tried.

    Args:
        step: Which step tried it.
        name: What was tried, as a statement that holds where it works.
        state: `works`, `fails`, or `note` for what is only good to know.
        seen: What was seen.
        remedy: What to do; empty unless it fails.
    """

    step: str
    name: str
    state: str
    seen: str
    remedy: str = ""


def write_checks(checks: Sequence[Check], path: str) -> None:
    """Write checks as JSON."""
    Path(path).write_text(json.dumps([asdict(check) for check in checks], indent=2) + "\n", encoding="utf-8")


def read_checks(path: str) -> list[Check]:
    """Return the checks of a file that `write_checks` wrote."""
    return [Check(**check) for check in json.loads(Path(path).read_text(encoding="utf-8"))]


def check_place(step: str, *, artifact_path: str, probe_object: str) -> list[Check]:
    """Return what a step of any image can tell: who it is, what it has, and what it can read and write.

    Args:
        step: Its name.
        artifact_path: Where one of its artifacts goes.
        probe_object: A gs:// object to read; empty for none.
    """
    return [
        _identity(step),
        _machine(step),
        _mounts(step),
        _tried(step, "Artifacts can be written", lambda: _write_beside(artifact_path), _no_artifacts(artifact_path)),
        _tried(step, "Temporary files can be written", lambda: _write_into(tempfile.gettempdir()), _NO_TEMPORARY_FILES),
        _room(step, artifact_path),
        _object(step, probe_object),
    ]


def check_handed_over(step: str, path: str) -> tuple[Check, list[Check]]:
    """Return whether the step before could hand its artifact over, and the checks in it."""
    name = "Artifacts go from one step to the next"
    try:
        before = read_checks(path)
    except (OSError, ValueError, TypeError) as error:
        remedy = "Look whether the pipeline root can be written and read by the account that runs the steps."
        return Check(step=step, name=name, state=FAILS, seen=f"{type(error).__name__}: {error}", remedy=remedy), []
    return Check(step=step, name=name, state=WORKS, seen=f"read {len(before)} checks of the step before"), before


def _identity(step: str) -> Check:
    home = os.path.expanduser("~")
    writable = "can" if os.access(home, os.W_OK) else "cannot"
    seen = f"user {os.getuid()}, groups {', '.join(map(str, os.getgroups())) or 'none'}; {writable} write into {home}"
    return Check(step=step, name="Who the step is", state=NOTE, seen=seen)


def _machine(step: str) -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = f"{platform.machine()}, Python {platform.python_version()}"
    seen = f"{cores} cores, {machine.memory() / 1e9:,.1f} GB of memory for the step; {kind}"
    return Check(step=step, name="What the machine is", state=NOTE, seen=seen)


def _mounts(step: str) -> Check:
    kept = [
        f"{place} ({kind})"
        for place, kind in cloud_storage.mounts().items()
        if kind.startswith(("fuse", "nfs", "ext", "xfs", "overlay")) or place in ("/gcs", "/dev/shm", "/tmp")
    ]
    return Check(step=step, name="What is mounted", state=NOTE, seen=", ".join(kept) or "nothing of note")


def _tried(step: str, name: str, attempt: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(step=step, name=name, state=WORKS, seen=attempt())
    except (OSError, RlhfError) as error:
        return Check(step=step, name=name, state=FAILS, seen=str(error).removesuffix("."), remedy=remedy)


def _write_beside(artifact_path: str) -> str:
    Path(artifact_path).parent.mkdir(parents=True, exist_ok=True)
    return _write_into(str(Path(artifact_path).parent))


def _write_into(folder: str) -> str:
    written = os.urandom(_PROBE_BYTES)
    with tempfile.TemporaryDirectory(prefix="smoke-", dir=folder) as inside:
        probe = Path(inside) / "probe"
        probe.write_bytes(written)
        if probe.read_bytes() != written:
            raise OSError(f"what was written into {folder} is not what is read there")
    return f"wrote and read 1 MiB in {folder}"


def _no_artifacts(artifact_path: str) -> str:
    mount = str(environment.GCS_MOUNT)
    if artifact_path.startswith(mount + "/"):
        return (
            f"The step may not write under {mount}, where Vertex mounts the pipeline root. Give the run's service account "
            "roles/storage.objectAdmin on the bucket; if it has that, build the images for another user: "
            "RUN_AS=0 containers/build.sh."
        )
    return "Look whether the user of the image may write there."


_NO_TEMPORARY_FILES = "Give the pod a writable /tmp (an emptyDir), or set TMPDIR to a folder that can be written."


def _room(step: str, artifact_path: str) -> Check:
    places = {
        "artifacts": Path(artifact_path).parent,
        "caches": environment.CACHE_DIR,
        "shared memory": Path("/dev/shm"),
    }
    free = {name: machine.free_room(place) for name, place in places.items()}
    weights = free["caches"] / (_WEIGHT_BYTES * _COPIES) / 1e9
    seen = ", ".join(f"{size / 1e9:,.1f} GB for {name}" for name, size in free.items())
    seen += f"; enough to fetch and merge a model of {weights:,.1f} billion weights"
    return Check(step=step, name="How much room there is", state=NOTE, seen=seen)


def _object(step: str, probe_object: str) -> Check:
    name = "Cloud Storage can be read"
    if not probe_object:
        seen = "not tried; name an object that your data's account may read with probe_object, such as gs://BUCKET/data.jsonl"
        return Check(step=step, name=name, state=NOTE, seen=seen)
    remedy = (
        "On Vertex give the run's service account roles/storage.objectViewer on the bucket. On Kubeflow the steps need "
        "credentials of Google Cloud: Workload Identity, or the emulator's address in STORAGE_EMULATOR_HOST."
    )

    def read() -> str:
        return f"read {len(read_object(probe_object, parameter='probe_object')):,} bytes of {probe_object}"

    return _tried(step, name, read, remedy)
