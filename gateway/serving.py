"""What the routes are given: the pool, and the facts of this server that clients see."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastapi import Request

from gateway.chat.formats import ChatFormat
from gateway.metrics import Metrics
from gateway.offload import Offload
from gateway.pool.base import WorkerPool


def _version() -> str:
    try:
        return version("ggml-fastapi")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"


VERSION = _version()
"""The version of this package."""


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """The part of the settings that the HTTP side needs.

    Attributes:
        model_id: the model's name, as clients say and see it.
        model_file: the file that is served; part of every ``system_fingerprint``.
        workers: how many generations run at once.
        max_body_bytes: the longest request body that is read.
        most_bytes: the most memory that the workers take together.
        created: when this server started, in seconds of Unix time.
        chat_template: the chat format that the settings ask for; None leaves it to the model.
    """

    model_id: str
    model_file: str
    workers: int
    max_body_bytes: int
    created: int
    most_bytes: int = 0
    chat_template: ChatFormat | None = None

    @property
    def system_fingerprint(self) -> str:
        """What the text depends on besides the request: the model file and this program."""
        return f"{Path(self.model_file).name}@{VERSION}"


@dataclass(frozen=True, slots=True)
class Serving:
    """What `create_app` was given, for the handlers."""

    config: ServingConfig
    pool: WorkerPool
    metrics: Metrics
    offload: Offload


def serving_of(request: Request) -> Serving:
    """The `Serving` of the application that got this request."""
    serving: Serving = request.app.state.serving
    return serving
