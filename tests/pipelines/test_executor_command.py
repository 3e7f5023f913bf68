import signal
import subprocess
import sys
import time

import pytest

from rlhf_components.train_policy import train_policy
from rlhf_pipelines.executor_command import program_and_arguments, python_in_place_of_shell


@pytest.fixture
def command():
    """What kfp runs for a component."""
    return list(train_policy.component_spec.implementation.container.command)


def test_python_takes_the_place_of_the_shell_and_nothing_else_changes(command):
    changed = python_in_place_of_shell(command)
    assert [word.replace(" exec python3", " python3") for word in changed] == command
    assert sum(" exec python3 -m kfp" in word for word in changed) == 1


def test_other_commands_stay_as_they_are():
    assert python_in_place_of_shell(["echo", "a"]) == ["echo", "a"]


def test_the_program_and_what_the_executor_is_given_are_told_from_the_script():
    container = train_policy.component_spec.implementation.container
    found = program_and_arguments([*container.command, *container.args])
    assert found
    source, arguments = found
    assert "def train_policy(" in source
    assert arguments[-2:] == ["--function_to_execute", "train_policy"]
    assert program_and_arguments(["sh", "-c", "echo"]) is None


@pytest.mark.parametrize("in_place", [True, False])
def test_a_signal_to_the_first_process_reaches_python_only_in_the_place_of_the_shell(command, tmp_path, in_place):
    waits = (
        "import signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(tmp_path / 'told')!r}, 'w').close(), sys.exit(7)))\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "time.sleep(3)\n"
    )
    words = python_in_place_of_shell(command) if in_place else command
    # The same script; its Python runs the program above in the place of kfp's executor.
    script = words[2].replace(
        "python3 -m kfp.dsl.executor_main", f'{sys.executable} "$program_path/ephemeral_component.py"'
    )
    process = subprocess.Popen(["sh", "-ec", script, waits])
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    status = process.wait()
    assert (tmp_path / "told").exists() == in_place
    assert status == (7 if in_place else -signal.SIGTERM)
