"""The process of a Python reward, a program of its own that knows nothing of this package: one JSON line in, one out.

First it takes limits upon itself that hold for all that it starts, too: of memory, of the size of files, and no network: the
kernel answers every attempt to open a socket with "permission denied". Then it loads the function and calls it.
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
from collections.abc import Callable
from typing import Any, cast

_MOST_FILE_BYTES = 2**28
#: Of a processor: how the kernel names it to filters, and the number of its call `socket`.
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
#: By which a program opens sockets without that call.
_IO_URING_SETUP = 425
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | 13  # EACCES


def confine(memory: int) -> None:
    """Take limits upon this process."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_FILE_BYTES, _MOST_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        raise OSError(
            "a Python function as a reward needs Linux on x86-64 or ARM64, where it can be kept off the network"
        )
    architecture, socket_call = _MACHINES[platform.machine()]
    steps = (
        (_LOAD, 0, 0, 4),  # the processor
        (_EQUAL, 0, 5, architecture),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_AT_LEAST, 3, 0, 0x40000000),  # those of another size of pointers
        (_EQUAL, 2, 0, socket_call),
        (_EQUAL, 1, 0, _IO_URING_SETUP),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in steps))
    given = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (
        (_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, 2, ctypes.addressof(given), 0, 0),
    ):
        if libc.prctl(*(ctypes.c_ulong(value) for value in call)):
            raise OSError(f"this system cannot keep it off the network: {os.strerror(ctypes.get_errno())}")


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
                confine(message["memory"])
                function = load(message["function"], message["code"])
                reply: dict[str, object] = {"ready": True}
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
