"""A model hub on this machine, as the Hugging Face hub answers its client: repositories, revisions, files, and errors."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from local_http import served

_API = re.compile(r"/api/models/(?P<repo>[\w.-]+/[\w.-]+)(?:/revision/(?P<revision>[^/?]+))?")
_TREE = re.compile(r"/api/models/(?P<repo>[\w.-]+/[\w.-]+)/tree/(?P<revision>[^/?]+)(?:/(?P<folder>.*))?")
_FILE = re.compile(r"/(?P<repo>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass
class Hub:
    """Repositories, each with its commits and the names that stand for one of them."""

    url: str = ""
    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def commit(self, repo: str, folder: Path, branch: str = "main") -> str:
        """Let the files of a folder be a branch's new commit, and return its hash."""
        digest = hashlib.sha1(repr([repo, str(folder), len(self.commits.get(repo, {}))]).encode()).hexdigest()
        self.commits.setdefault(repo, {})[digest] = folder
        self.names.setdefault(repo, {})[branch] = digest
        return digest


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None: ...

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _fail(self, status: int, code: str, message: str, **headers: str) -> None:
            body = json.dumps({"error": message}).encode()
            told = {"Content-Type": "application/json", "X-Error-Code": code, "X-Error-Message": message}
            self._send(status, body, told | headers)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            found = _TREE.fullmatch(path) or _API.fullmatch(path) or _FILE.fullmatch(path)
            if found is None:
                self._fail(404, "", "Not found")
                return
            named = found.groupdict()
            repo, revision = named["repo"], named["revision"] or "main"
            if repo not in hub.commits:
                self._fail(401, "RepoNotFound", "Repository not found")
                return
            sha = hub.names[repo].get(revision, revision)
            if sha not in hub.commits[repo]:
                self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                return
            folder = hub.commits[repo][sha]
            if path.startswith("/api/"):
                if named.get("folder"):
                    self._fail(404, "EntryNotFound", f"{named['folder']} does not exist on {revision}")
                    return
                files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                if "blobs=true" in self.path:
                    files = [one | {"size": (folder / one["rfilename"]).stat().st_size} for one in files]
                content = {"_id": "1", "id": repo, "modelId": repo, "sha": sha, "private": False, "siblings": files}
                self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})
                return
            file = folder / named["path"]
            if not file.is_file():
                # The commit, by which clients remember what it lacks: without a hub they need not wait for one to say so.
                absent = f"{named['path']} does not exist on {revision}"
                self._fail(404, "EntryNotFound", absent, **{"X-Repo-Commit": sha})
                return
            body = file.read_bytes()
            etag = hashlib.sha1(body).hexdigest()
            headers = {"X-Repo-Commit": sha, "ETag": f'"{etag}"', "Content-Type": "application/octet-stream"}
            if span := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                hub.asked[-1] += f" {span[0]}"
                piece = body[int(span[1]) : int(span[2]) + 1]
                self._send(206, piece, headers | {"Content-Range": f"bytes {span[1]}-{span[2]}/{len(body)}"})
                return
            self._send(200, body, headers)

    return Handler


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub until the block ends."""
    hub = Hub()
    with served(_handler(hub)) as hub.url:
        yield hub
