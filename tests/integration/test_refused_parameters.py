"""A running server does with each parameter what the documented table says."""

import json
import re
from typing import Any

import pytest

from tests.serving import ROOT, Server, chat

PATHS = {"/v1/chat/completions": 1, "/v1/completions": 2}
"""Where the table says it, by the column."""
# What clients might send. A name that is not here gets what nobody would.
LIKELY: dict[str, Any] = {
    "echo": True,
    "reasoning_effort": "high",
    "service_tier": "flex",
    "store": True,
    "suffix": "x",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "verbosity": "low",
    "web_search_options": {},
}


def rows(path: str, what: str) -> dict[str, str]:
    """The parameters that the table calls ``what``, and what it says of them."""
    lines = re.findall(r"(?m)^\| `\w+` \|.*\|$", (ROOT / "docs" / "api.md").read_text("utf-8"))
    cells = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: row[3] for row in cells if row[PATHS[path] : PATHS[path] + 1] == [what]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_what_is_refused(echo_server: Server, path: str, stream: bool) -> None:
    refused = rows(path, "refused")
    assert len(refused) > 12
    for name in refused:
        more = {"prompt": "Hi", "stream": stream, name: LIKELY.get(name, {"what": "nobody sends"})}
        answer = echo_server.http.post(path, json=chat("Hi", model=echo_server.model, **more))
        error = answer.json()["error"]
        assert answer.status_code == 400
        assert (error["param"], error["code"]) == (name, "unsupported_parameter")
        assert f"'{name}'" in error["message"]


@pytest.mark.parametrize("path", PATHS)
def test_what_asks_for_nothing_is_taken(echo_server: Server, path: str) -> None:
    refused, neutral = rows(path, "refused"), rows(path, "neutral")
    unless = {
        name: json.loads(values.split("`")[1] if "`" in values else values)
        for name, said in refused.items()
        if (values := said.partition("refused unless it is ")[2])
    }
    assert len(unless) > 5 and len(neutral) > 5
    for more in (unless, dict.fromkeys(refused), dict.fromkeys(neutral, "anything")):
        body = chat("Hi", model=echo_server.model, prompt="Hi", max_tokens=2, **more)
        answer = echo_server.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
