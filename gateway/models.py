"""The models of a server, found by name, and what clients see of them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastapi import Request

from gateway.body import BodyReader
from gateway.calibration import Calibration
from gateway.errors import ApiError, excerpt
from gateway.observe.metrics import Metrics
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
    """The part of the settings that the HTTP side needs."""

    model_id: str  #: the model's name, as clients say and see it
    model_file: str  #: part of every ``system_fingerprint``
    workers: int  #: processes that generate at the same time
    max_body_bytes: int
    created: int  #: when this server started, in seconds of Unix time
    most_bytes: int = 0  #: memory of all workers together
    log_prompts: bool = False  #: and completions
    request_timeout_s: float = 0.0  #: 0 for no bound
    queue_timeout_s: float = 0.0  #: 0 for no bound
    threads: int = 1  #: of all workers together
    is_exact: bool = True  #: texts do not depend on what else runs
    calibration: Calibration | None = None  #: what is measured of the model, if anything

    @property
    def system_fingerprint(self) -> str:
        """What the text depends on besides the request: the model file and this program."""
        return f"{Path(self.model_file).name}@{VERSION}"

    def measure_beside(self) -> None:
        """Measure what is not known of the model yet, beside the server's work."""
        if self.calibration is not None:
            self.calibration.measure_beside()

    def measured(self) -> dict[str, Any]:
        """What clients see of that, and of the layout."""
        known = self.calibration.exactness if self.calibration is not None else None
        return {
            "exact": self.is_exact,
            "exact_rows": known.rows if known else None,
            "exact_threads": known.threads if known else None,
            "layout": {"workers": self.workers, "threads": self.threads},
        }


@dataclass(frozen=True, slots=True)
class Served:
    """A model; a request stays with the one that it has found to its end."""

    config: ServingConfig
    pool: WorkerPool


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A model that was loaded while another was served, and has taken its place."""

    model_id: str
    workers: int
    seconds: float  #: that it took


@dataclass(frozen=True, slots=True)
class Admin:
    """What ``/admin`` may do, and with which key."""

    key: str
    reload: Callable[[], Awaitable[Reloaded]]  #: raises an `ApiError`


class Models:
    """The models by name: one at a time, which can be replaced while it is served."""

    def __init__(self, served: Served, metrics: Metrics, bodies: BodyReader) -> None:
        self.metrics = metrics
        self.bodies = bodies
        self.admin: Admin | None = None
        self.replace(served)

    def replace(self, served: Served) -> None:
        """Give this model to all requests that come from now on."""
        self.default = served
        config = served.config
        self.metrics.measure(served.pool, config.model_id, config.most_bytes)

    def find(self, name: str | None) -> Served:
        """The model of this name; None, the short form, takes whichever is served.

        Raises:
            ApiError: `MODEL_NOT_FOUND`, with the names there are.
        """
        model_id = self.default.config.model_id
        if name is not None and name != model_id:
            message = f"There is no model '{excerpt(name)}' here. This server has: '{model_id}'."
            raise ApiError(ErrorCode.MODEL_NOT_FOUND, message, "model")
        return self.default


def models_of(request: Request) -> Models:
    models: Models = request.app.state.models
    return models
