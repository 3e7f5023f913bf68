"""The address of a server on the web, as people give it."""

import re
from urllib.parse import urlsplit

from rlhf_tuning.errors import ParameterError

#: What one must be, for messages that name one.
WEB_ADDRESS = "it must be a URL that begins with http:// or https:// and names a host that there can be"
#: A name, or an address of IPv6, which may have a zone.
_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+(%[\w.-]+)?")


def host_of(url: str) -> str:
    """Return the host that a URL of the web names; empty where it is none, or could never be asked."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")  # which no empty label has, nor one of more than 63 characters
        usable = parts.scheme in ("http", "https") and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:  # a port beyond 65,535 is one too
        return ""
    return host if usable and _HOST.fullmatch(host) else ""


def check_web_address(url: str, name: str) -> None:
    """Check the address of a server.

    Args:
        url: The address as given.
        name: What it was given with, such as `--host`.

    Raises:
        ParameterError: If no server can be there, or it holds a password, which is not shown.
    """
    host = host_of(url)
    if "@" in (urlsplit(url).netloc if host else url):
        raise ParameterError(f"{name} holds a user name or a password, which would stand in logs. Give the bare URL.")
    if not host:
        raise ParameterError(f"{name} is {url!r}; {WEB_ADDRESS}, such as http://localhost:8080.")
