"""Chats of many turns, interleaved: how much of their prompts is reused, and what that saves."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from scripts.bench_sides import Server
from scripts.benchmarks.results import Results
from scripts.benchmarks.setup import Setup
from scripts.benchmarks.target import Connection, Target, checked, unlike_any, words
from scripts.load.outcome import Outcome


@dataclass(slots=True)
class Chat:
    """A conversation that is being held.

    Attributes:
        messages: so far.
        asked: the messages of each turn's request.
        outcomes: what came of each turn.
    """

    messages: list[dict[str, str]]
    asked: list[list[dict[str, str]]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def turn(self, connection: Connection, question: str, n: int) -> None:
        """Ask, and take the answer into the conversation.

        Raises:
            RequestFailed: there was none.
        """
        self.messages.append({"role": "user", "content": question})
        self.asked.append(list(self.messages))
        outcome = checked(connection.chat(self.messages, n))
        self.outcomes.append(outcome)
        self.messages.append({"role": "assistant", "content": outcome.text})

    def reused(self) -> tuple[int, int]:
        """Prompt tokens after the first turn that were reused, and that could have been.

        What could: all that the turn before has left in a cache, which is its prompt and its
        answer, but for an answer's last token where the limit cut it off (it was never evaluated).
        """
        reused = reusable = 0
        for before, outcome in zip(self.outcomes, self.outcomes[1:], strict=False):
            held = before.prompt_tokens + before.completion_tokens
            held -= before.finish_reason == "length"
            reused += outcome.cached_tokens
            reusable += min(held, outcome.prompt_tokens - 1)
        return reused, reusable


def hold(target: Target, chats: Sequence[Chat], turns: int, at_once: int, n: int) -> None:
    """Hold all chats, ``at_once`` at a time, a turn of each before the next turn of any.

    Raises:
        RequestFailed: a turn was not answered.
    """

    def work(connection: Connection, share: Sequence[Chat]) -> None:
        for turn in range(turns):
            for number, chat in enumerate(share):
                chat.turn(connection, words(24, salt=100 * turn + number), n)

    shares = [chats[number::at_once] for number in range(at_once)]
    target.side_by_side([partial(work, share=share) for share in shares])


def repeat_cold(
    target: Target, chats: Sequence[Chat], turns: int, at_once: int, n: int
) -> list[list[Outcome]]:
    """Send the same requests in the same order, each behind a first word of its own.

    Returns:
        For each chat and turn what came of it, with nothing to reuse.

    Raises:
        RequestFailed: a request was not answered.
    """

    def work(connection: Connection, share: Sequence[Chat]) -> list[list[Outcome]]:
        outcomes: list[list[Outcome]] = [[] for _ in share]
        for turn in range(turns):
            for chat, own in zip(share, outcomes, strict=True):
                system, *rest = chat.asked[turn]
                other = {**system, "content": f"{unlike_any()} {system['content']}"}
                own.append(checked(connection.chat([other, *rest], n)))
        return outcomes

    shares = [chats[number::at_once] for number in range(at_once)]
    _, found = target.side_by_side([partial(work, share=share) for share in shares])
    return [found[number % at_once][number // at_once] for number in range(len(chats))]


def new_chats(n: int, system_words: int) -> list[Chat]:
    """Chats whose system messages share nothing."""
    return [
        Chat([{"role": "system", "content": f"{unlike_any()} {words(system_words, salt=number)}"}])
        for number in range(n)
    ]


def ttft_ratios(target: Target, setup: Setup) -> tuple[list[Chat], list[float]]:
    """Hold chats, and then again without reuse.

    Returns:
        The chats, and the ratio of each turn but the first.

    Raises:
        RequestFailed: a turn was not answered.
    """
    n_chats, turns = setup.choose(8, 2), setup.choose(4, 3)
    n, at_once = setup.choose(32, 8), 2
    chats = new_chats(n_chats, setup.choose(96, 32))
    hold(target, chats, turns, at_once, n)
    cold = repeat_cold(target, chats, turns, at_once, n)
    pairs = (
        (outcome.ttft_s, without.ttft_s)
        for chat, own in zip(chats, cold, strict=True)
        for outcome, without in list(zip(chat.outcomes, own, strict=True))[1:]
    )
    # An answer may be nothing but its end, and then has no first text.
    ratios = [warm_s / cold_s for warm_s, cold_s in pairs if warm_s and cold_s]
    return chats, ratios


def measure(setup: Setup, results: Results) -> None:
    """Add how much of the chats' prompts was reused, and what that does to the first token."""
    with Server(MODEL_NAME=str(setup.model), WORKERS="2") as server:
        target = Target("this server", server.url)
        chats: list[Chat] = []
        ratios: list[float] = []
        for _ in range(setup.choose(min(setup.rounds, 3), 1)):
            more_chats, more_ratios = ttft_ratios(target, setup)
            chats += more_chats
            ratios += more_ratios
    sums = [chat.reused() for chat in chats]
    reused, reusable = (sum(part) for part in zip(*sums, strict=True))
    n_chats, turns = setup.choose(8, 2), setup.choose(4, 3)
    what = f"{n_chats} chats of {turns} turns interleaved, 2 running"
    name = f"{what}: prompt tokens reused ÷ reusable"
    results.add("chats", name, reused / reusable, goal="≥ 0.95")
    name = f"the same: TTFT of turns 2 to {turns} ÷ the same without reuse"
    results.add("chats", name, statistics.median(ratios), goal="≤ 0.25")
