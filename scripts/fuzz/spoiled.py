"""Valid HTTP requests, and seeded ways to spoil them. Pure."""

import json
import random
from collections.abc import Callable

from scripts.client import request

_CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
_PATHS = ("/v1/completions", "/v1/chat/completions", "/v2/chat/completions")
_PROMPT = {"prompt": "Hello", "max_tokens": 3}


def _post(path: str, body: object, *headers: tuple[str, str]) -> bytes:
    return request("POST", path, json.dumps(body).encode(), headers)


def _chunked(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    half = len(content) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (content[:half], content[half:]))
    return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


VALID: tuple[bytes, ...] = (
    _post("/v1/completions", _PROMPT),
    _post("/v1/completions", {**_PROMPT, "model": "echo", "stream": True}),
    _post("/v1/chat/completions", _CHAT),
    _post("/v1/chat/completions", {**_CHAT, "stream": False, "n": 2}, ("Expect", "100-continue")),
    _post("/v2/chat/completions", {**_CHAT, "messages": [_CHAT["messages"]] * 2}),
    _chunked("/v1/completions", _PROMPT),
    _chunked("/v1/chat/completions", _CHAT),
    request("GET", "/ready"),
    request("GET", "/v1/models"),
    request("GET", "/openapi.json"),
    request("OPTIONS", "/v1/completions"),
    request("GET", "/health") + request("GET", "/metrics"),
    _post("/v1/completions", _PROMPT) + _post("/v1/completions", _PROMPT),
)


def _cut(text: bytes, source: random.Random) -> bytes:
    return text[: source.randrange(len(text))]


def _flip(text: bytes, source: random.Random) -> bytes:
    spoiled = bytearray(text)
    for _ in range(source.randint(1, 8)):
        spoiled[source.randrange(len(spoiled))] = source.randrange(256)
    return bytes(spoiled)


def _drop(text: bytes, source: random.Random) -> bytes:
    start = source.randrange(len(text))
    return text[:start] + text[start + source.randint(1, 20) :]


def _insert(text: bytes, source: random.Random) -> bytes:
    start = source.randrange(len(text))
    piece = source.choice(
        (source.randbytes(source.randint(1, 64)), b"\0", b"\r\n", b"\n", b"\r", b"\x80", b" " * 999)
    )
    return text[:start] + piece + text[start:]


