"""Where caches go: into the home folder, or where there is none that can be written to, into a temporary one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pod import python_in_a_pod

#: A group that is root's, any user, a read-only root and an empty /tmp, as OpenShift has it.
ANYONE = "12345:0"


@pytest.mark.parametrize("home", [None, "/", "/nowhere", "/tmp/mine"])
def test_a_user_without_a_home_works_in_a_temporary_one(tmp_path: Path, home: str | None) -> None:
    code = (
        "import os\n"
        "from rlhf_tuning import environment\n"
        "from huggingface_hub.constants import HF_HOME\n"
        "assert os.getuid() == 12345\n"
        "for folder in (environment.CACHE_DIR, environment.REGISTRY_DIR, HF_HOME, os.path.expanduser('~/.triton')):\n"
        "    os.makedirs(folder)\n"
        "print(environment.CACHE_DIR)\n"
    )
    variables = dict.fromkeys(("USER", "LOGNAME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "RLHF_CACHE_DIR", "HF_HOME"))
    told = python_in_a_pod(
        code, root=tmp_path, scratch=("/tmp",), user=ANYONE, environment=variables | {"HOME": home}
    ).strip()
    assert told.startswith("/tmp/mine/" if home == "/tmp/mine" else "/tmp/rlhf-home-"), told
    assert told.endswith("/.cache/rlhf-pipelines")


def test_a_home_that_can_be_written_to_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_tuning import environment

    for home in (tmp_path, tmp_path / "new"):
        monkeypatch.setenv("HOME", str(home))
        assert environment._home() == home


def test_every_command_of_a_user_without_a_home_finds_the_same_folder(tmp_path: Path) -> None:
    tell = (
        "import subprocess, sys\n"
        "tell = [sys.executable, '-c', 'from rlhf_tuning import environment as e; print(e.CACHE_DIR)']\n"
        "print(len({subprocess.run(tell, capture_output=True).stdout for _ in range(2)}))\n"
    )
    variables = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "RLHF_CACHE_DIR"))
    told = python_in_a_pod(tell, root=tmp_path, scratch=("/tmp",), user=ANYONE, environment=variables)
    assert told.strip() == "1"


def test_a_variable_that_is_no_number_is_told_without_a_traceback() -> None:
    code = [sys.executable, "-c", "import rlhf_tuning.environment"]
    ran = subprocess.run(
        code, env=os.environ | {"RLHF_PROGRESS_SECONDS": "abc"}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert (
        ran.stderr
        == "rlhf: the environment variable RLHF_PROGRESS_SECONDS is 'abc'; it must be a number, such as 15.\n"
    )
