"""Where caches go: into the home folder, or where there is none that can be written to, into a temporary one."""

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
