"""The requests of each scenario, told apart from who sends them and when."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from scripts.load.options import Options
from scripts.load.outcome import Outcome
from scripts.load.prompts import Prompts

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        name: what its figures are filed under.
        path: where it goes.
        body: sent as JSON.
        close_after: chunks with text after which the connection is closed; None reads to the end.
    """

    name: str
    path: str
    body: dict[str, Any]
    close_after: int | None = None


Send = Callable[[Request], Outcome]


class Scenario:
    """Makes requests from options; every user has one, and a number that no other has."""

    def __init__(self, options: Options, model: str, user: int) -> None:
        """Make the first request of user number ``user`` to come.

        Args:
            options: what to do.
            model: what requests name.
            user: makes the prompts differ from other users'.
        """
        self._options = options
        self._prompts = Prompts(options.seed, options.prompt_tokens, options.shared_prefix)
        self._user = user
        self._numbers = itertools.count()
        self._common: dict[str, Any] = {
            "model": model,
            "max_tokens": options.max_tokens,
            "temperature": 0,
            "seed": options.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if options.ignore_eos:
            self._common["ignore_eos"] = True

    def single(self) -> Request:
        """A request on its own, with a prompt of its own."""
        key = (self._user, next(self._numbers))
        name = self._options.scenario
        if name == "completions":
            return self._request(name, COMPLETIONS, **self._prompts.completion(*key))
        return self._request(name, CHAT, messages=self._prompts.opening(*key))

    def disconnecting(self) -> Request:
        """A request whose connection is closed in the midst of its answer."""
        request = self.single()
        return Request("disconnect", request.path, request.body, self._options.disconnect_after)

    def chat(self, send: Send) -> Iterator[Outcome]:
        """Hold a chat of several turns, each sent when the one before is answered.

        It ends early if a turn is not complete.
        """
        number = next(self._numbers)
        messages = self._prompts.opening(self._user, number)
        for turn in range(1, self._options.turns + 1):
            if turn > 1:
                question = self._prompts.text(self._user, number, turn)
                messages = [*messages, {"role": "user", "content": question}]
            outcome = send(self._request(f"turn-{turn}", CHAT, messages=messages))
            yield outcome
            if outcome.kind != "completed":
                return
            messages = [*messages, {"role": "assistant", "content": outcome.text}]

    def _request(self, name: str, path: str, **content: Any) -> Request:
        return Request(name, path, {**self._common, **content})
