"""What bad input gets: one table for every server."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.serving import Server

COMPLETIONS, CHAT, CHATS = "/v1/completions", "/v1/chat/completions", "/v2/chat/completions"
USER = {"role": "user", "content": "Hi"}
LIMIT = 2 << 20
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Case:
    """A request and what it gets; ``code`` None means an answer instead of an error."""

    name: str
    content: bytes
    status: int = 400
    code: str | None = "invalid_value"
    param: str | None = None
    path: str = COMPLETIONS
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    chunked: bool = False


def _prompt(name: str, code: str | None = "invalid_value", **body: Any) -> Case:
    param = body.pop("_param", next((key for key in body if key != "prompt"), "prompt"))
    content = json.dumps({"prompt": "Hi", **body}).encode()
    return Case(name, content, 400 if code else 200, code, param)


def _chat(
    name: str, messages: Any, param: str | None, code: str | None = "invalid_value"
) -> Iterator[Case]:
    content = json.dumps({"messages": messages, "max_tokens": 4}).encode()
    for path in (CHAT, CHATS):
        yield Case(f"{name} {path}", content, 400 if code else 200, code, param, path)


def _raw(name: str, content: bytes, code: str = "invalid_json", **more: Any) -> Iterator[Case]:
    for path in (COMPLETIONS, CHAT, CHATS):
        yield Case(f"{name} {path}", content, code=code, path=path, **more)


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}

CASES = [
    # Not JSON, or not an object.
    *_raw("empty body", b""),
    *_raw("half an object", b'{"prompt": "Hi"'),
    *_raw("list", b"[]"),
    *_raw("string", b'"Hi"'),
    *_raw("number", b"1"),
    *_raw("null", b"null"),
    *_raw("invalid UTF-8", b'{"prompt": "\xff\xfe", "messages": "\xff"}'),
    *_raw("invalid UTF-8 as key", b'{"\xc0\x80": 1}'),
    *_raw("UTF-16", '{"prompt": "Hi"}'.encode("utf-16")),
    *_raw("single quotes", b"{'prompt': 'Hi'}"),
    *_raw("trailing comma", b'{"prompt": "Hi",}'),
    *_raw("two objects", b'{"prompt": "Hi"}{"prompt": "Hi"}'),
    *_raw("deep nesting", b"[" * 100_000),
    *_raw("deep nesting in a field", b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    *_raw("deep objects", b'{"a":' * 100_000),
    *_raw("NaN", b'{"prompt": "Hi", "temperature": NaN}'),
    *_raw("Infinity", b'{"prompt": "Hi", "temperature": Infinity}'),
    *_raw("-Infinity", b'{"prompt": "Hi", "top_p": -Infinity}'),
    *_raw("1e400", b'{"prompt": "Hi", "temperature": 1e400}'),
    *_raw("lone surrogate", b'{"prompt": "\\ud800", "messages": "\\udc00\\ud800"}'),
    *_raw("lone surrogate in a message", b'{"messages": [{"role": "user", "content": "\\ud83d"}]}'),
    *_raw("NUL itself", b'{"prompt": "\0"}'),
    # The wrong type, the wrong size.
    Case("wrong content type", b"prompt=Hi", 415, "unsupported_media_type", None,
         headers={"content-type": "application/x-www-form-urlencoded"}),
    Case("text", b'{"prompt": "Hi"}', 415, "unsupported_media_type", None,
         headers={"content-type": "text/plain"}),
    Case("form data", b"--x\r\n\r\n--x--", 415, "unsupported_media_type", None, CHAT,
         headers={"content-type": "multipart/form-data; boundary=x"}),
    Case("over the limit", b" " * (LIMIT + 1), 413, "request_too_large"),
    Case("over the limit in chunks", b" " * (LIMIT + 1), 413, "request_too_large", chunked=True),
    Case("over the limit in a chat", b" " * (LIMIT + 1), 413, "request_too_large", path=CHATS),
    # Fields.
    Case("no prompt", b"{}", code="missing_required_parameter", param="prompt"),
    Case("no messages", b"{}", code="missing_required_parameter", param="messages", path=CHAT),
    Case("no messages in v2", b"{}", code="missing_required_parameter", param="messages",
         path=CHATS),
    _prompt("null prompt", prompt=None),
    _prompt("empty prompt list", prompt=[]),
    _prompt("numeric prompt", prompt=5),
    _prompt("object as prompt", prompt={"text": "Hi"}),
    _prompt("prompt of numbers and text", _param="prompt[1]", prompt=["Hi", 5]),
    _prompt("token ids that there are not", _param="prompt[2]", prompt=[1, 2, 10**9]),
    _prompt("token ids in the second prompt", _param="prompt[1][0]", prompt=[[1], [10**9]]),
    _prompt("no model of that name", model=5),
    _prompt("max_tokens negative", max_tokens=-1),
    _prompt("max_tokens negative", max_tokens=-1),
    _prompt("max_tokens a bool", max_tokens=True),
    _prompt("max_tokens text", max_tokens="5"),
    _prompt("max_tokens a fraction", max_tokens=1.5),
    _prompt("max_tokens 10**30", max_tokens=10**30),
    _prompt("max_tokens -10**30", max_tokens=-(10**30)),
    _prompt("max_tokens 10**18", "context_length_exceeded", max_tokens=10**18),
    _prompt("max_tokens over the context", "context_length_exceeded", max_tokens=8192),
    _prompt("temperature negative", temperature=-0.1),
    _prompt("temperature over 2", temperature=2.1),
    _prompt("temperature absurd", temperature=10**300),
    _prompt("temperature a bool", temperature=True),
    _prompt("temperature text", temperature="hot"),
    _prompt("top_p 0", top_p=0),
    _prompt("top_p over 1", top_p=1.5),
    _prompt("top_k negative", top_k=-2),
    _prompt("top_k absurd", top_k=10**30),
    _prompt("min_p over 1", min_p=2),
    _prompt("presence_penalty", presence_penalty=3),
    _prompt("frequency_penalty", frequency_penalty=-3),
    _prompt("repetition_penalty 0", repetition_penalty=0),
    _prompt("seed a fraction", seed=0.5),
    _prompt("seed of 100 bits", seed=2**100),
    _prompt("n zero", n=0),
    _prompt("n negative", n=-1),
    _prompt("n absurd", n=10**9),
    _prompt("n a bool", n=True),
    _prompt("stream text", stream="yes"),
    _prompt("stream a number", stream=1),
    _prompt("stream_options without stream", stream_options={"include_usage": True}),
    _prompt("stop a number", stop=5),
    _prompt("10,000 stop strings", stop=[f"stop {i}" for i in range(10_000)]),
    _prompt("10,000 wrong stop strings", _param="stop[0]", stop=list(range(10_000))),
    _prompt("a long stop string", _param="stop[0]", stop=["x" * 100_000]),
    _prompt("logprobs as for chats", logprobs=True),
    _prompt("best of fewer than n", best_of=1, n=2),
    _prompt("schema that is none", guided_json=[]),
    _prompt("schema that is none of this world", guided_json={"type": "strin"}),
    _prompt("regex", guided_regex="(a"),
    _prompt("bias of a token that there is not", logit_bias={"99999999": 1}),
    _prompt("suffix", "unsupported_parameter", suffix="x"),
    Case("a model that is not here", b'{"prompt": "Hi", "model": "gpt-4"}', 404,
         "model_not_found", "model"),
    Case("a model with a strange name", json.dumps({"prompt": "Hi", "model": "\0😀"}).encode(),
         404, "model_not_found", "model"),
    # Prompts that do not fit.
    _prompt("1 MB", "context_length_exceeded", prompt="a" * 1_000_000),
    _prompt("1 MB of spaces", "context_length_exceeded", prompt=" " * 1_000_000),
    _prompt("1 MB of NUL", "context_length_exceeded", prompt="\0" * 300_000),
    _prompt("1 MB of emoji", "context_length_exceeded", prompt="😀" * 100_000),
    _prompt("words over the context", "context_length_exceeded", prompt="word " * 6000),
    *_chat("1 MB in a message", [{"role": "user", "content": "a" * 1_000_000}], None,
           "context_length_exceeded"),
    *_chat("100,000 messages", [USER] * 20_000, "messages"),
    # Messages.
    *_chat("null messages", None, "messages"),
    *_chat("no messages at all", [], "messages"),
    *_chat("text as messages", "Hi", "messages"),
    *_chat("an object as messages", USER, "messages"),
    *_chat("text as message", ["Hi"], "messages[0]"),
    *_chat("null as message", [None], "messages[0]"),
    *_chat("unknown role", [{"role": "robot", "content": "Hi"}], "messages[0].role"),
    *_chat("numeric role", [{"role": 1, "content": "Hi"}], "messages[0].role"),
    *_chat("no role", [{"content": "Hi"}], "messages[0].role", "missing_required_parameter"),
    *_chat("no content", [{"role": "user"}], "messages[0].content", "missing_required_parameter"),
    *_chat("numeric content", [{"role": "user", "content": 5}], "messages[0].content"),
    *_chat("object as content", [USER, {"role": "user", "content": {}}], "messages[1].content"),
    *_chat("an image", [{"role": "user", "content": [IMAGE]}], "messages[0].content[0].type",
           "unsupported_parameter"),
    *_chat("text and an image", [{"role": "user", "content": [{"type": "text", "text": "x"},
           IMAGE]}], "messages[0].content[1].type", "unsupported_parameter"),
    *_chat("part without text", [{"role": "user", "content": [{"type": "text"}]}],
           "messages[0].content[0].text", "missing_required_parameter"),
    Case("empty conversation", b'{"messages": [[]]}', param="messages[0]", path=CHATS),
    Case("conversation of text", b'{"messages": [["Hi"]]}', param="messages[0][0]", path=CHATS),
    Case("conversations and a message", json.dumps({"messages": [[USER], USER]}).encode(),
         param="messages[1]", path=CHATS),
    Case("conversations in v1", json.dumps({"messages": [[USER]]}).encode(),
         param="messages[0]", path=CHAT),
    # Strange, but right.
    _prompt("NUL", None, prompt="a\0b", max_tokens=2),
    _prompt("emoji", None, prompt="👩‍👩‍👧‍👦🏳️‍🌈", max_tokens=2),
    _prompt("right to left", None, prompt="\u202eabc\u200f", max_tokens=2),
    _prompt("special tokens", None, prompt="<|im_start|><|im_end|></s>", max_tokens=2),
    _prompt("optional fields null", None, max_tokens=2, temperature=None, top_p=None,
            stop=None, n=None, seed=None, stream=None, stream_options=None, logprobs=None),
    _prompt("unknown fields", None, max_tokens=2, foo={"bar": [1] * 1000}, ignore_eos=False),
    *_chat("system twice and late", [{"role": "system", "content": "a"}, USER, USER,
           {"role": "system", "content": "b"}, {"role": "assistant", "content": None}, USER],
           None, None),
    *_chat("empty text", [{"role": "user", "content": ""}, USER], None, None),
    *_chat("NUL and emoji in parts", [{"role": "user", "content": [
           {"type": "text", "text": "\0"}, {"type": "text", "text": "😀"}]}], None, None),
    # Paths and methods.
    Case("unknown path", b"{}", 404, "unknown_url", path="/v1/engines"),
    Case("wrong method", b"", 405, "method_not_allowed", path=CHAT, method="GET"),
    Case("wrong method with body", b"{}", 405, "method_not_allowed", path=COMPLETIONS,
         method="PUT"),
]  # fmt: skip


def check(server: Server, case: Case) -> None:
    """Send a case; then the next request works, and no worker has died."""
    deaths = server.deaths()

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(case.content), 50_000):
            yield case.content[start : start + 50_000]

    answer = server.http.request(
        case.method,
        case.path,
        content=chunks() if case.chunked else case.content,
        headers=case.headers,
    )
    assert answer.status_code == case.status, f"{case.name}: {answer.text[:500]}"
    if case.code is not None:
        body = answer.json()
        assert set(body) == {"error"}, case.name
        assert set(body["error"]) == {"message", "type", "param", "code"}, case.name
        assert body["error"]["message"] and body["error"]["type"] == "invalid_request_error"
        assert len(body["error"]["message"]) < 1000, case.name
        assert body["error"]["code"] == case.code, f"{case.name}: {body}"
        if case.param is not None:
            assert body["error"]["param"] == case.param, f"{case.name}: {body}"
    following = server.http.post(COMPLETIONS, json={"prompt": "Hello", "max_tokens": 1})
    assert following.status_code == 200, case.name
    assert isinstance(following.json(), str)
    assert server.deaths() == deaths, f"{case.name} ended a worker\n{server.log()}"
