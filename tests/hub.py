"""A small model hub on localhost, with the endpoints that huggingface_hub asks."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the hub holds, and what it has been asked."""

    repositories: dict[str, dict[str, bytes]]  #: for each id its files, by their paths
    gated: set[str] = field(default_factory=set)  #: ids whose files nobody may read
    broken: bool = False  #: answers everything with status 500
    requests: list[str] = field(default_factory=list)  #: method and path of each
    url: str = ""


@contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    """Serve the hub, as long as the context lasts, on a port of its own."""

    class Handler(_HubHandler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _HubHandler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.broken:
            self.send(500)
        elif path.startswith("/api/models/"):
            self.model(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            repository, _, rest = path[1:].partition("/resolve/")
            self.file(repository, rest.partition("/")[2])
        else:
            self.send(404)

    def model(self, path: str) -> None:
        repository = path.partition("/revision/")[0]
        files = self.hub.repositories.get(repository)
        if files is None:
            self.send(404, error="RepoNotFound")
        else:
            names = [{"rfilename": name} for name in files]
            model = {"_id": "1", "id": repository, "sha": COMMIT, "private": False, "tags": []}
            model |= {"downloads": 0, "likes": 0, "siblings": names}
            self.send(200, json.dumps(model).encode(), kind="application/json")

    def file(self, repository: str, name: str) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            self.send(404, error="RepoNotFound")
        elif repository in self.hub.gated:
            self.send(403, error="GatedRepo")
        elif name not in files:
            self.send(404, error="EntryNotFound")
        else:
            self.send(200, files[name], etag=_etag(files[name]))

    def send(
        self,
        status: int,
        body: bytes = b"",
        *,
        kind: str = "application/octet-stream",
        error: str = "",
        etag: str = "",
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
            self.send_header("X-Error-Message", error)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
