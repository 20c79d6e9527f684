"""Requests that are refused, and those that the rules for web pages decide."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from tests.golden.cases import (
    ALLOWED,
    CHAT,
    CHATS,
    CITY,
    CITY_FORMAT,
    COMPLETIONS,
    EMBEDDINGS,
    INPUT_TOKENS,
    NAMED,
    OTHER_NAMES,
    TOOLS,
    WEATHER,
    Case,
    chat,
    prompt,
    tool,
    user,
)

LARGE = "x" * ((256 << 10) + 1)
A_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else []


def function(name: str, parameters: Any = None) -> dict[str, Any]:
    more = {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, **more}}


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
    "tool_choice of no tools": chat("x", tools=[], tool_choice=ALLOWED),
    "top_logprobs without logprobs": chat("x", top_logprobs=1, logprobs=False),
    "min_tokens over what it is without a model": {"messages": [user("x")], "min_tokens": 251},
    "more messages than tokens": {"messages": [user("")] * 9000},
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
    "min_tokens over the default": prompt("x", min_tokens=17),
    "min_tokens of none": prompt("x", min_tokens=1, max_tokens=0),
    "min_tokens over max_completion_tokens": prompt(
        "x", min_tokens=3, max_tokens=5, max_completion_tokens=2
    ),
    "a suffix of token ids": prompt([1], suffix="y"),
    "a suffix that is none": prompt("x", suffix=5),
    "echo and a suffix": prompt("x", suffix="y", echo=True),
    "more prompts than it ever takes": prompt(["x"] * 1000),
    **{name: prompt("x", **{name: {"a": 1}}) for name in OTHER_NAMES},
    "no room": prompt("x" * 8192),
    "no room for one": prompt("x" * 8192, max_tokens=1),
}
# Values that fields of a completion do not take.
WRONG: dict[str, list[Any]] = {
    "prompt": [None, {"text": "Hi"}, ["Hi", 5], [1, 2, 10**9], [[1], [10**9]], "\0" * 300_000,
        "😀" * 100_000, {}, ["Hi", ""], ["Hi", "x" * 9000], [-1], ["Hi", [2**80]], [1, 1.5],
        ["Hi", [1, "x"]], ["Hi", [True]], ["Hi", [[1]]]],
    "model": [5, "\0😀"],
    "max_tokens": [True, "5", 1.5, 10**30, -(10**30), 10**18],
    "temperature": [-0.1, 2.1, 10**300, True],
    "top_p": [1.5],
    "top_k": [-2, 10**30, 1.5],
    "min_p": [2, -1],
    "presence_penalty": [3],
    "frequency_penalty": [-3],
    "repetition_penalty": [0, 11],
    "seed": [0.5, 2**100, 2**63, True],
    "n": [-1, 10**9, True],
    "stream": ["yes", 1],
    "stop": [5, [f"stop {i}" for i in range(10_000)], list(range(10_000)), ["x" * 100_000], {},
        ["a", ""]],
    "guided_json": [[], "{", "[]", {"a": deep(70)}, {"enum": [0] * 100_001},
        {"items": {"minProperties": 2, "required": ["a"]}}, {"exclusiveMinimum": True},
        {"const": "a\0"}, {"enum": [LARGE]}],
    "guided_regex": ["", LARGE],
    "guided_choice": [[], ["a", 1], ["a\0"], [LARGE]],
    "guided_grammar": [5],
    "response_format": [{"type": "json_schema", "json_schema": {"schema": []}}, "json_object",
        {"type": "json_object", "value": {}}, {"type": "text", "schema": {}},
        {"type": "json_object", "json_schema": {"schema": {}}},
        {"type": "json_schema", "schema": {}},
        {"type": "json_schema", "json_schema": {"definition": {}}},
        {"type": "json_object", "schema": {"enum": [LARGE]}}],
    "logit_bias": [{"x": 1}, {"-1": 1}, {"1": 101}, {str(i): 0 for i in range(1025)}, [],
        {"257": 1}],
    "stop_token_ids": [[-1], 5, [0, 257], [2**70]],
    "min_tokens": [-1, 251],
    "ignore_eos": ["yes"],
    "echo": [1],
    "best_of": [0, 1000],
    "stream_options": [True, {"include_usage": "yes"}],
}  # fmt: skip
# And fields of a chat with tools.
WRONG_IN_CHATS: dict[str, list[Any]] = {
    "logprobs": [3],
    "top_logprobs": [21],
    "tools": [{}, [{"type": "function"}], [{"type": "custom", "custom": {}}],
        [function("f", {"type": "array"})],
        [function("f", {"properties": {"a": {"enum": [LARGE]}}})]],
    "tool_choice": [{"type": "function"}, {"type": "function", "function": {}}, function("later"),
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [function("later")]}},
        function("x" * 10_000)],
    "parallel_tool_calls": [1],
}  # fmt: skip
# What an answer can be bound to: to one of them, and not beyond its end.
BOUND: dict[str, Any] = {
    "response_format": CITY_FORMAT,
    "guided_json": CITY,
    "guided_regex": "[a-z]+",
    "guided_choice": ["a", "b"],
    "guided_grammar": 'start: "a"',
    "tools": TOOLS,
}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
WRONG_INPUTS: list[Any] = [
    None, 5, {}, ["a", ""], [[1], []], ["a", 1], ["a", None], [1, "a"], [1, 300], [None], [True],
    [1.5], [[1], [2, -1]], [[1], [10**30]], ["a"] * 2049, [1] * 8193, ["a", [1] * 8193],
    "a" * 8193, ["a", "a" * 8193],
]  # fmt: skip
# Values that fields of the other endpoints do not take.
WRONG_ELSEWHERE: dict[str, list[dict[str, Any]]] = {
    EMBEDDINGS: [
        *({"input": value} for value in WRONG_INPUTS),
        {"input": "a", "dimensions": 0}, {"input": "a", "dimensions": "2"},
        {"input": "a", "model": 1}, {"input": "a", "encoding_format": "int8"},
    ],
    "/tokenize": [
        {"content": None}, {"content": 5}, {"content": ["a"]}, {"prompt": [1]},
        {"content": "a", "messages": [user("Hi")]}, {"content": "a", "add_special": 1},
        {"content": "a", "with_pieces": "x"}, {"messages": []}, {"messages": [{}]},
        {"messages": [user("Hi")], "continue_final_message": True},
    ],
    "/detokenize": [{"tokens": value} for value in (None, "1", [-1], [True], [1.0], [10**30])],
    INPUT_TOKENS: [{"messages": 1}],
}  # fmt: skip
WRONG_MESSAGES: list[Any] = [
    None, user("Hi"), ["Hi"], [None], [{"role": 1, "content": "Hi"}], [{"content": "Hi"}],
    [user(5)], [user("Hi"), user({})], [user([{"type": "text", "text": "x"}, IMAGE])],
    [user([{"type": "text"}])], [user("a" * 1_000_000)], [user("Hi")] * 20_000,
    [user("Hi"), user(None)], [user(["x"])], [user([{"text": "x"}])],
    [user([{"type": "text", "text": ""}] * 10_001)],
    [{"role": "assistant", "tool_calls": [{}]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}],
    [{**user("Hi"), "tool_calls": [A_CALL]}],
    [{"role": "assistant", "function_call": {"name": "f"}}],
    {}, [[user("Hi")], user("Hi")], [[user("Hi")], []], [[user("Hi")], ["Hi"]],
    [[user("Hi")], [user("x" * 9000)]],
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
    "900 levels": b'{"prompt":' + b"[" * 900 + b"]" * 900 + b"}",
}


def refusals() -> Iterator[tuple[str, Case]]:
    for name, body in BAD_CHATS.items():
        yield f"bad chat: {name}", Case(CHAT, body)
    for name, body in BAD_COMPLETIONS.items():
        yield f"bad completion: {name}", Case(COMPLETIONS, body)
    for name, values in WRONG.items():
        for place, value in enumerate(values):
            yield f"wrong {name}, {place}", Case(COMPLETIONS, {"prompt": "Hi", name: value})
    for name, values in WRONG_IN_CHATS.items():
        for place, value in enumerate(values):
            body = {**chat("x", tools=TOOLS, logprobs=True), name: value}
            yield f"wrong {name} in a chat, {place}", Case(CHAT, body)
    for path, bodies in WRONG_ELSEWHERE.items():
        for place, body in enumerate(bodies):
            yield f"wrong {place}: {path}", Case(path, body)
    yield from _bound()
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
    yield "no such folder", Case("/health/", method="GET")
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


def _bound() -> Iterator[tuple[str, Case]]:
    """An answer is bound to one thing, or to a schema or calls; and ends where that ends."""
    for first, second in combinations(BOUND, 2):
        if (first, second) != ("response_format", "tools"):
            both = {first: BOUND[first], second: BOUND[second]}
            yield f"bad chat: {first} and {second}", Case(CHAT, chat("x", **both))
    for name, value in BOUND.items():
        for ending, given in (("ignore_eos", True), ("min_tokens", 1)):
            more = {name: value, ending: given}
            yield f"bad chat: {name} and {ending}", Case(CHAT, chat("x", **more))
