"""Mixed traffic whose right answers are known: all endpoints, dialects and forms."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scripts.campaign.ask import Ask, Shape
from scripts.campaign.exchange import PROMPT, exchange
from scripts.campaign.server import CampaignError
from scripts.load.prompts import Prompts

COMPLETIONS, CHAT, CHATS = "/v1/completions", "/v1/chat/completions", "/v2/chat/completions"
_N_PROMPTS = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds every request.

    Attributes:
        short: tokens of a short answer, at most.
        long: of a long one.
        words: of a prompt.
        request_timeout_s: the server's.
        queue_timeout_s: the server's.
    """

    short: int
    long: int
    words: int
    request_timeout_s: float
    queue_timeout_s: float


class Traffic:
    """Draws requests; the same seed draws the same."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        """Draw from ``asks``."""
        self._asks = asks

    def draw(self, source: random.Random) -> Ask:
        """A request, some with bounds of its own that are lower than the server's."""
        ask = _made_unique(source.choice(self._asks), source)
        draw = source.random()
        if draw < 0.05:
            bound_s = round(source.uniform(0.2, 2.0), 2)
            header = ("x-request-timeout", str(bound_s))
            return replace(ask, deadline_s=bound_s, headers=(*ask.headers, header))
        if draw < 0.1:
            bound_s = round(source.uniform(0.1, 1.0), 2)
            header = ("x-queue-timeout", str(bound_s))
            return replace(ask, queue_timeout_s=bound_s, headers=(*ask.headers, header))
        return ask

    def short(self, source: random.Random) -> Ask:
        """A request for a short answer, for bursts."""
        ask = source.choice([ask for ask in self._asks if ", short," in f"{ask.name},"])
        return _made_unique(ask, source)


def _made_unique(ask: Ask, source: random.Random) -> Ask:
    """The same with a seed that changes no greedy text.

    A server may suspect a request of killing its workers, and so all that are equal to it.
    """
    return replace(ask, body={**ask.body, "seed": source.randrange(1 << 40)})


async def learn(port: int, model: str, limits: Limits, seed: int) -> Traffic:
    """Ask an undisturbed server for the right answers.

    Raises:
        CampaignError: it does not answer.
    """
    prompts = Prompts(seed, limits.words)
    asks: list[Ask] = []
    for number in range(_N_PROMPTS):
        for length, n_tokens in (("short", limits.short), ("long", limits.long)):
            texts = [prompts.text(number, length, side) for side in range(2)]
            common = {"temperature": 0, "max_tokens": n_tokens}
            for name, path, shape, body in _kinds(model, texts):
                ask = Ask(
                    name=f"{name}, {length}",
                    path=path,
                    body={**common, **body, "stream": False},
                    shape=shape,
                    is_stream=False,
                    texts=(),
                    finish_reasons=(),
                    deadline_s=limits.request_timeout_s,
                    queue_timeout_s=limits.queue_timeout_s,
                )
                asks += await _forms(port, ask)
    return Traffic(asks)


def _kinds(model: str, texts: list[str]) -> list[tuple[str, str, Shape, Any]]:
    chat = [{"role": "user", "content": texts[0]}]
    chats = [[{"role": "user", "content": text}] for text in texts]
    return [
        ("completion", COMPLETIONS, "completion", {"model": model, "prompt": texts[0]}),
        ("two prompts", COMPLETIONS, "completion", {"model": model, "prompt": texts}),
        ("chat", CHAT, "chat", {"model": model, "messages": chat}),
        ("chat, n = 2", CHAT, "chat", {"model": model, "messages": chat, "n": 2}),
        ("v2, two chats", CHATS, "chat", {"model": model, "messages": chats}),
    ]


async def _forms(port: int, ask: Ask) -> list[Ask]:
    """The request in all forms that the API has for it, with the answer of the whole one."""
    answer = await exchange(port, ask, PROMPT, 60)
    if answer.status != 200:
        raise CampaignError(f"{ask.name}, undisturbed: {answer.status} {answer.body!r}{answer.why}")
    choices = sorted(json.loads(answer.body)["choices"], key=lambda choice: choice["index"])
    whole = replace(
        ask,
        texts=tuple(
            choice["message"]["content"] if ask.shape == "chat" else choice["text"]
            for choice in choices
        ),
        finish_reasons=tuple(choice["finish_reason"] for choice in choices),
    )
    short_form = {name: value for name, value in ask.body.items() if name != "model"}
    stream = {**ask.body, "stream": True}
    forms = [whole, replace(whole, name=f"{ask.name}, stream", body=stream, is_stream=True)]
    if ask.shape == "completion":
        del short_form["stream"]
        name = f"{ask.name}, short form"
        forms.append(replace(whole, name=name, body=short_form, shape="text"))
    else:
        short_form["stream"] = True
        name = f"{ask.name}, short form, stream"
        forms.append(replace(whole, name=name, body=short_form, is_stream=True))
    return forms
