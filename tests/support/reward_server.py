"""A reward service by Google's Cloud Run contract, which fails as it is told to."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_http import served


class RewardServer:
    """What the service was asked, and what it does next.

    Args:
        reward: From a request's body to its reply's.
        faults: Met by the first requests, one each: a status with a body, seconds to be slow, or "drop".
    """

    def __init__(
        self, reward: Callable[[dict[str, Any]], Any], faults: Sequence[tuple[int, str] | float | str] = ()
    ) -> None:
        self.reward, self.faults = reward, list(faults)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.together = self.most_together = 0
        self.gone_until = 0.0
        self.lock = threading.Lock()
        self.url = ""


def by_length(body: dict[str, Any]) -> dict[str, Any]:
    """Reward an answer for its length."""
    return {"reward": len(body["response"]["parts"][0]["text"]) / 10, "user_requested_aux_info": "counted"}


@contextmanager
def reward_server(
    reward: Callable[[dict[str, Any]], Any] = by_length, faults: Sequence[tuple[int, str] | float | str] = ()
) -> Iterator[RewardServer]:
    """Run the service on a free port."""
    state = RewardServer(reward, faults)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.bodies.append(body)
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                state.times.append(time.monotonic())
                state.together += 1
                state.most_together = max(state.most_together, state.together)
                fault = state.faults.pop(0) if state.faults else None
            try:
                if fault == "drop" or time.monotonic() < state.gone_until:
                    self.close_connection = True
                    return
                if isinstance(fault, float):
                    time.sleep(fault)
                status, text = fault if isinstance(fault, tuple) else (200, json.dumps(state.reward(body)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())
            except ConnectionError:
                self.close_connection = True
            finally:
                with state.lock:
                    state.together -= 1

    with served(Handler) as url:
        state.url = url
        yield state
