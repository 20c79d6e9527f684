"""What the routes are given: the pool, and the facts of this server that clients see."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from starlette.requests import Request

from gateway.body import BodyReader
from gateway.chat.formats import ChatFormat
from gateway.errors import ApiError, excerpt
from gateway.observe.metrics import Metrics
from gateway.offload import Offload
from gateway.pool.base import WorkerPool
from shared.errors import ErrorCode


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
        log_prompts: whether prompts and completions are logged.
        request_timeout_s: seconds that a request may take in all; 0 for no bound.
        queue_timeout_s: seconds that a generation may wait for a worker; 0 for no bound.
    """

    model_id: str
    model_file: str
    workers: int
    max_body_bytes: int
    created: int
    most_bytes: int = 0
    chat_template: ChatFormat | None = None
    log_prompts: bool = False
    request_timeout_s: float = 0.0
    queue_timeout_s: float = 0.0

    @property
    def system_fingerprint(self) -> str:
        """What the text depends on besides the request: the model file and this program."""
        return f"{Path(self.model_file).name}@{VERSION}"


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A model that was loaded while another was served, and has taken its place.

    Attributes:
        model_id: its name, as clients say and see it.
        workers: how many generations run at once.
        seconds: how long it took.
    """

    model_id: str
    workers: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Admin:
    """What ``/admin`` is given.

    Attributes:
        key: who may use it.
        reload: loads the model again; raises an `ApiError`.
    """

    key: str
    reload: Callable[[], Awaitable[Reloaded]]


@dataclass(frozen=True, slots=True)
class Serving:
    """What the handlers are given; a reload replaces it.

    A handler looks for it once, and so works with one model from beginning to end.

    Attributes:
        config: what clients see of this server.
        pool: runs the generations.
        metrics: of all pools.
        offload: for large bodies.
        bodies: reads them.
        admin: None for no ``/admin``.
    """

    config: ServingConfig
    pool: WorkerPool
    metrics: Metrics
    offload: Offload
    bodies: BodyReader
    admin: Admin | None = None


def serving_of(request: Request) -> Serving:
    """The `Serving` of the application that got this request."""
    serving: Serving = request.app.state.serving
    return serving


def find(request: Request, name: str | None) -> Serving:
    """What serves the model of this name; None, the short form, asks for whatever there is.

    Raises:
        ApiError: `MODEL_NOT_FOUND`, with the names there are.
    """
    serving = serving_of(request)
    model_id = serving.config.model_id
    if name is not None and name != model_id:
        message = f"There is no model '{excerpt(name)}' here. This server has: '{model_id}'."
        raise ApiError(ErrorCode.MODEL_NOT_FOUND, message, "model")
    return serving
