"""Middleware that gives every request an id and a record, and logs it when it has ended."""

import json
import logging
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.request_record import CLIENT_LEFT, RequestRecord, begin_record
from shared.logging import request_id_var

logger = logging.getLogger("gateway.access")
prompt_logger = logging.getLogger("gateway.prompts")

# Who watches the server asks for these every few seconds.
_WATCHED = ("/health", "/ready", "/metrics")
_LONGEST_PATH = 256


def request_id_of(scope: Scope) -> str:
    """The client's ``x-request-id`` if it can be repeated in a header and a log, else a new id."""
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
            app: what answers.
            endpoints: paths of routes, to be named also where a request does not get to them.
            observers: are given the record of each request when its answer has ended.
        """
        self._app = app
        self._endpoints = frozenset(endpoints)
        self._observers = (log, *observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; pass the record on when its response has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        record = begin_record(scope, request_id, time.monotonic())
        # For all that is logged meanwhile; each request has a task of its own.
        token = request_id_var.set(request_id)
        status = CLIENT_LEFT

        async def noting_send(message: Message) -> None:
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
            await self._app(scope, receive, noting_send)
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
    """Write a line about a request, and its prompts and completions if they were kept."""
    is_routine = record.endpoint in _WATCHED and not record.error_code
    level = logging.DEBUG if is_routine else logging.INFO
    if logger.isEnabledFor(level):
        known = _known(record)
        logger.log(
            level,
            "%s %s %d %.1f ms %s%s",
            record.method,
            record.path,
            record.status,
            record.total_s * 1000,
            record.request_id,
            "".join(f" {name}={_shown(value)}" for name, value in known.items()),
            extra={
                "fields": {
                    "request_id": record.request_id,
                    "method": record.method,
                    "path": record.path,
                    "status": record.status,
                    "total_ms": round(record.total_s * 1000, 1),
                    **known,
                }
            },
        )
    for transcript in record.transcripts:
        prompt_logger.info(
            "%s prompt %s completion %s",
            record.request_id,
            json.dumps(transcript.prompt),
            json.dumps(transcript.completion),
            extra={
                "fields": {
                    "request_id": record.request_id,
                    "prompt": transcript.prompt,
                    "completion": transcript.completion,
                }
            },
        )


def _known(record: RequestRecord) -> dict[str, Any]:
    """What there is to say besides what there is of every request."""
    known: dict[str, Any] = {}
    if record.key_name is not None:
        known["key"] = record.key_name
    if record.error_code:
        known["error"] = record.error_code
    generations = record.generations
    if not generations:
        return known
    known["stream"] = record.is_stream
    known["outcome"] = record.outcome
    # There may be a thousand texts to embed, and two workers.
    workers = dict.fromkeys(each.worker_id for each in generations)
    known["workers"] = [worker_id for worker_id in workers if worker_id is not None]
    known["prompt_tokens"] = record.prompt_tokens
    known["cached_tokens"] = record.cached_tokens
    known["completion_tokens"] = record.completion_tokens
    for name, seconds in (("queue_ms", record.queue_s), ("ttft_ms", record.ttft_s)):
        if seconds is not None:
            known[name] = round(seconds * 1000, 1)
    if any(each.runs > 1 for each in generations):
        known["runs"] = sum(each.runs for each in generations)
    return known


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    plain = text.isprintable() and not set(text) & set(' "=')
    return text if plain and text else json.dumps(text)
