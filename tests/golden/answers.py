"""Reads the golden answers: per request the status, some headers, and a body in lines.

And what clients make of answers, in one piece or in many.
"""

import json
import re
from collections.abc import Iterable
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


def joined(pieces: Iterable[Any]) -> list[Any] | None:
    """Lists one after the other; None if there is none."""
    there = [piece for piece in pieces if piece is not None]
    return [item for piece in there for item in piece] if there else None


def folded(choices: list[Any]) -> dict[str, Any]:
    """The pieces of one choice put together, as the whole answer has them."""
    logprobs = [choice["logprobs"] or {} for choice in choices]
    columns = sorted({name for piece in logprobs for name in piece})
    told = {name: joined(piece.get(name) for piece in logprobs) for name in columns}
    ending = {"finish_reason": choices[-1]["finish_reason"], "logprobs": told or None}
    if "text" in choices[0]:
        return {"text": "".join(choice["text"] for choice in choices), **ending}
    deltas = [choice["delta"] for choice in choices]
    calls: list[Any] = []
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls", ())):
        if piece["index"] == len(calls):
            calls.append({"name": piece["function"]["name"], "arguments": ""})
            assert piece["id"] and piece["type"] == "function"
        else:
            assert piece["index"] == len(calls) - 1
            assert "id" not in piece and "name" not in piece["function"]
        calls[-1]["arguments"] += piece["function"]["arguments"]
    content = "".join(delta.get("content") or "" for delta in deltas)
    return {"content": content, "calls": calls, **ending}


def essence(choice: dict[str, Any]) -> dict[str, Any]:
    """The same of a choice of the whole answer."""
    logprobs = choice["logprobs"] or {}
    ending = {
        "finish_reason": choice["finish_reason"],
        "logprobs": logprobs if any(logprobs.values()) else None,
    }
    if "text" in choice:
        return {"text": choice["text"], **ending}
    message = choice["message"]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    assert (choice["finish_reason"] == "tool_calls") <= bool(calls)
    assert message["content"] is not None or calls
    return {"content": message["content"] or "", "calls": calls, **ending}
