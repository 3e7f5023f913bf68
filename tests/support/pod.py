"""Runs Python as a pod of a cluster runs it: with mounts of its own, and as any user, who has no home.

A mount namespace with a root of its own, in which nothing done is seen outside. Needs root on Linux; tests that use it are
skipped elsewhere.
"""

import os
import pwd
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

#: Its arguments: where to put the root together, `USER:GROUP`, folders that get an empty file system of their own, `--`,
#: folders that are seen all the same, `--`, a command.
_SCRIPT = """
set -e
root=$1; user=$2; shift 2
mount -t tmpfs -o mode=755 root "$root"
for entry in /*; do
  if [ -L "$entry" ]; then cp -P "$entry" "$root"
  elif [ -d "$entry" ]; then mkdir "$root$entry"; mount --rbind "$entry" "$root$entry"
  fi
done
while [ "$1" != -- ]; do
  mkdir -p "$root$1"; mount -t tmpfs -o mode=1777 scratch "$root$1"; shift
done
shift
while [ "$1" != -- ]; do
  if [ ! -d "$root$1" ]; then mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; fi; shift
done
shift
mount -o remount,ro "$root"
exec chroot --userspec "$user" --groups= "$root" "$@"
"""


def python_in_a_pod(
    code: str,
    *arguments: str,
    root: Path,
    scratch: Sequence[str] = (),
    user: str = "0:0",
    environment: Mapping[str, str | None] | None = None,
) -> str:
    """Return what a Python program prints in a pod, with what it says of an error.

    Args:
        code: The program.
        arguments: Of the program.
        root: An empty folder.
        scratch: Folders at which an empty file system is mounted, as Kubernetes mounts an emptyDir. Root's home is one.
        user: As whom it runs, `UID:GID`.
        environment: Variables beside those of this process; None for one that is not set.
    """
    unshare = ["unshare", "--mount"]
    try:
        subprocess.run([*unshare, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("SKIPPED: no mount namespace can be made here; it needs root on Linux")
    python = [sys.prefix, sys.base_prefix]  # either may lie in root's home, which nobody else can look into
    variables = os.environ | dict(environment or {})
    ran = subprocess.run(
        [
            *(*unshare, "sh", "-c", _SCRIPT, "pod", str(root), user),
            # By the user, not by HOME, which may name another folder.
            *(pwd.getpwuid(os.getuid()).pw_dir, *scratch, "--", *python, "--"),
            *(sys.executable, "-c", code, *arguments),
        ],
        env={name: value for name, value in variables.items() if value is not None},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ran.stdout
