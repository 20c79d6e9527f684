"""Why a request can fail: codes that cross the process boundary and reach the client."""

from enum import Enum
from pathlib import Path


class ErrorCode(str, Enum):
    """The ``code`` of an error; ``gateway/errors.py`` gives each its HTTP status.

    The names are OpenAI's where OpenAI has one for the case.
    """

    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    INVALID_PROMPT = "invalid_prompt"
    ENGINE_ERROR = "engine_error"
    WORKER_CRASHED = "worker_crashed"
    MODEL_LOADING = "model_loading"
    MODEL_UNAVAILABLE = "model_unavailable"
    SHUTTING_DOWN = "shutting_down"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    REQUEST_TIMEOUT = "request_timeout"
    RECEIVE_TIMEOUT = "receive_timeout"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    INSUFFICIENT_MEMORY = "insufficient_memory"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    INVALID_API_KEY = "invalid_api_key"
    HOST_NOT_ALLOWED = "host_not_allowed"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    RELOAD_RUNNING = "reload_running"
    RELOAD_FAILED = "reload_failed"
    MODEL_NOT_FOUND = "model_not_found"
    INVALID_JSON = "invalid_json"
    INVALID_VALUE = "invalid_value"
    MISSING_PARAMETER = "missing_required_parameter"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    TEMPLATE_TOO_EXPENSIVE = "template_too_expensive"
    GRAMMAR_TOO_EXPENSIVE = "grammar_too_expensive"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    BODY_TOO_LARGE = "request_too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    INVALID_HTTP = "invalid_http"
    UNKNOWN_URL = "unknown_url"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    INTERNAL_ERROR = "internal_error"


class UsageError(Exception):
    """A mistake of the person who starts the server; its text is for them, without a traceback.

    The launcher prints the message and exits with status 2.
    """


class ModelFileError(UsageError):
    """A model file that cannot be served; the text says what is wrong with it."""

    @classmethod
    def about(cls, path: Path | str, problem: str) -> "ModelFileError":
        """Return the error for a file: one line, though names within the file may hold anything."""
        shown = "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode()
            for letter in problem
        )
        return cls(f"{path}: {shown}")


class EngineError(Exception):
    """The engine could not do what was asked of it (load a file, evaluate tokens)."""


def reason_of(error: Exception) -> str:
    """What went wrong; of an error of the system without its number and path."""
    return getattr(error, "strerror", None) or str(error)
