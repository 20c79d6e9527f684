"""Requests that no server should take, and bytes that are no requests."""

import json
import random

from scripts.campaign.ask import Rubbish

_DEEP = 20_000
BODIES: tuple[Rubbish, ...] = tuple(
    Rubbish(name, path, content, statuses)
    for path in ("/v1/completions", "/v1/chat/completions", "/v2/chat/completions")
    for name, content, statuses in (
        ("nothing", b"", (400,)),
        ("no JSON", b"{'prompt': 5}", (400,)),
        ("half a body", b'{"prompt": "Hi", "messages": [{"role"', (400,)),
        ("a number", b"5", (400,)),
        ("wrong types", json.dumps({"prompt": {"a": 1}, "messages": 5}).encode(), (400,)),
        ("deep", b"[" * _DEEP, (400,)),
        ("deep and closed", b'{"prompt":' * _DEEP + b"1" + b"}" * _DEEP, (400,)),
        ("bad UTF-8", b'{"prompt": "\xff\xfe", "messages": "\xff"}', (400,)),
        ("a lone surrogate", b'{"prompt": 1, "messages": 1, "stop": "\\ud800"}', (400,)),
        ("a huge number", b'{"prompt": "a", "max_tokens": 1' + b"0" * 5000 + b"}", (400,)),
        ("NaN", b'{"prompt": "a", "temperature": NaN}', (400,)),
        ("no such model", b'{"prompt": "a", "messages": [{"role": "user", "content": "a"}],'
                          b' "model": "gpt-0"}', (404,)),
        ("n absurd", b'{"prompt": "a", "n": 1000000, "messages": [{"role": "user",'
                     b' "content": "a"}]}', (400,)),
        ("too large", b" " * (3 << 20), (413,)),
    )
)  # fmt: skip
"""Bodies with the statuses that refuse them, for the default of ``MAX_BODY_BYTES``."""


def draw_body(source: random.Random) -> Rubbish:
    """A request with a bad body, or to a place that does not exist."""
    draw = source.random()
    if draw < 0.05:
        return Rubbish("no such place", "/v1/nothing", b"{}", (404,))
    if draw < 0.1:
        return Rubbish("no such method", "/v1/completions", b"{}", (405,), method="PUT")
    if draw < 0.15:
        form = (("Content-Type", "application/x-www-form-urlencoded"),)
        return Rubbish("a form", "/v1/completions", b"prompt=a", (415,), form)
    return source.choice(BODIES)


def draw_bytes(source: random.Random) -> bytes:
    """Bytes that are no HTTP request, though some begin like one."""
    noise = source.randbytes(source.randint(1, 400))
    return source.choice(
        (
            noise,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise,
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n" + noise,
            b"GET /" + noise.replace(b"\n", b"") + b" HTTP/1.1\r\n\r\n",
            b"\r\n\r\n\r\n\r\n" + noise,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        )
    )
