"""One log for the gateway and its workers: lines for people, or JSON objects for programs."""

import json
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any, TextIO

request_id_var: ContextVar[str] = ContextVar("request_id", default="")
"""The HTTP request (``x-request-id``) that is being worked on; empty if there is none."""


def configure_logging(
    level: str,
    log_format: str = "console",
    process: str = "gateway",
    stream: TextIO | None = None,
) -> None:
    """Send records of ``level`` and above to standard error.

    A caller adds fields to a record of its own by ``extra={"fields": {...}}``; they are seen in
    JSON only, so the message must say as much.

    The form is ``console`` or ``json``; a worker's process is ``worker-`` and its number.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines(process) if log_format == "json" else ConsoleLines(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # They would be written to standard error past the format.
    logging.captureWarnings(True)


class ConsoleLines(logging.Formatter):
    """Each record is a line; what belongs to it follows indented, so that no text can forge one."""

    def __init__(self, process: str) -> None:
        """Format records of the process with this name."""
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback if there is one."""
        request_id = request_id_var.get()
        # A record with fields has named it.
        shown_id = f" [{request_id}]" if request_id and not _fields(record) else ""
        line = (
            f"{self.formatTime(record)} {record.levelname} {self._process} {record.name}:"
            f" {_printable(record.getMessage())}{shown_id}"
        )
        more = _trace(self, record).splitlines()
        return "\n    ".join([line, *map(_printable, more)])


class JsonLines(logging.Formatter):
    """Each record is a JSON object in a line of its own."""

    def __init__(self, process: str) -> None:
        """Format records of the process with this name."""
        super().__init__()
        self._process: dict[str, Any] = {"process": process}
        kind, _, number = process.rpartition("-")
        if kind == "worker" and number.isdecimal():
            self._process["worker_id"] = int(number)

    def format(self, record: logging.LogRecord) -> str:
        """The object, in ASCII."""
        time = datetime.fromtimestamp(record.created, timezone.utc)
        entry: dict[str, Any] = {
            "ts": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._process,
            "message": record.getMessage(),
        }
        if request_id := request_id_var.get():
            entry["request_id"] = request_id
        entry |= _fields(record)
        if exception := _trace(self, record):
            entry["exception"] = exception
        return json.dumps(entry, default=str)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
