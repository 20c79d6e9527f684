"""Reads the golden answers: per request the status, some headers, and a body in lines."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("answers.txt")
# How `test_golden` shortens what each object, and each chunk of a stream, begins with.
_HEADER = re.compile(r"\{<(\w+) ([a-z._]+)>")
_FULL = r'{"id":"\1-1","object":"\2","created":1,"model":"echo","system_fingerprint":"echo@1"'


@dataclass(frozen=True)
class Golden:
    """An answer; a stream is its chunks, put together where they are pieces of the same thing."""

    status: int
    is_stream: bool
    content: Any


def blocks() -> dict[str, str]:
    """The texts of all answers, by the names of their requests."""
    parts = re.split(r"(?m)^=== (.*)\n", PATH.read_text("utf-8"))[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def parsed(block: str) -> Golden:
    status, *lines = _HEADER.sub(_FULL, block).removesuffix("\n").split("\n")
    is_stream = lines[-1] == "data: [DONE]"
    if not is_stream:
        is_json = "content-type: application/json" in lines
        return Golden(int(status), False, json.loads(lines[-1]) if is_json else None)
    data = [line.removeprefix("data: ") for line in lines[:-1] if line.startswith("data: ")]
    return Golden(int(status), True, [json.loads(line) for line in data])
