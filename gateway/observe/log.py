"""Middleware: gives each request an id and a record, and writes a log line when it has ended."""

import json
import logging
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.observe.record import CLIENT_LEFT, RequestRecord, begin_record
from shared.logging import request_id_var

logger = logging.getLogger("gateway.access")
prompt_logger = logging.getLogger("gateway.prompts")

# Monitoring reads these every few seconds: logged at debug level, unless it failed.
_MONITORED = ("/health", "/ready", "/metrics")
_LONGEST_PATH = 256


def request_id_of(scope: Scope) -> str:
    """The client's ``x-request-id`` if it is safe in a header and a log line, else a new id."""
    given = Headers(scope=scope).get("x-request-id", "")
    if 1 <= len(given) <= 128 and all("!" <= character <= "~" for character in given):
        return given
    return f"req-{uuid.uuid4().hex}"


class RequestLog:
    """Puts ``x-request-id`` and ``openai-processing-ms`` on every response, and logs it."""

    def __init__(
        self,
        app: ASGIApp,
        endpoints: Collection[str] = (),
        observers: Sequence[Callable[[RequestRecord], None]] = (),
    ) -> None:
        """Call ``observers`` with each request's record when its answer has ended.

        ``endpoints`` are the paths of routes: they name requests that are refused before routing.
        """
        self._app = app
        self._endpoints = frozenset(endpoints)
        self._observers = (log, *observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        record = begin_record(scope, request_id, time.monotonic())
        # Reaches all that is logged meanwhile: each request has a task of its own.
        token = request_id_var.set(request_id)
        status = CLIENT_LEFT

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                record.head_s = time.monotonic()
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = f"{(record.head_s - record.began_s) * 1000:.0f}"
            elif not message.get("more_body", False):
                record.status = status
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            record.ended_s = time.monotonic()
            record.method = scope["method"]
            record.path = quote(scope["path"][:_LONGEST_PATH])  # decoded, it may hold line breaks
            record.endpoint = self._endpoint(scope)
            record.headers = scope["headers"]
            for observe in self._observers:
                observe(record)
            request_id_var.reset(token)

    def _endpoint(self, scope: Scope) -> str:
        if (route := scope.get("route")) is not None:
            path: str = route.path
            return path
        return scope["path"] if scope["path"] in self._endpoints else "other"


def log(record: RequestRecord) -> None:
    """Write the line of a request, and one for each of its transcripts."""
    is_routine = record.endpoint in _MONITORED and not record.error_code
    level = logging.DEBUG if is_routine else logging.INFO
    if logger.isEnabledFor(level):
        total_ms = round(record.total_s * 1000, 1)
        fields = {
            "request_id": record.request_id,
            "method": record.method,
            "path": record.path,
            "status": record.status,
            "total_ms": total_ms,
        }
        details = _details(record)
        shown = "".join(f" {name}={_shown(value)}" for name, value in details.items())
        logger.log(
            level,
            "%s %s %d %.1f ms %s%s",
            record.method, record.path, record.status, total_ms, record.request_id, shown,
            extra={"fields": fields | details},
        )  # fmt: skip
    for transcript in record.transcripts:
        texts = {"prompt": transcript.prompt, "completion": transcript.completion}
        prompt_logger.info(
            "%s prompt %s completion %s",
            record.request_id,
            *map(json.dumps, texts.values()),
            extra={"fields": {"request_id": record.request_id, **texts}},
        )


def _details(record: RequestRecord) -> dict[str, Any]:
    """What only some requests have: key, error, generations."""
    details: dict[str, Any] = {"key": record.key_name, "error": record.error_code or None}
    if record.generations:
        workers = [each.worker_id for each in record.generations if each.worker_id is not None]
        runs = [each.runs for each in record.generations]
        details |= {
            "stream": record.is_stream,
            "outcome": record.outcome,
            "workers": list(dict.fromkeys(workers)),  # a request may embed a thousand texts
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "completion_tokens": record.completion_tokens,
            "queue_ms": _milliseconds(record.queue_s),
            "ttft_ms": _milliseconds(record.ttft_s),
            "runs": sum(runs) if max(runs) > 1 else None,
        }
    return {name: value for name, value in details.items() if value is not None}


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    is_plain = text.isprintable() and not set(text) & set(' "=')
    return text if is_plain and text else json.dumps(text)
