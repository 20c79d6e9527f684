"""Folds the bytes of a streamed response, with their times of arrival, into an `Outcome`."""

import json
from typing import Any

from scripts.load.outcome import Kind, Outcome
from scripts.load.sse import EventParser, ServerEvent

_DETAIL_CHARACTERS = 300


class StreamedResponse:
    """A response on its way. No I/O and no clock: whoever reads it says what came and when.

    A stream is complete when it has a ``finish_reason``, ends with ``[DONE]`` and brought no error.
    """

    def __init__(self, name: str, started_s: float, max_tokens: int = 0) -> None:
        """Begin with a request that is about to be sent; see `Outcome` for the arguments."""
        self._name = name
        self._started_s = started_s
        self._max_tokens = max_tokens
        self._status = 0
        self._is_stream = False
        self._retry_after: str | None = None
        self._body = b""
        self._parser = EventParser()
        self._content_s: list[float] = []
        self._text: list[str] = []
        self._usage: dict[str, Any] = {}
        self._finish_reason: str | None = None
        self._is_done = False
        self._kind: Kind | None = None
        self._code = self._detail = ""
        self._ended_s: float | None = None

    @property
    def n_chunks(self) -> int:
        """Chunks with text so far."""
        return len(self._content_s)

    def head(self, status: int, content_type: str, retry_after: str | None) -> None:
        """Take the HTTP status and the headers that matter."""
        self._status = status
        self._is_stream = status == 200 and content_type.startswith("text/event-stream")
        self._retry_after = retry_after

    def feed(self, piece: bytes, at_s: float) -> None:
        """Take bytes of the body, in the order in which they came."""
        if not self._is_stream:
            self._body += piece
            return
        for event in self._parser.feed(piece):
            self._take(event, at_s)

    def end(self, at_s: float) -> None:
        """The body is at its end."""
        if self._kind is not None:
            return
        if self._is_stream:
            for event in self._parser.end():
                self._take(event, at_s)
        self._ended_s = at_s
        if self._kind is None:
            self._kind, self._code = self._verdict()

    def give_up(self, kind: Kind, code: str, at_s: float) -> None:
        """The body will not come to its end: the connection broke, or was closed on purpose."""
        if self._kind is None:
            self._kind, self._code, self._ended_s = kind, code, at_s

    def outcome(self, now_s: float) -> Outcome:
        """What has become of it by now."""
        n_completion = self._usage.get("completion_tokens")
        details = self._usage.get("prompt_tokens_details") or {}
        return Outcome(
            name=self._name,
            kind=self._kind or "incomplete",
            started_s=self._started_s,
            ended_s=now_s if self._ended_s is None else self._ended_s,
            content_s=tuple(self._content_s),
            text="".join(self._text),
            finish_reason=self._finish_reason,
            code=self._code,
            detail=self._detail[:_DETAIL_CHARACTERS],
            retry_after=self._retry_after,
            prompt_tokens=self._usage.get("prompt_tokens") or 0,
            cached_tokens=details.get("cached_tokens") or 0,
            completion_tokens=len(self._content_s) if n_completion is None else n_completion,
            has_usage=n_completion is not None,
            max_tokens=self._max_tokens,
        )

    def _take(self, event: ServerEvent, at_s: float) -> None:
        if event.text.strip() == "[DONE]":
            self._is_done = True
            return
        try:
            chunk = json.loads(event.text)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            self._fail("error_event" if event.name == "error" else "not_json", event.text, at_s)
        elif event.name == "error" or chunk.get("error"):
            self._fail(_code_of(chunk, "error_event"), event.text, at_s)
        else:
            self._take_chunk(chunk, at_s)

    def _take_chunk(self, chunk: dict[str, Any], at_s: float) -> None:
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            # Text that a model only thinks is generated, and waited for, like any other.
            text = choice.get("text") or delta.get("content") or delta.get("reasoning_content")
            if text:
                self._text.append(text)
                self._content_s.append(at_s)
            self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def _fail(self, code: str, detail: str, at_s: float) -> None:
        if self._kind is None:
            self._kind, self._code, self._detail, self._ended_s = "failed", code, detail, at_s

    def _verdict(self) -> tuple[Kind, str]:
        if not self._is_stream:
            self._detail = self._body.decode("utf-8", "replace")
        if self._status == 429:
            return "refused", "429"
        if self._status == 503:
            return "unavailable", "503"
        if self._status != 200:
            try:
                body = json.loads(self._body)
            except ValueError:
                body = None
            return "failed", _code_of(body, f"http_{self._status}")
        if not self._is_stream:
            return "failed", "not_a_stream"
        if self._finish_reason is None:
            return "failed", "missing_finish_reason"
        if not self._is_done:
            return "failed", "missing_done"
        return "completed", ""


def _code_of(body: Any, default: str) -> str:
    """The code in an error of OpenAI's shape, or the type, or ``default``."""
    error = body.get("error") if isinstance(body, dict) else None
    # llama.cpp's old ``error: {...}`` has no outer object.
    error = error if isinstance(error, dict) else body if isinstance(body, dict) else {}
    return str(error.get("code") or error.get("type") or default)
