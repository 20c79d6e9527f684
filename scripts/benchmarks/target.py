"""A server under measurement, ours or another, as the load of the benchmarks reaches it."""

import itertools
import string
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from scripts.load.client import Client, exchange, model_of
from scripts.load.outcome import Outcome
from scripts.load.prompts import WORDS
from shared.errors import UsageError

Result = TypeVar("Result")
Messages = Sequence[dict[str, str]]

_distinct = itertools.count()


class Target:
    """An OpenAI-style server.

    Attributes:
        name: how the table calls it.
        url: where it is.
    """

    def __init__(self, name: str, url: str) -> None:
        """Ask the server for its model.

        Raises:
            UsageError: no such server answers there.
        """
        self.name = name
        self.url = url
        try:
            client = Client(url)
            self._model = model_of(client)
        except (ValueError, OSError) as error:
            raise UsageError(f"no OpenAI-style server answers at {url}: {error}") from error
        client.close()

    def connect(self) -> "Connection":
        """A connection of its own, for one thread."""
        return Connection(Client(self.url), self._model)

    def side_by_side(
        self, works: Sequence[Callable[["Connection"], Result]]
    ) -> tuple[float, list[Result]]:
        """Do each of ``works`` in a thread with a connection, all at the same time.

        Returns:
            Seconds until the last is done, and what they return, in order.
        """
        connections = [self.connect() for _ in works]
        with ThreadPoolExecutor(len(works)) as threads:
            started = time.perf_counter()
            results = list(threads.map(lambda work, to: work(to), works, connections))
            elapsed = time.perf_counter() - started
        for connection in connections:
            connection.close()
        return elapsed, results


class Connection:
    """Greedy requests, one after another."""

    def __init__(self, client: Client, model: str) -> None:
        """Use ``client`` to ask for ``model``."""
        self._client = client
        self._common: dict[str, Any] = {
            "model": model,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }

    def complete(self, prompt: str, n: int) -> Outcome:
        """Have a prompt continued by up to ``n`` tokens."""
        return self._send("/v1/completions", prompt=prompt, max_tokens=n)

    def chat(self, messages: Messages, n: int) -> Outcome:
        """Have a chat answered with up to ``n`` tokens."""
        return self._send("/v1/chat/completions", messages=list(messages), max_tokens=n)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _send(self, path: str, **content: Any) -> Outcome:
        return exchange(self._client, path, path, {**self._common, **content})


class RequestFailed(Exception):
    """A request of a benchmark was not answered as it must be, so its figures mean nothing."""


def checked(outcome: Outcome) -> Outcome:
    """The outcome, if it is complete.

    Raises:
        RequestFailed: it is not; the text says why.
    """
    if outcome.kind != "completed":
        raise RequestFailed(f"{outcome.name}: {outcome.kind}, {outcome.code} {outcome.detail}")
    return outcome


def ttft_of(outcome: Outcome) -> float:
    """Seconds to the first text of a complete request.

    Raises:
        RequestFailed: it is not complete, or has no text.
    """
    ttft_s = checked(outcome).ttft_s
    if ttft_s is None:
        raise RequestFailed(f"{outcome.name}: the answer has no text")
    return ttft_s


def unlike_any() -> str:
    """A few words that no text of this run begins with, so that no cache has what follows."""
    number = next(_distinct)
    # The first token differs from that of the last 52 texts, which is more than any pool holds.
    first = string.ascii_letters[number % 52]
    return f"{first}{number}"


def words(n: int, salt: int = 0) -> str:
    """A text of ``n`` common words, the same each time for the same ``salt``."""
    return " ".join(WORDS[(salt + 7 * place) % len(WORDS)] for place in range(n))
