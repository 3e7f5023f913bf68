"""A server with an OpenAI-compatible `/v1/chat/completions` and Gemini's `generateContent`, which fails as it is told to."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_http import served

KEY = "sk-secret-3f1c"

#: What the server does instead of a proper reply; `status` may bring headers.
Fault = str | tuple[int, dict[str, str], str]


def material(question: str) -> dict[str, str]:
    """Return the parts of a question as a judge that heeds the marks reads them."""
    (mark,) = set(re.findall(r"line that begins with ===([0-9a-f]+)\.", question))
    parts = re.split(rf"^==={mark} (.+)$", question, flags=re.M)
    return {name: body.strip("\n") for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def longer_wins(question: str) -> str:
    """Judge as a very simple reader would: by length."""
    parts = material(question)
    a, b = len(parts["answer A"]), len(parts["answer B"])
    return f"Verdict: {'tie' if a == b else 'A' if a > b else 'B'}"


class JudgeServer:
    """What the server was asked, and what it does next.

    Args:
        reply: From a question to the reply's text.
        faults: Met by the first requests, one each.
    """

    def __init__(self, reply: Callable[[str], Any] = longer_wins, faults: Sequence[Fault] = ()) -> None:
        self.reply, self.faults = reply, list(faults)
        self.questions: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.url = ""
        #: That the server says a reply took; 0 for a server that does not say it.
        self.tokens = 0


@contextmanager
def judge_server(reply: Callable[[str], Any] = longer_wins, faults: Sequence[Fault] = ()) -> Iterator[JudgeServer]:
    """Run the server on a free port; its `url` is the base of both APIs' paths."""
    state = JudgeServer(reply, faults)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            gemini = self.path.endswith(":generateContent")
            question = body["contents"][0]["parts"][0]["text"] if gemini else body["messages"][0]["content"]
            with state.lock:
                state.questions.append(question)
                state.bodies.append(body)
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                state.times.append(time.monotonic())
                fault = state.faults.pop(0) if state.faults else ""
            if not gemini and self.path != "/v1/chat/completions":
                fault = (404, {}, '{"error": {"message": "Not Found"}}')
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "hang":
                time.sleep(3)
            if isinstance(fault, tuple):
                return self.send(*fault)
            if fault == "no json":
                return self.send(200, {}, "<html>It works!</html>")
            if fault == "empty choices":
                return self.send(200, {}, '{"candidates": []}' if gemini else '{"choices": []}')
            text = fault.removeprefix("say:") if fault.startswith("say:") else state.reply(question)
            cut = fault == "cut"
            if gemini:
                said = {
                    "candidates": [
                        {
                            "content": {"role": "model", "parts": [{"text": text}]},
                            "finishReason": "MAX_TOKENS" if cut else "STOP",
                        }
                    ],
                    **({"usageMetadata": {"totalTokenCount": state.tokens}} if state.tokens else {}),
                }
            else:
                message = {"role": "assistant", "content": text}
                said = {
                    "choices": [{"index": 0, "message": message, "finish_reason": "length" if cut else "stop"}],
                    **({"usage": {"total_tokens": state.tokens}} if state.tokens else {}),
                }
            self.send(200, {}, json.dumps(said))

        def send(self, status: int, headers: dict[str, str], body: str) -> None:
            data = body.encode()
            try:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass  # the client has given up, as it should

    with served(Handler) as state.url:
        yield state
