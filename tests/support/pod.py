"""Runs Python as a pod of Kubeflow's runs it: the file systems of this machine, and mounts of its own over them.

A mount namespace with a root of its own, in which nothing done is seen outside. Needs root on Linux; tests that use it are
skipped elsewhere.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

#: Its arguments: where to put the root together, folders that get an empty file system of their own, `--`, a command.
_SCRIPT = """
set -e
root=$1; shift
mount -t tmpfs root "$root"
for entry in /*; do
  if [ -L "$entry" ]; then cp -P "$entry" "$root"
  elif [ -d "$entry" ]; then mkdir "$root$entry"; mount --rbind "$entry" "$root$entry"
  fi
done
while [ "$1" != -- ]; do
  mkdir -p "$root$1"; mount -t tmpfs -o mode=1777 scratch "$root$1"; shift
done
shift
exec chroot "$root" "$@"
"""


def python_in_a_pod(
    code: str, *arguments: str, root: Path, scratch: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
) -> str:
    """Return what a Python program prints in a pod, with what it says of an error.

    Args:
        code: The program.
        arguments: Of the program.
        root: An empty folder.
        scratch: Folders at which an empty file system is mounted, as Kubernetes mounts an emptyDir.
        environment: Variables beside those of this process.
    """
    made = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False) if _unshare() else None
    if made is None or made.returncode:
        pytest.skip("SKIPPED: no mount namespace can be made here; it needs root on Linux")
    ran = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            _SCRIPT,
            "pod",
            str(root),
            *scratch,
            "--",
            sys.executable,
            "-c",
            code,
            *arguments,
        ],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ran.stdout


def _unshare() -> bool:
    return any((Path(folder) / "unshare").is_file() for folder in os.get_exec_path())
