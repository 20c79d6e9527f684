"""What the clients of a campaign ask, and the right answers."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scripts.campaign.exchange import PROMPT, exchange
from scripts.prompts import Prompts
from scripts.server import ServerFailed
from scripts.transcript import Shape, read

COMPLETIONS, CHAT, CHATS = "/v1/completions", "/v1/chat/completions", "/v2/chat/completions"
_N_PROMPTS = 3
_DEEP = 20_000


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that the server can serve."""

    name: str  #: its kind, for the report
    path: str
    body: dict[str, Any]
    shape: Shape
    is_stream: bool
    deadline_s: float  #: that it may take in all, by its own header or the server's setting
    queue_timeout_s: float  #: that it may wait for a worker, likewise
    texts: tuple[str, ...] = ()  #: the undisturbed text of each choice
    finish_reasons: tuple[str, ...] = ()  #: why each of them ends
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def content(self) -> bytes:
        return json.dumps(self.body).encode()

    @property
    def has_own_deadline(self) -> bool:
        """Whether it asks for less time in all than the server gives."""
        return any(name == "x-request-timeout" for name, _ in self.headers)


@dataclass(frozen=True, slots=True)
class Rubbish:
    """A request that must be refused, with a status."""

    name: str  #: what is wrong with it
    path: str
    content: bytes
    status: int = 400
    headers: tuple[tuple[str, str], ...] = ()


_HELLO = b'{"prompt": "a", "messages": [{"role": "user", "content": "a"}], '
_FORM = (("Content-Type", "application/x-www-form-urlencoded"),)
RUBBISH: tuple[Rubbish, ...] = (
    Rubbish("no such place", "/v1/nothing", b"{}", 404),
    Rubbish("a form", COMPLETIONS, b"prompt=a", 415, _FORM),
    *(
        Rubbish(name, path, content, status)
        for path in (COMPLETIONS, CHAT, CHATS)
        for name, content, status in (
            ("nothing", b"", 400),
            ("half a body", b'{"prompt": "Hi", "messages": [{"role"', 400),
            ("wrong types", b'{"prompt": {"a": 1}, "messages": 5}', 400),
            ("deep", b'{"prompt":' * _DEEP + b"1" + b"}" * _DEEP, 400),
            ("bad UTF-8", b'{"prompt": "\xff\xfe", "messages": "\xff"}', 400),
            ("a huge number", b'{"prompt": "a", "max_tokens": 1' + b"0" * 5000 + b"}", 400),
            ("no such model", _HELLO + b'"model": "gpt-0"}', 404),
            ("n absurd", _HELLO + b'"n": 1000000}', 400),
            ("too large", b" " * (3 << 20), 413),
        )
    ),
)
"""With the statuses that refuse it, for the default of ``MAX_BODY_BYTES``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds every request."""

    short: int  #: tokens of a short answer, at most
    long: int  #: of a long one
    words: int  #: of a prompt
    request_timeout_s: float  #: the server's
    queue_timeout_s: float  #: the server's


class Traffic:
    """Draws requests; the same seed draws the same."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self._asks = asks
        self._short = [ask for ask in asks if ", short," in f"{ask.name},"]

    def draw(self, source: random.Random) -> Ask:
        """A request, some with bounds of its own that are lower than the server's."""
        ask, draw = _made_unique(source.choice(self._asks), source), source.random()
        if draw < 0.05:
            bound_s = round(source.uniform(0.2, 2.0), 2)
            return replace(ask, deadline_s=bound_s, headers=(("x-request-timeout", str(bound_s)),))
        if draw < 0.1:
            bound_s = round(source.uniform(0.1, 1.0), 2)
            return replace(
                ask, queue_timeout_s=bound_s, headers=(("x-queue-timeout", str(bound_s)),)
            )
        return ask

    def short(self, source: random.Random) -> Ask:
        """A request for a short answer, for bursts."""
        return _made_unique(source.choice(self._short), source)


def _made_unique(ask: Ask, source: random.Random) -> Ask:
    """The same with a seed that changes no greedy text.

    A server may suspect a request of killing its workers, and so all that are equal to it.
    """
    return replace(ask, body={**ask.body, "seed": source.randrange(1 << 40)})


async def learn(port: int, model: str, limits: Limits, seed: int) -> Traffic:
    """Ask an undisturbed server for the right answers.

    Raises:
        ServerFailed: it does not answer.
    """
    prompts, asks = Prompts(seed, limits.words), list[Ask]()
    for number in range(_N_PROMPTS):
        for length, n_tokens in (("short", limits.short), ("long", limits.long)):
            texts = [prompts.text(number, length, side) for side in range(2)]
            common = {"model": model, "temperature": 0, "max_tokens": n_tokens, "stream": False}
            for name, path, content in _kinds(texts):
                ask = Ask(
                    name=f"{name}, {length}",
                    path=path,
                    body={**common, **content},
                    shape="chat" if "chat" in path else "completion",
                    is_stream=False,
                    deadline_s=limits.request_timeout_s,
                    queue_timeout_s=limits.queue_timeout_s,
                )
                asks += await _forms(port, ask)
    return Traffic(asks)


def _kinds(texts: list[str]) -> list[tuple[str, str, dict[str, Any]]]:
    chats = [[{"role": "user", "content": text}] for text in texts]
    return [
        ("completion", COMPLETIONS, {"prompt": texts[0]}),
        ("two prompts", COMPLETIONS, {"prompt": texts}),
        ("chat", CHAT, {"messages": chats[0]}),
        ("chat, n = 2", CHAT, {"messages": chats[0], "n": 2}),
        ("v2, two chats", CHATS, {"messages": chats}),
    ]


async def _forms(port: int, ask: Ask) -> list[Ask]:
    """The request in all forms that the API has for it, with the answer of the whole one."""
    answer = await exchange(port, ask, PROMPT, 60)
    transcript = read(answer, ask.shape, is_stream=False)
    if answer.status != 200 or transcript.disorder:
        raise ServerFailed(f"{ask.name}, undisturbed: {answer.status} {answer.body!r}{answer.why}")
    whole = replace(
        ask,
        texts=tuple(text for _, text in sorted(transcript.texts.items())),
        finish_reasons=tuple(reason for _, reason in sorted(transcript.finish_reasons.items())),
    )
    streamed = {**ask.body, "stream": True}
    stream = replace(whole, name=f"{ask.name}, stream", body=streamed, is_stream=True)
    if ask.shape == "completion":
        short = {name: value for name, value in ask.body.items() if name not in ("model", "stream")}
        last = replace(whole, name=f"{ask.name}, short form", body=short, shape="text")
    else:
        short = {name: value for name, value in streamed.items() if name != "model"}
        last = replace(stream, name=f"{ask.name}, short form, stream", body=short)
    return [whole, stream, last]
