"""Requests that are answered, by the names that their answers have in ``answers.txt``.

The echo engine repeats the prompt, or the last message. So a prompt that follows a grammar, or that
is the call of a tool, is an answer that does.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

CHAT, CHATS, COMPLETIONS = "/v1/chat/completions", "/v2/chat/completions", "/v1/completions"
EMBEDDINGS, INPUT_TOKENS = "/v1/embeddings", "/v1/chat/completions/input_tokens"


@dataclass(frozen=True)
class Case:
    """One request; its body is JSON unless it is bytes."""

    path: str
    body: Any = None
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


USAGE = {"stream": True, "stream_options": {"include_usage": True}}
LONG = "Do not go gentle into that good night. " * 10
WEATHER = tool("weather", city={"type": "string"})
TIME = tool("time", zone={"enum": ["UTC", "CET"]})
TOOLS = [WEATHER, TIME]
PARIS = call("weather", '{"city": "Paris"}')
UTC = call("time", '{"zone": "UTC"}')
BOTH = f"{PARIS}\n{UTC}"
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"type": "integer"}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
CITY_FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
OSLO = '{"name": "Oslo", "size": 7}'
NAMED = {"type": "function", "function": {"name": "time"}}
ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {
        "mode": "required",
        "tools": [{"type": "function", "function": {"name": "weather"}}],
    },
}
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    user("What is the weather in Paris?"),
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "Rain"},
]


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [user(text)], **more}


def prompt(given: Any, **more: Any) -> dict[str, Any]:
    return {"model": "echo", "prompt": given, **more}


def _without_model(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "model"}


# What other servers call what an answer is bound to.
OTHER_NAMES = (
    "ebnf", "grammar", "guided_whitespace_pattern", "json_schema", "regex", "structural_tag",
)  # fmt: skip
CHAT_BODIES: dict[str, dict[str, Any]] = {
    "plain": chat("Hello, Wörld 🙂!"),
    "in parts": {"model": "echo", "messages": [user([
        {"type": "text", "text": "one "}, {"type": "text", "text": "two"}])]},
    "developer and name": {"model": "echo", "messages": [
        {"role": "developer", "content": "Be kind."}, {**user("So be it"), "name": "Ann"}]},
    "goes on": {"model": "echo", "messages": [user("Count"), {"role": "assistant",
        "content": "One, two"}]},
    "after a tool": {"model": "echo", "messages": CONVERSATION},
    "a result without a call": {"model": "echo", "messages": [{"role": "tool",
        "content": "x"}]},
    "arguments that are no JSON": {"model": "echo", "messages": [{"role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f",
        "arguments": "{"}}]}, user("And?")]},
    "strange letters": chat("a\0b \u202eabc\u200f 👩‍👩‍👧‍👦🏳️‍🌈 <|im_end|></s>"),
    "systems, twice and late": {"model": "echo", "messages": [
        {"role": "system", "content": "a"}, user(""), {"role": "system", "content": "b"},
        {"role": "assistant", "content": None}, user([{"type": "text", "text": "\0"},
        {"type": "text", "text": "😀"}])]},
    "null everywhere": chat("Hi", **dict.fromkeys(["temperature", "top_p", "stop", "n", "seed",
        "stream", "stream_options", "logprobs", "tools", "max_tokens"])),
    "one token": chat("Anything", max_tokens=1),
    "max_completion_tokens": chat("Everything", max_tokens=1, max_completion_tokens=4),
    "stop": chat("up to here STOP and no further", stop=["nowhere", " STOP"]),
    "stop at once": chat("at the start", stop="at"),
    "stop_token_ids": chat("up to a # sign", stop_token_ids=[35]),
    "min_tokens": chat("ab", min_tokens=3, max_tokens=3, temperature=0),
    "min_tokens of max_completion_tokens": chat("ab", min_tokens=2, max_tokens=1,
        max_completion_tokens=2),
    "n": chat("thrice", n=3, seed=1, max_tokens=5),
    "sampling": chat("as it is", temperature=0, top_p=0.5, top_k=3, min_p=0.1, seed=7,
        presence_penalty=1, frequency_penalty=-1, repetition_penalty=1.1, logit_bias={"32": -1}),
    "neutral parameters": chat("for somebody", user="u", metadata={"a": "b"}, store=False,
        service_tier="auto", tools=[], foo={"bar": 1}, temperature=None),
    "logprobs": chat("né", logprobs=True),
    "no logprobs": chat("x", logprobs=False, top_logprobs=0),
    "top_logprobs": chat("hi", logprobs=True, top_logprobs=1),
    "json_object": chat('{"a": [1, null, true]}', response_format={"type": "json_object"}),
    "json_schema": chat(OSLO, response_format=CITY_FORMAT),
    "json_schema cut": chat(OSLO, response_format=CITY_FORMAT, max_tokens=9),
    "text format": chat("just text", response_format={"type": "text"}),
    "json_object of a schema": chat(OSLO, response_format={"type": "json_object", "schema": CITY}),
    "json_schema without one": chat("{}", response_format={"type": "json_schema",
        "json_schema": {}}),
    "json_schema in its place": chat(OSLO, response_format={"type": "json_schema",
        "json_schema": CITY}),
    "a schema or calls": chat(OSLO, tools=TOOLS, response_format=CITY_FORMAT),
    "calls or a schema": chat(PARIS, tools=TOOLS, response_format=CITY_FORMAT),
    "tools none and a choice": chat("yes", tools=TOOLS, tool_choice="none", guided_choice=["yes"]),
    "neutral and bound": chat("yes", guided_choice=["yes"], ignore_eos=None, min_tokens=None),
    "guided_json": chat(OSLO, guided_json=CITY),
    "guided_json as text, and more": chat(f"{OSLO} and more", guided_json=json.dumps(CITY)),
    "guided_regex": chat("2026-01-31", guided_regex=r"\d{4}-\d\d-\d\d"),
    "guided_choice": chat("yes", guided_choice=["no", "yes"]),
    "guided_grammar": chat("abab", guided_grammar='start: ("ab")+'),
    "guided_grammar in GBNF": chat("-12", guided_grammar='root ::= "-"? [0-9]+'),
    "tools and a text": chat("I need none.", tools=TOOLS),
    "tools auto": chat(PARIS, tools=TOOLS, tool_choice="auto"),
    "tools auto after a text": chat(f"Let me see.\n{PARIS}", tools=TOOLS),
    "tools required": chat(PARIS, tools=TOOLS, tool_choice="required"),
    "tools named": chat(call("time", '{"zone": "CET"}'), tools=TOOLS, tool_choice=NAMED),
    "tools allowed": chat(PARIS, tools=TOOLS, tool_choice=ALLOWED),
    "tools none": chat(PARIS, tools=TOOLS, tool_choice="none"),
    "tools parallel": chat(BOTH, tools=TOOLS, tool_choice="required"),
    "tools not parallel": chat(BOTH, tools=TOOLS, parallel_tool_calls=False),
    "tools cut": chat(PARIS, tools=TOOLS, tool_choice="required", max_tokens=50),
    "a tool followed as far as it goes": chat(call("f", '{"a": 1}'), tools=[tool("f",
        a={"not": {}})]),
    "tools and half a mark": chat("No. <tool", tools=TOOLS),
    "tools stopped": chat(PARIS, tools=TOOLS, stop="Par"),
    "tools n": chat(PARIS, tools=TOOLS, tool_choice="required", n=2),
}  # fmt: skip
COMPLETION_BODIES: dict[str, dict[str, Any]] = {
    "plain": prompt("Once upon a time, in a land far away"),
    "short": prompt("Brief"),
    "to the end": prompt(LONG, max_tokens=500),
    "limits, low": prompt(
        "x",
        max_tokens=0,
        temperature=0,
        top_p=0,
        top_k=-1,
        min_p=0,
        repetition_penalty=0.01,
        presence_penalty=-2,
        seed=-(2**63),
        n=1,
    ),
    "limits, high": prompt(
        "x",
        max_tokens=0,
        temperature=2,
        top_p=1,
        top_k=2**62,
        min_p=1,
        repetition_penalty=10,
        frequency_penalty=2,
        seed=2**63 - 1,
        stop=["x" * 256] * 16,
        logit_bias={"256": 1, "0": -1},
        stop_token_ids=[0, 256],
    ),
    "as many as are asked for": prompt("x", n=2, best_of=2),
    "an empty suffix": prompt("x", echo=True, suffix=""),
    "several prompts": prompt(["First", "Second"], n=2),
    "token ids": prompt([72, 105, 33]),
    "texts and token ids": prompt(["So", [72, 105]]),
    "nearly all of the context": prompt("x" * 8191),
    "all of the context": prompt("x" * 8192, max_tokens=0),
    "logprobs of no tokens": prompt("x", max_tokens=0, logprobs=0),
    "other servers' names, empty": prompt("x", **{name: {} for name in OTHER_NAMES}),
    "lists of token ids": prompt([[74, 97], [78, 111]]),
    "echo": prompt("again ", echo=True, max_tokens=5),
    "echo of token ids": prompt([65, 255, 66], echo=True),
    "echo with logprobs": prompt("né", echo=True, logprobs=1),
    "the prompt alone": prompt("só", echo=True, logprobs=0, max_tokens=0),
    "no tokens": prompt("nothing", max_tokens=0),
    "logprobs": prompt("oh é", logprobs=1),
    "logprobs of the chosen": prompt("ok", logprobs=0),
    "stop": prompt("line one\nline two", stop="\n"),
    "ignore_eos": prompt("xy", ignore_eos=True, max_tokens=3, temperature=0),
    "json_schema": prompt(OSLO, response_format=CITY_FORMAT, max_tokens=99),
    "guided_choice": prompt("blue", guided_choice=["red", "blue"]),
    "bytes that are no text": prompt([240, 159, 255, 65]),
}
BEST_OF = prompt("the best", best_of=3, n=2, seed=1)
MANY = {"model": "echo", "messages": [[user("Alpha")], [user("Beta"), user("Gamma")]], "n": 2}
TOKENIZE: dict[str, Any] = {
    "content": {"content": "né"},
    "prompt": {"prompt": "né", "add_special_tokens": True},
    "messages": {"messages": [user("né")]},
    "with_pieces": {"content": "né", "with_pieces": True},
    "return_token_strs": {"prompt": "né", "return_token_strs": True},
    "nothing": {"content": ""},
    "null everywhere": {
        "content": "né",
        **dict.fromkeys(
            [
                "model",
                "prompt",
                "messages",
                "tools",
                "add_special",
                "add_special_tokens",
                "parse_special",
                "with_pieces",
                "return_token_strs",
            ]
        ),
    },
    "how a chat ends": {
        "messages": [user("né")],
        "add_generation_prompt": None,
        "continue_final_message": False,
    },
}
EMBEDDED: dict[str, Any] = {
    "a text": {"input": "Hello"},
    "texts": {"input": ["Hello", "World"], "encoding_format": "float"},
    "token ids": {"input": [1, 2, 3], "dimensions": 4},
    "lists of token ids": {"input": [[1, 2], [3]], "encoding_format": "base64"},
    "all of the context": {"input": "a" * 8192, "dimensions": 1},
    "as many as there are": {"input": ["a", [98]], "dimensions": 16, "user": None},
    "base64": {"input": "Hello", "encoding_format": "base64", "dimensions": 5},
}


def cases() -> Iterator[tuple[str, Case]]:
    for name, body in CHAT_BODIES.items():
        yield f"chat: {name}", Case(CHAT, body)
        if "logprobs" not in body or "tools" not in body:
            yield f"chat, streamed: {name}", Case(CHAT, {**body, **USAGE})
    for name, body in COMPLETION_BODIES.items():
        yield f"completion: {name}", Case(COMPLETIONS, body)
        yield f"completion, streamed: {name}", Case(COMPLETIONS, {**body, **USAGE})
    yield "many, guided", Case(CHATS, {**MANY, "guided_choice": ["Alpha", "Gamma"]})
    yield "completion: best of", Case(COMPLETIONS, BEST_OF)
    for dialect, change in (("with a model", dict), ("without a model", _without_model)):
        for stream in (None, False, True):
            more = {} if stream is None else {"stream": stream}
            for path, body in (
                (CHAT, chat(LONG)), (CHATS, chat("Single")), (CHATS, MANY),
                (COMPLETIONS, prompt(LONG)), (COMPLETIONS, prompt(["Ay", "Bee"])),
            ):  # fmt: skip
                what = "many" if body is MANY else "one"
                if path == COMPLETIONS:
                    what = "several" if isinstance(body["prompt"], list) else "one"
                name = f"{dialect}, stream {stream}: {path}, {what}"
                yield name, Case(path, change({**body, **more}))
    for name, body in TOKENIZE.items():
        yield f"tokenize: {name}", Case("/tokenize", body)
    for media in ("Application/JSON; charset=utf-8", "application/vnd.api+json"):
        yield (
            f"sent as {media}",
            Case(COMPLETIONS, {"prompt": "x"}, headers={"content-type": media}),
        )
    for what, name in (("its own", "abc-1"), ("too long an", "x" * 129), ("a wrong", "a b")):
        headers = {"x-request-id": name}
        yield f"{what} id", Case("/health", method="GET", headers=headers)
    yield "echo in the short form", Case(COMPLETIONS, {"prompt": "x", "echo": True, "n": 2})
    yield "detokenize nothing", Case("/detokenize", {"tokens": []})
    yield "detokenize", Case("/detokenize", {"tokens": [72, 105, 195, 169, 255, 256]})
    yield "apply-template", Case("/apply-template", {"messages": CONVERSATION, "tools": TOOLS})
    yield "input_tokens", Case(INPUT_TOKENS, {"messages": CONVERSATION, "tools": TOOLS})
    for name, body in EMBEDDED.items():
        yield f"embeddings: {name}", Case(EMBEDDINGS, body)
    for path in ("/v1/models", "/v1/models/echo", "/props", "/health"):
        yield f"GET {path}", Case(path, method="GET")
