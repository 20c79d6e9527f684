"""Has schemathesis make requests of the server's own OpenAPI document, good ones and bad ones.

Its command line loads this file, too, for the check and the hook.
"""

import subprocess
import sys
from os import environ
from typing import Any

import schemathesis

_CHECKS = (
    "content_type_conformance", "response_headers_conformance", "response_schema_conformance",
    "status_code_conformance", "no_mistake",
)  # fmt: skip
_PROPER_5XX = {503, 504}


def fuzz(url: str, n: int, seed: int, phases: str = "coverage,fuzzing") -> bool:
    """Send cases, up to ``n`` drawn ones for each endpoint; prints and tells whether all is well.

    The phase ``coverage`` has some 4,000 that are not drawn: each bound of each field.
    """
    options = {
        "--checks": ",".join(_CHECKS), "--phases": phases, "--max-examples": str(n),
        "--seed": str(seed), "--request-timeout": "20", "--suppress-health-check": "all",
        "--generation-database": "none", "--warnings": "off",
    }  # fmt: skip
    words = [word for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    hooks = {"SCHEMATHESIS_HOOKS": __name__}
    done = subprocess.run(
        [*command, *words, "--continue-on-failure", "--no-shrink"], env={**environ, **hooks}
    )
    return done.returncode == 0


@schemathesis.check
def no_mistake(_: object, response: Any, __: object) -> None:
    status = response.status_code
    assert status < 500 or status in _PROPER_5XX, f"status {status}"


@schemathesis.hook
def map_body(_: object, body: Any) -> Any:
    """Change a body that the document allows so that the server does; else nearly none is served.

    JSON Schema takes 1.0 for an integer, and has no words for what one field asks of another.
    """
    if not isinstance(body, dict):
        return body
    left_out = {"model", "suffix", *(() if body.get("stream") else ("stream_options",))}
    whole = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in body.items()
        if name not in left_out
    }
    messages = whole.get("messages")
    for item in messages if isinstance(messages, list) else ():
        for message in item if isinstance(item, list) else (item,):
            if isinstance(message, dict) and not message.get("content"):
                message["content"] = "Hello"
    return whole
