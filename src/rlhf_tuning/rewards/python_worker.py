"""The process of a Python reward, a program of its own that knows nothing of this package: one JSON line in, one out.

First it takes limits upon itself that hold for all that it starts, too: of memory, of the size of files, no network, no look
into other processes and no signal to them: the kernel answers with "permission denied". Then it loads the function and calls
it.
"""

import ctypes
import importlib
import json
import numbers
import os
import platform
import resource
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, cast

_MOST_FILE_BYTES = 2**28
#: Of a processor: how the kernel names it to filters, and which of the numbers below are its calls'.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
#: By which programs open sockets, look into other processes, or have the kernel do so.
_REFUSED = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "io_uring_setup": (425, 425),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
#: Sets limits of any process.
_PRLIMIT = (302, 261)
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | 13  # EACCES
#: Of Landlock: its calls, and what a set of rules may be about.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_MAKE_BLOCK_DEVICE, _SIGNALS = 1 << 11, 1 << 1
_CAPABILITY_VERSION = 0x20080522


def confine(memory: int) -> int:
    """Take limits upon this process; return the version of Landlock by which it is kept from other processes, or 0."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_FILE_BYTES, _MOST_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        raise OSError(
            "a Python function as a reward needs Linux on x86-64 or ARM64, where it can be kept off the network"
        )
    libc = ctypes.CDLL(None, use_errno=True)

    def control(*values: int) -> None:
        _done(libc.prctl(*(ctypes.c_ulong(value) for value in values)))

    control(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    control(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    landlock = _restrict(libc)
    # Root is nobody special either.
    _done(libc.capset(struct.pack("@Ii", _CAPABILITY_VERSION, 0), bytes(24)))
    architecture, column = _MACHINES[platform.machine()]
    steps = _filter(architecture, [numbers[column] for numbers in _REFUSED.values()], _PRLIMIT[column])
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in steps))
    given = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    control(_PR_SET_SECCOMP, 2, ctypes.addressof(given), 0, 0)
    return landlock


def _restrict(libc: ctypes.CDLL) -> int:
    """Enter a domain of Landlock: the `/proc` of what is outside shows nothing private, and no signal gets there.

    The first is so in every domain, the second from version 6 on. Files are what they were: a domain must be about some
    right, so it is that to make block devices.
    """
    version = max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)))
    if version:
        rules = struct.pack("@QQQ", _MAKE_BLOCK_DEVICE, 0, _SIGNALS if version >= 6 else 0)
        ruleset = libc.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
        _done(ruleset)
        _done(libc.syscall(_RESTRICT_SELF, ruleset, 0))
        os.close(ruleset)
    return version


def _filter(architecture: int, refused: Sequence[int], limits: int) -> list[tuple[int, int, int, int]]:
    """Return the program that says of each call whether the kernel is to do it."""
    count = len(refused)
    return [
        (_LOAD, 0, 0, 4),  # the processor
        (_EQUAL, 0, count + 6, architecture),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_AT_LEAST, count + 4, 0, 0x40000000),  # those of another size of pointers
        *((_EQUAL, count + 3 - place, 0, number) for place, number in enumerate(refused)),
        (_EQUAL, 0, 2, limits),
        (_LOAD, 0, 0, 16),  # whose limits: 0 are one's own
        (_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    ]


def _done(result: int) -> None:
    if result < 0:
        raise OSError(
            f"this system cannot keep it off the network and other processes: {os.strerror(ctypes.get_errno())}"
        )


def load(function: str, code: str) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    """Return the function that a text or a module has under a name."""
    if code:
        names: dict[str, Any] = {"__name__": "reward"}
        exec(compile(code, "reward.py", "exec"), names)
        found = names.get(function)
        where = "the code"
    else:
        module, _, function = function.partition(":")
        found, where = getattr(importlib.import_module(module), function, None), module
    if not callable(found):
        raise LookupError(f"{where} has no function {function}")
    return cast("Callable[[dict[str, Any], dict[str, Any]], object]", found)


def told(error: BaseException) -> str:
    """Return an error as a person reads it, with the line of theirs where it happened."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    # The first is of their file; what this calls may be of any other.
    lines = [frame.lineno for frame in frames if frame.filename == frames[0].filename]
    place = f" (line {lines[-1]} of its code)" if lines else ""
    return f"{type(error).__name__}: {str(error)[:500]}{place}"


def main() -> None:
    """Load the function, then answer until nobody asks."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    lines = connection.makefile("r", encoding="utf-8")
    function = None
    for line in lines:
        message = json.loads(line)
        try:
            if function is None:
                landlock = confine(message["memory"])
                function = load(message["function"], message["code"])
                reply: dict[str, object] = {"landlock": landlock}
            else:
                score = function(message["example"], message["response"])
                if not isinstance(score, numbers.Real):
                    raise TypeError(f"it returned {score!r:.80}, not a number")
                reply = {"score": float(score)}
        except BaseException as error:
            reply = {"error": told(error)}
        connection.sendall(json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
