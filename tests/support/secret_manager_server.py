"""A Secret Manager on this machine, as far as reading a version goes: payloads, states, and the errors of the real one.

Errors have Google's form: `error` with code, message, status and, where the service adds them, details.
"""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from google_statuses import STATUSES
from local_http import served
from service_account import TOKEN, use_service_account

from rlhf_tuning import environment, google_errors

PROJECT, NUMBER = "my-project", "123456789012"
SECRET = f"projects/{PROJECT}/secrets/judge-key"

_ACCESS = re.compile(r"/v1/projects/([^/]+)/secrets/([^/]+)/versions/([^/:]+):access")
_SERVICE = {"service": "secretmanager.googleapis.com", "consumer": f"projects/{NUMBER}"}


@dataclass
class Version:
    """One version of a secret; a destroyed one has no data left."""

    data: bytes
    state: str = "ENABLED"


@dataclass
class SecretManager:
    """What the service holds, how it is set, and what it was asked.

    Args:
        versions: Of the secret `SECRET`, oldest first.
        enabled: Whether the API is enabled.
        permitted: Whether the caller has roles/secretmanager.secretAccessor.
        faults: Statuses with which the next requests fail, one each; `checksum` sends one that does not fit.
        asked: The path of every request.
        url: Its address.
    """

    versions: list[Version] = field(default_factory=list)
    enabled: bool = True
    permitted: bool = True
    faults: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def use(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """Let this process find the server and credentials, and ask again without waiting."""
        use_service_account(monkeypatch, folder, project=PROJECT, token_uri=f"{self.url}/token")
        monkeypatch.setattr(environment, "SECRET_MANAGER_ENDPOINT", self.url)
        monkeypatch.setattr(google_errors, "DELAYS", (0.0, 0.0))

    def access(self, path: str) -> tuple[int, dict[str, Any]]:
        """Answer a request as the service does: the API first, then permission, then the version and its state."""
        fault = self.faults.pop(0) if self.faults else ""
        if fault and fault != "checksum":
            return _error(fault, "The service is currently unavailable.")
        found = _ACCESS.fullmatch(path)
        if found is None:
            return _error("NOT_FOUND", f"The requested URL {path} was not found on this server.")
        if not self.enabled:
            info = {"reason": "SERVICE_DISABLED", "domain": "googleapis.com", "metadata": _SERVICE}
            address = (
                f"https://console.developers.google.com/apis/api/secretmanager.googleapis.com/overview?project={NUMBER}"
            )
            message = (
                f"Secret Manager API has not been used in project {NUMBER} before or it is disabled. Enable it by visiting "
                f"{address} then retry. If you enabled this API recently, wait a few minutes for the action to propagate to "
                "our systems and retry."
            )
            return _error("PERMISSION_DENIED", message, {"@type": "type.googleapis.com/google.rpc.ErrorInfo", **info})
        project, secret, version = found.groups()
        name = f"projects/{project}/secrets/{secret}/versions/{version}"
        if not self.permitted:
            permission = "secretmanager.versions.access"
            info = {"reason": "IAM_PERMISSION_DENIED", "domain": "iam.googleapis.com"}
            metadata = {"permission": permission, "resource": name}
            message = f"Permission '{permission}' denied for resource '{name}' (or it may not exist)."
            detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", **info, "metadata": metadata}
            return _error("PERMISSION_DENIED", message, detail)
        if f"projects/{project}/secrets/{secret}" != SECRET or not self.versions:
            return _error("NOT_FOUND", f"Secret [projects/{NUMBER}/secrets/{secret}] not found or has no versions.")
        number = len(self.versions) if version == "latest" else int(version)
        named = f"projects/{NUMBER}/secrets/{secret}/versions/{number}"
        if not 1 <= number <= len(self.versions):
            return _error("NOT_FOUND", f"Secret Version [{named}] not found.")
        stored = self.versions[number - 1]
        if stored.state != "ENABLED":
            return _error("FAILED_PRECONDITION", f"Secret Version [{named}] is in {stored.state} state.")
        checksum = google_crc32c.value(stored.data) ^ (1 if fault else 0)
        # As protobuf's JSON has it: 64-bit numbers are strings, and what is empty is left out.
        payload = {"data": base64.b64encode(stored.data).decode(), "dataCrc32c": str(checksum)}
        return 200, {"name": named, "payload": {key: value for key, value in payload.items() if value}}


def _error(status: str, message: str, *details: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    error = {"code": STATUSES[status], "message": message, "status": status}
    return STATUSES[status], {"error": error | ({"details": list(details)} if details else {})}


@contextmanager
def serve_secret_manager(*versions: bytes) -> Iterator[SecretManager]:
    """Serve a project whose secret `SECRET` has these versions, oldest first, until the block ends."""
    state = SecretManager([Version(data) for data in versions])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send(200, TOKEN)

        def do_GET(self) -> None:
            state.asked.append(self.path)
            status, answer = state.access(self.path)
            if self.headers.get("Authorization") != "Bearer token":
                status, answer = _error("UNAUTHENTICATED", "Request is missing required authentication credential.")
            self.send(status, json.dumps(answer, indent=2).encode())

        def send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with served(Handler) as state.url:
        yield state
