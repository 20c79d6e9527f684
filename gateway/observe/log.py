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
        """Wrap ``app``.

        Args:
            app: the rest of the application.
            endpoints: paths of routes, to name also requests that are refused before routing.
            observers: called with each request's record when its answer has ended.
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
        details = _details(record)
        fields = {
            "request_id": record.request_id,
            "method": record.method,
            "path": record.path,
            "status": record.status,
            "total_ms": round(record.total_s * 1000, 1),
        }
        logger.log(
            level,
            "%s %s %d %.1f ms %s%s",
            record.method,
            record.path,
            record.status,
            record.total_s * 1000,
            record.request_id,
            "".join(f" {name}={_shown(value)}" for name, value in details.items()),
            extra={"fields": fields | details},
        )
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
    details: dict[str, Any] = {}
    if record.key_name is not None:
        details["key"] = record.key_name
    if record.error_code:
        details["error"] = record.error_code
    generations = record.generations
    if not generations:
        return details
    # Each worker once: a request may embed a thousand texts.
    workers = dict.fromkeys(each.worker_id for each in generations if each.worker_id is not None)
    details |= {
        "stream": record.is_stream,
        "outcome": record.outcome,
        "workers": list(workers),
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "completion_tokens": record.completion_tokens,
    }
    for name, seconds in (("queue_ms", record.queue_s), ("ttft_ms", record.ttft_s)):
        if seconds is not None:
            details[name] = round(seconds * 1000, 1)
    if any(each.runs > 1 for each in generations):
        details["runs"] = sum(each.runs for each in generations)
    return details


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    is_plain = text.isprintable() and not set(text) & set(' "=')
    return text if is_plain and text else json.dumps(text)