_HEADERS = (
    b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999",
    b"Content-Length: 1, 2", b"Content-Length: +7", b"Content-Length: 0x10",
    b"Content-Length:", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip",
    b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding : chunked",
    b"Host: other", b"Host:", b"Expect: 100-continue", b"Expect: tea",
    b"Connection: upgrade\r\nUpgrade: websocket", b"Connection: close",
    b"Upgrade: h2c", b"Content-Type: text/plain", b"Content-Encoding: gzip",
    b"X-Request-Timeout: nan", b"X-Request-Timeout: -1", b"X-Queue-Timeout: 1e999",
    b"X-Request-Id: " + b"x" * 5000, b"X-Request-Id: \xff\x01", b"Authorization: Bearer",
    b"Authorization: \xe4\xf6", b"X-Api-Key: \xe4\xf6", b": empty", b"no colon",
    b" folded: yes", b"Bad Name: x", b"A:" + b"a" * 70_000,
    b"\r\n".join(b"H%d: x" % n for n in range(3000)),
    b"Origin: https://example.org", b"Range: bytes=0-1", b"If-None-Match: *",
)  # fmt: skip
_REQUEST_LINES = (
    b"get / HTTP/1.1", b"GET /", b"GET  / HTTP/1.1", b"GET / HTTP/1.0", b"GET / HTTP/2.0",
    b"GET / HTTP/0.9", b"GET http://example.org/ready HTTP/1.1", b"GET * HTTP/1.1",
    b"CONNECT localhost:1 HTTP/1.1", b"TRACE / HTTP/1.1", b"BREW /pot HTTP/1.1",
    b"GET /%00%ff%2e%2e/ HTTP/1.1", b"GET /../../etc/passwd HTTP/1.1",
    b"GET //ready HTTP/1.1", b"GET /v1/models/%F0%9F%98%80 HTTP/1.1", b"GET /\xff HTTP/1.1",
    b"GET /?" + b"a" * 70_000 + b" HTTP/1.1", b"GET /v1/models/" + b"%41" * 5000 +
    b" HTTP/1.1", b"DELETE /v1/completions HTTP/1.1", b"POST /ready HTTP/1.1",
    b"POST /admin/reload HTTP/1.1", b"\x16\x03\x01\x02\x00\x01", b"",
)  # fmt: skip
_CHUNKS = (
    b"zz\r\nabc\r\n", b"-1\r\n\r\n", b"ffffffffffffffffff\r\na", b"7fffffff\r\nab",
    b"3\r\nabcdef\r\n0\r\n\r\n", b"5;x=" + b"y" * 20_000 + b"\r\nhello\r\n0\r\n\r\n",
    b"0\r\nTrailer: x\r\n\r\n", b"0\r\n" + b"T: x\r\n" * 9000 + b"\r\n", b"1\r\n{",
    b"5\nhello\n0\n\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"1\r\n[\r\n" * 2000 + b"0\r\n\r\n",
)  # fmt: skip
_DEEP, _LONG = 100_000, 200_000
_BODIES = (
    b"[" * _DEEP, b'{"a":' * _DEEP + b"1" + b"}" * _DEEP, b'{"prompt": "\xff\xfe\x80"}',
    b'{"prompt": "a", "max_tokens": ' + b"9" * _LONG + b"}",
    b'{"prompt": "a", "temperature": 1e' + b"9" * 300 + b"}",
    b'{"prompt": "a", "temperature": -0.' + b"0" * _LONG + b"1}",
    b'{"prompt": "' + b"\\u0000" * 900 + b'", "max_tokens": 1}',
    b'{"prompt": "\\ud800", "max_tokens": 1}', b'{"prompt": "a", "stop": "\\udfff"}',
    b'{"prompt": "a", "prompt": 5}',
    b'{"messages": [{"role": "user", "content": "\\ud83d"}]}',
    b'{"messages": ' + b"[" * _DEEP + b"]" * _DEEP + b"}", b"null", b"[]", b'""',
    b"\xef\xbb\xbf{}",
    b'{"prompt": ["a", ' + b'"b", ' * 2000 + b'"c"]}', b'{"prompt": "a", "n": 1e3}',
    b'{"' + b"k" * _LONG + b'": 1}', b'{"prompt": "a", "seed": 9223372036854775808}',
    b'{"prompt": "a", "stream": true, "max_tokens": 2, "stop": ["", "\\n"]}',
    b'{"model": "' + b"m" * _LONG + b'", "prompt": "a"}',
    b'{"prompt": "a", "stream_options": {"include_usage": true}, "stream": true}',
)  # fmt: skip


def _add_header(text: bytes, source: random.Random) -> bytes:
    line, _, rest = text.partition(b"\r\n")
    return b"\r\n".join((line, source.choice(_HEADERS), rest))


def _request_line(text: bytes, source: random.Random) -> bytes:
    return source.choice(_REQUEST_LINES) + b"\r\n" + text.partition(b"\r\n")[2]


def _chunk_size(text: bytes, source: random.Random) -> bytes:
    head, _, _ = text.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    head = b"\r\n".join([*lines, b"Transfer-Encoding: chunked"])
    return head + b"\r\n\r\n" + source.choice(_CHUNKS)


def _body(text: bytes, source: random.Random) -> bytes:
    path, body = source.choice(_PATHS), source.choice(_BODIES)
    length = len(body) + source.choice((0, 0, 0, 0, 1, -1, 1000))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode() + body


_WAYS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _cut, _flip, _drop, _insert, _add_header, _add_header, _request_line, _chunk_size, _body, _body,
)  # fmt: skip


def spoiled(source: random.Random) -> bytes:
    """A valid request, spoiled in one to three ways."""
    text = source.choice(VALID)
    for _ in range(source.choice((1, 1, 1, 2, 2, 3))):
        text = source.choice(_WAYS)(text, source) or b"\r\n"
    return text
