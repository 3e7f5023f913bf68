import ctypes
import os
import tempfile
import time
from pathlib import Path

import pytest
from tests.unit.rewards.scoring import EXAMPLE, answer, loaded, scores

from rlhf_tuning.errors import ParameterError
from rlhf_tuning.rewards import python, python_worker

#: As Google's documentation of its code scorer has it.
GOOGLES = """
def evaluate(example, response) -> float:
    response_str = response.get("parts", [])[0]["text"]
    references = example.get("references", {})
    if response_str == references.get("answer"):
        return 1.0
    return -1.0
"""


def body(text):
    return {"kind": "python", "code": f"def evaluate(example, response):\n    {text}", "timeout_s": 20}


def test_googles_function_scores_as_it_stands():
    assert scores({"kind": "python", "code": GOOGLES}, answer("42"), answer("41")) == [1.0, -1.0]


def test_it_is_given_googles_rows_and_several_processes_keep_the_order():
    text = (
        "assert example == {'systemInstruction': {'parts': [{'text': 'Be brief.'}]}, 'contents': [{'role': 'user', "
        "'parts': [{'text': '6 x 7?'}]}], 'references': {'answer': '42'}}\n"
        "    return int(response['parts'][0]['text']) / 10"
    )
    assert scores({**body(text), "workers": 2}, *map(answer, "12345")) == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_function_of_a_module_is_called(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def shortness(example, response):\n    return 0.25\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert scores({"kind": "python", "function": "my_rewards:shortness"}, answer("a")) == [0.25]


HOSTILE = {
    "while True: pass": "took more than 0.5 s on the answer 'a' to '6 x 7?'",
    "return len(bytearray(10 * 10**9))": "failed with MemoryError",
    "import os; os._exit(0)": "ended its process with status 0 on the answer",
    "import sys; sys.exit(3)": "failed with SystemExit: 3",
    "import os; os.kill(os.getpid(), 9)": "ended its process by SIGKILL",
    "import socket; socket.socketpair()": "failed with PermissionError: [Errno 13]",
    "import socket; socket.create_connection(('127.0.0.1', 9))": "failed with PermissionError: [Errno 13]",
    "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import socket; socket.socket()'], check=True)": (
        "failed with CalledProcessError"
    ),
    "return 1 / 0": "failed with ZeroDivisionError: division by zero (line 2 of its code)",
    "import json; json.loads('{')": "double quotes: line 1 column 2 (char 1) (line 2 of its code)",
    "return None": "failed with TypeError: it returned None, not a number",
    "return float('nan')": "gives 1 of 1 answers a score that is not finite",
    "open('big', 'wb').truncate(2**29)": "failed with OSError: [Errno 27] File too large",
    "import gc, socket; [it.sendall(b'x' * 70000) for it in gc.get_objects() if type(it) is socket.socket]": (
        "wrote into the connection"
    ),
}


#: What looks into the step, or reaches for it, from the function or from a program that it starts.
_CALL = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True); it = os.getppid(); "
_OR_FAIL = "; raise PermissionError(ctypes.get_errno(), 'no') if found < 0 else ValueError(found)"
_IN_A_PROGRAM = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}], check=True)"
HOSTILE |= {
    f"import os; open(f'/proc/{{os.getppid()}}/{name}', 'rb').read(1)": "failed with PermissionError"
    for name in ("environ", "maps", "mem")
}
HOSTILE |= {
    f"{_CALL}found = libc.{call}{_OR_FAIL}": "failed with PermissionError: [Errno 13]"
    for call in (
        "ptrace(0x4206, it, None, None)",  # PTRACE_SEIZE, which stops nobody
        "process_vm_readv(it, None, 0, None, 0, 0)",
        "process_vm_writev(it, None, 0, None, 0, 0)",
        "syscall(438, os.pidfd_open(it), 0, 0)",  # pidfd_getfd
    )
}
HOSTILE |= {
    "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CORE)": "failed with PermissionError",
    _IN_A_PROGRAM.format("print(len(open('/proc/%d/environ').read()))").replace("%d", str(os.getpid())): (
        "failed with CalledProcessError"
    ),
}
needs_signals_kept_in = pytest.mark.skipif(
    ctypes.CDLL(None).syscall(444, None, 0, 1) < 6, reason="this Linux has no Landlock that keeps signals in"
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_function_fails_the_run_with_clear_words_and_nothing_else(text, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rewards = loaded({**body(text), "timeout_s": 0.5 if "while" in text else 20})
    [worker] = rewards.parts[0].scorer._workers
    began = time.monotonic()
    with pytest.raises(ParameterError) as caught:
        rewards.score([EXAMPLE], [answer("a")], step=1)
    assert HOSTILE[text] in str(caught.value)
    assert time.monotonic() - began < 15
    rewards.close()
    assert worker._process.poll() is not None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def evaluate(:", "failed with SyntaxError"),
        ("def other(example, response): return 1", "failed with LookupError: the code has no function evaluate"),
        ("import no_such_package", "failed with ModuleNotFoundError"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_told_before_any_answer(code, words):
    with pytest.raises(ParameterError, match=f"{words}.* while it was loaded"):
        loaded({"kind": "python", "code": code})


@needs_signals_kept_in
@pytest.mark.parametrize(
    "text", ["import os; os.kill(os.getppid(), 0)", "import os; os.killpg(os.getpgid(os.getppid()), 0)"]
)
def test_it_signals_no_process_but_its_own(text):
    with pytest.raises(ParameterError, match="failed with PermissionError"):
        scores(body(text), answer("a"))


def test_it_may_end_a_program_that_it_started_and_read_of_itself():
    text = (
        "import subprocess\n"
        "    try: subprocess.run(['sleep', '30'], timeout=0.1)\n"
        "    except subprocess.TimeoutExpired: return 1.0 if open('/proc/self/environ').read() else -1.0"
    )
    assert scores(body(text), answer("a")) == [1.0]


@pytest.mark.parametrize(
    ("version", "may"), [(0, "read the environment and memory of other processes"), (3, "end other processes")]
)
def test_what_it_could_do_where_the_kernel_does_not_forbid_it_is_said(version, may, monkeypatch, capsys):
    monkeypatch.setattr(python._Worker, "begin", lambda self: version)
    loaded(body("return 1")).close()
    assert f"The Python function of the reward python could {may}" in capsys.readouterr().out


def test_it_sees_nothing_of_the_steps_environment_and_what_it_prints_is_no_reply(monkeypatch):
    monkeypatch.setenv("RLHF_JUDGE_API_KEY", "sk-secret")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/secret.json")
    text = (
        "import os; print('hello')\n"
        "    return -1.0 if {*os.environ} & {'RLHF_JUDGE_API_KEY', 'GOOGLE_APPLICATION_CREDENTIALS'} else 1.0"
    )
    assert scores(body(text), answer("a")) == [1.0]


def test_the_program_of_its_process_imports_nothing_of_this_package():
    assert "rlhf_tuning" not in Path(python_worker.__file__).read_text()
