"""Requests that are refused, and those that the rules for web pages decide."""

from collections.abc import Iterator
from typing import Any

from tests.golden.cases import (
    CHAT,
    CHATS,
    COMPLETIONS,
    EMBEDDINGS,
    INPUT_TOKENS,
    NAMED,
    TOOLS,
    WEATHER,
    Case,
    chat,
    prompt,
    tool,
    user,
)

BAD_CHATS: dict[str, dict[str, Any]] = {
    "no messages": {"model": "echo"},
    "empty messages": {"messages": []},
    "messages of a wrong type": {"messages": "Hi"},
    "unknown role": {"messages": [{"role": "robot", "content": "Hi"}]},
    "no content": {"messages": [{"role": "user"}]},
    "an image": {"messages": [user([{"type": "image_url", "image_url": {"url": "x"}}])]},
    "nothing to go on from": {"messages": [{"role": "assistant", "content": ""}]},
    "temperature": chat("x", temperature=7),
    "temperature as text": chat("x", temperature="hot"),
    "top_p": chat("x", top_p=-0.1),
    "max_tokens": chat("x", max_tokens=0),
    "max_tokens over the context": chat("x", max_tokens=10**6),
    "n": chat("x", n=0),
    "min_tokens over max_tokens": chat("x", min_tokens=9, max_tokens=2),
    "top_logprobs alone": chat("x", top_logprobs=2),
    "logit_bias of no token": chat("x", logit_bias={"9999": 1}),
    "stop_token_ids of no token": chat("x", stop_token_ids=[9999]),
    "17 stop strings": chat("x", stop=["s"] * 17),
    "stream_options without a stream": chat("x", stream_options={"include_usage": True}),
    "modalities": chat("x", modalities=["audio"]),
    "functions": chat("x", functions=[{"name": "f"}]),
    "reasoning_effort": chat("x", reasoning_effort="high"),
    "suffix": chat("x", suffix="y"),
    "structured_outputs": chat("x", structured_outputs={"regex": "a"}),
    "response_format": chat("x", response_format={"type": "xml"}),
    "a schema is missing": chat("x", response_format={"type": "json_schema"}),
    "a schema that is none": chat("x", guided_json={"type": "strin"}),
    "a schema that cannot be followed": chat("x", guided_json={"not": {}}),
    "a regex that is none": chat("x", guided_regex="(a"),
    "a grammar that is none": chat("x", guided_grammar="start: ("),
    "two grammars": chat("x", guided_regex="a", guided_choice=["a"]),
    "a tool and a schema": chat("x", tools=TOOLS, tool_choice="required", guided_regex="a"),
    "tool_choice without tools": chat("x", tool_choice="required"),
    "tool_choice of no tool": chat("x", tools=[WEATHER], tool_choice=NAMED),
    "tool_choice": chat("x", tools=TOOLS, tool_choice="maybe"),
    "a tool twice": chat("x", tools=[WEATHER, WEATHER]),
    "a tool of another type": chat("x", tools=[{"type": "web_search"}]),
    "a name of a tool": chat("x", tools=[tool("what is it?")]),
    "another model": {**chat("x"), "model": "gpt-4o"},
    "a stream": chat("x", temperature=7, stream=True),
}  # fmt: skip
BAD_COMPLETIONS: dict[str, Any] = {
    "no prompt": {"model": "echo"},
    "a number": prompt(5),
    "no prompts": prompt([]),
    "no such token": prompt([1, 300]),
    "too long": prompt("x" * 9000),
    "too many token ids": prompt([1] * 9000),
    "max_tokens": prompt("x", max_tokens=-1),
    "max_tokens over the context": prompt("x", max_tokens=8192),
    "best_of below n": prompt("x", best_of=1, n=2),
    "best_of in a stream": prompt("x", best_of=2, stream=True),
    "logprobs": prompt("x", logprobs=21),
    "logprobs of chats": prompt("x", logprobs=True),
    "suffix": prompt("x", suffix="y"),
    "more than it ever takes": prompt("x", n=1000),
    "tools": prompt("x", tools=TOOLS),
}
# Values that fields of a completion do not take.
WRONG: dict[str, list[Any]] = {
    "prompt": [None, {"text": "Hi"}, ["Hi", 5], [1, 2, 10**9], [[1], [10**9]], "\0" * 300_000,
        "😀" * 100_000],
    "model": [5, "\0😀"],
    "max_tokens": [True, "5", 1.5, 10**30, -(10**30), 10**18],
    "temperature": [-0.1, 2.1, 10**300, True],
    "top_p": [1.5],
    "top_k": [-2, 10**30],
    "min_p": [2],
    "presence_penalty": [3],
    "frequency_penalty": [-3],
    "repetition_penalty": [0],
    "seed": [0.5, 2**100],
    "n": [-1, 10**9, True],
    "stream": ["yes", 1],
    "stop": [5, [f"stop {i}" for i in range(10_000)], list(range(10_000)), ["x" * 100_000]],
    "guided_json": [[]],
}  # fmt: skip
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
WRONG_MESSAGES: list[Any] = [
    None, user("Hi"), ["Hi"], [None], [{"role": 1, "content": "Hi"}], [{"content": "Hi"}],
    [user(5)], [user("Hi"), user({})], [user([{"type": "text", "text": "x"}, IMAGE])],
    [user([{"type": "text"}])], [user("a" * 1_000_000)], [user("Hi")] * 20_000,
]  # fmt: skip
BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "half an object": b'{"prompt": "Hi"',
    "a list": b"[]",
    "a string": b'"Hi"',
    "null": b"null",
    "not UTF-8": b'{"prompt": "\xff"}',
    "a key that is not UTF-8": b'{"\xc0\x80": 1}',
    "UTF-16": '{"prompt": "Hi"}'.encode("utf-16"),
    "single quotes": b"{'prompt': 'Hi'}",
    "a comma too many": b'{"prompt": "Hi",}',
    "two objects": b'{"prompt": "Hi"}{"prompt": "Hi"}',
    "deep nesting": b"[" * 100_000,
    "deep nesting in a field": b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 100_000,
    "NaN": b'{"prompt": "Hi", "temperature": NaN}',
    "Infinity": b'{"prompt": "Hi", "top_p": -Infinity}',
    "1e400": b'{"prompt": "Hi", "temperature": 1e400}',
    "a lone surrogate": rb'{"prompt": "\ud800"}',
    "a NUL": b'{"prompt": "\0"}',
}


