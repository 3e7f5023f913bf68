"""Compiles `read_rows.c`, the fast way to read rows, when the package is built or installed in place.

Without a C compiler the package is built all the same, for any platform, and reads rows more slowly.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_DATA = Path("src/rlhf_tuning/data")


class ReadRows(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the library beside its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say for which platform the wheel is."""
        library = Path(self.root) / _DATA / "_read_rows.so"
        library.unlink(missing_ok=True)
        command = [
            *shlex.split(os.environ.get("CC", "cc")),
            *("-std=c11", "-O3", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(library)),
            str(library.with_name("read_rows.c")),
        ]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"No fast reading of rows, for want of a C compiler: {error}", file=sys.stderr)
            library.unlink(missing_ok=True)
            return
        # It knows nothing of Python, so one wheel does for every version of it.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append(f"/{_DATA}/{library.name}")
