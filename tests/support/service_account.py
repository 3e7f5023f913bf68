"""A service account that Google's libraries find, whose tokens come from a server of the test."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

#: What the server at `token_uri` answers.
TOKEN = b'{"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}'


def use_service_account(monkeypatch: pytest.MonkeyPatch, folder: Path, *, project: str, token_uri: str) -> Path:
    """Make `google.auth.default` find a service account of the project, and return its key file."""
    path = folder / "credentials.json"
    path.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": project,
                "private_key_id": "1",
                "private_key": _private_key(),
                "client_email": f"tester@{project}.iam.gserviceaccount.com",
                "client_id": "1",
                "token_uri": token_uri,
            }
        )
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    return path


@functools.cache
def _private_key() -> str:
    # The smallest there is: Google's library checks the key each time it reads it, and nobody is to be kept out.
    return private_key_pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)).decode()


def private_key_pem(key: Any) -> bytes:
    """Return a private key as PEM."""
    return bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