def refusals() -> Iterator[tuple[str, Case]]:
    for name, body in BAD_CHATS.items():
        yield f"bad chat: {name}", Case(CHAT, body)
    for name, body in BAD_COMPLETIONS.items():
        yield f"bad completion: {name}", Case(COMPLETIONS, body)
    for name, values in WRONG.items():
        for place, value in enumerate(values):
            yield f"wrong {name}, {place}", Case(COMPLETIONS, {"prompt": "Hi", name: value})
    for path in (CHAT, CHATS):
        for place, messages in enumerate(WRONG_MESSAGES):
            yield f"wrong messages, {place}: {path}", Case(path, {"messages": messages})
    for name, content in BAD_BODIES.items():
        yield f"bad body: {name}", Case(COMPLETIONS, content)
    others: list[tuple[str, str, Any]] = [
        ("many: an empty conversation", CHATS, {"messages": [[]]}),
        ("many: a message among conversations", CHATS, {"messages": [[user("x")], user("x")]}),
        ("many: conversations in v1", CHAT, {"messages": [[user("x")]]}),
        ("embeddings: nothing", EMBEDDINGS, {"input": []}),
        ("embeddings: an empty text", EMBEDDINGS, {"input": ""}),
        ("embeddings: no input", EMBEDDINGS, {}),
        ("embeddings: dimensions", EMBEDDINGS, {"input": "x", "dimensions": 1000}),
        ("embeddings: encoding_format", EMBEDDINGS, {"input": "x", "encoding_format": "hex"}),
        ("embeddings: another model", EMBEDDINGS, {"input": "x", "model": "gpt-4o"}),
        ("tokenize: nothing", "/tokenize", {}),
        ("tokenize: two texts", "/tokenize", {"content": "x", "prompt": "y"}),
        ("tokenize: too long", "/tokenize", {"content": "x" * 9000}),
        ("detokenize: no such token", "/detokenize", {"tokens": [300]}),
        ("detokenize: no tokens", "/detokenize", {}),
        ("apply-template: no messages", "/apply-template", {}),
        ("apply-template: how it ends", "/apply-template", {"messages": [user("x")],
            "add_generation_prompt": False}),
        ("input_tokens: another model", INPUT_TOKENS, {**chat("x"), "model": "gpt-4o"}),
        ("too large", COMPLETIONS, b" " * (3 << 20)),
        ("unknown URL", "/v1/engines", {}),
    ]  # fmt: skip
    for name, path, body in others:
        yield f"bad {name}", Case(path, body)
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = {"content-type": media}
        yield f"bad {media}", Case(COMPLETIONS, b'{"prompt": "Hi"}', headers=headers)
    yield "bad method", Case(CHAT, method="GET")
    yield "bad method: models", Case("/v1/models", {}, method="DELETE")
    yield "bad model", Case("/v1/models/gpt-4o", method="GET")
    yield "no key", Case(CHAT, chat("x"), headers={"authorization": ""})
    wrong = {"authorization": "Bearer nobodys-key"}
    yield "wrong key", Case("/v1/models", method="GET", headers=wrong)
    yield "wrong key of the admin", Case("/admin/reload", headers=wrong)
    yield "another site", Case(CHAT, chat("x"), headers={"origin": "https://evil.example"})
    yield "another host", Case("/v1/models", method="GET", headers={"host": "evil.example"})
    local = {"origin": "http://localhost:3000"}
    yield "a local page", Case(COMPLETIONS, {"prompt": "Hi"}, headers=local)
    asks = {
        **local,
        "authorization": "",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    yield "preflight", Case(CHAT, method="OPTIONS", headers=asks)
    yield "timeout of 0", Case(CHAT, chat("x"), headers={"x-request-timeout": "0"})
    yield "timeout of text", Case(CHAT, chat("x"), headers={"x-request-timeout": "soon"})
    large = {"x-long": "x" * (80 << 10)}
    yield "large headers", Case("/v1/models", method="GET", headers=large)
