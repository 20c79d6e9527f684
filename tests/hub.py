"""A small model hub on localhost, with the endpoints that huggingface_hub asks."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.http_answers import Reply, Request, answering

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the hub holds, and what it has been asked."""

    repositories: dict[str, dict[str, bytes]]  #: for each id its files, by their paths
    gated: set[str] = field(default_factory=set)  #: ids whose files nobody may read
    private: dict[str, str] = field(default_factory=dict)  #: ids that need a token, and which
    broken: bool = False  #: answers everything with status 500
    requests: list[str] = field(default_factory=list)  #: method and path of each
    url: str = ""

    def answer(self, request: Request) -> Reply:
        path = unquote(request.path.partition("?")[0])
        self.requests.append(f"{request.method} {path}")
        if self.broken:
            return Reply(500)
        is_model = path.startswith("/api/models/")
        path = path.removeprefix("/api/models" if is_model else "")
        repository, _, rest = path[1:].partition("/revision/" if is_model else "/resolve/")
        token = self.private.get(repository)
        if token and request.headers["authorization"] != f"Bearer {token}":
            return _refusal(401, "RepoNotFound")
        return (
            self._model(repository) if is_model else self._file(repository, rest.partition("/")[2])
        )

    def _model(self, repository: str) -> Reply:
        if repository not in self.repositories:
            return _refusal(404, "RepoNotFound")
        names = [{"rfilename": name} for name in self.repositories[repository]]
        model = {"_id": "1", "id": repository, "sha": COMMIT, "private": False, "tags": []}
        model |= {"downloads": 0, "likes": 0, "siblings": names}
        return Reply(200, json.dumps(model).encode(), {"Content-Type": "application/json"})

    def _file(self, repository: str, name: str) -> Reply:
        if repository not in self.repositories:
            return _refusal(404, "RepoNotFound")
        if repository in self.gated:
            return _refusal(403, "GatedRepo")
        content = self.repositories[repository].get(name)
        if content is None:
            return _refusal(404, "EntryNotFound")
        etag = hashlib.sha1(content).hexdigest()
        return Reply(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})


def _refusal(status: int, error: str) -> Reply:
    headers = {"X-Repo-Commit": COMMIT, "X-Error-Code": error, "X-Error-Message": error}
    return Reply(status, headers=headers)


@contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    """Serve the hub, as long as the context lasts, on a port of its own."""
    with answering(hub.answer) as hub.url:
        yield hub
