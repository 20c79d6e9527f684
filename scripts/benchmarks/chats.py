"""Chats: how much of their prompts is reused, what that saves, and a system prompt of many."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from scripts.benchmarks.setup import Setup, Target
from scripts.client import Connection
from scripts.figures import Results
from scripts.prompts import unlike_any, words
from scripts.server import Server
from scripts.transcript import Outcome

Messages = list[dict[str, str]]


@dataclass(slots=True)
class Chat:
    """A conversation that is being held."""

    messages: Messages
    asked: list[Messages] = field(default_factory=list)  #: the messages of each turn's request
    outcomes: list[Outcome] = field(default_factory=list)  #: of each turn

    def turn(self, target: Target, question: str, n: int) -> None:
        self.messages.append({"role": "user", "content": question})
        self.asked.append(list(self.messages))
        self.outcomes.append(target.chat(self.messages, n))
        self.messages.append({"role": "assistant", "content": self.outcomes[-1].text})

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


def new_chats(n: int, system_words: int) -> list[Chat]:
    """Chats whose system messages share nothing."""
    return [
        Chat([{"role": "system", "content": f"{unlike_any()} {words(system_words, salt=number)}"}])
        for number in range(n)
    ]


def hold(target: Target, chats: Sequence[Chat], turns: int, at_once: int, n: int) -> None:
    """Hold all chats, ``at_once`` at a time, a turn of each before the next turn of any."""

    def work(to: Target, share: Sequence[Chat]) -> None:
        for turn in range(turns):
            for number, chat in enumerate(share):
                chat.turn(to, words(24, salt=100 * turn + number), n)

    shares = [chats[number::at_once] for number in range(at_once)]
    target.side_by_side([partial(work, share=share) for share in shares])


def repeat_cold(
    target: Target, chats: Sequence[Chat], turns: int, at_once: int, n: int
) -> list[list[Outcome]]:
    """Send the same requests in the same order, each behind a first word of its own.

    Returns:
        For each chat and turn what came of it, with nothing to reuse.
    """

    def work(to: Target, share: Sequence[Chat]) -> list[list[Outcome]]:
        outcomes: list[list[Outcome]] = [[] for _ in share]
        for turn in range(turns):
            for chat, own in zip(share, outcomes, strict=True):
                system, *rest = chat.asked[turn]
                other = {**system, "content": f"{unlike_any()} {system['content']}"}
                own.append(to.chat([other, *rest], n))
        return outcomes

    shares = [chats[number::at_once] for number in range(at_once)]
    found = target.side_by_side([partial(work, share=share) for share in shares])
    return [found[number % at_once][number // at_once] for number in range(len(chats))]


def measure_chats(setup: Setup, results: Results) -> None:
    """Add how much of the chats' prompts was reused, and what that does to the first token."""
    n_chats, turns, n = setup.choose(8, 2), setup.choose(4, 3), setup.choose(32, 8)
    everything, ratios = list[Chat](), list[float]()
    with setup.serve(WORKERS="2") as server:
        target = Target("this server", server.url)
        for _ in range(setup.choose(min(setup.rounds, 3), 1)):
            chats = new_chats(n_chats, setup.choose(96, 32))
            hold(target, chats, turns, 2, n)
            for chat, cold in zip(chats, repeat_cold(target, chats, turns, 2, n), strict=True):
                # An answer may be nothing but its end, and then has no first text.
                ratios += [
                    warm.ttft_s / without.ttft_s
                    for warm, without in list(zip(chat.outcomes, cold, strict=True))[1:]
                    if warm.ttft_s and without.ttft_s
                ]
            everything += chats
    reused, reusable = map(sum, zip(*(chat.reused() for chat in everything), strict=True))
    what = f"{n_chats} chats of {turns} turns interleaved, 2 running"
    name = f"{what}: prompt tokens reused ÷ reusable"
    results.add("chats", name, reused / reusable, goal="≥ 0.95")
    name = f"the same: TTFT of turns 2 to {turns} ÷ the same without reuse"
    results.add("chats", name, statistics.median(ratios), goal="≤ 0.25")


def prompt_tokens(server: Server, messages: Messages) -> list[int]:
    """The ids of a chat's prompt, by the server's own account."""
    connection = Connection(server.url)
    answer = connection.post("/tokenize", {"messages": messages})
    connection.close()
    ids: list[int] = answer.json()["tokens"]
    return ids


def distinct_tokens(prompts: Sequence[Sequence[int]], before: Sequence[Sequence[int]]) -> int:
    """How many tokens of ``prompts`` are no part of a prefix that an earlier prompt had.

    Args:
        prompts: token ids, in the order in which they are sent.
        before: those that were sent earlier still.
    """
    seen, total = [*before], 0
    for prompt in prompts:
        total += len(prompt) - max((common_prefix(prompt, other) for other in seen), default=0)
        seen.append(prompt)
    return total


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((n for n, (x, y) in pairs if x != y), min(len(a), len(b)))


def measure_shared(setup: Setup, results: Results) -> None:
    """Add how many tokens were evaluated for requests that share a long system prompt."""
    n_requests, system = setup.choose(50, 6), words(setup.choose(1000, 200))
    chats = [_question(system, number) for number in range(n_requests)]
    warm_up = [_question(system, -number) for number in range(1, setup.choose(12, 4) + 1)]
    with setup.serve(WORKERS="2") as server:
        prompts = [prompt_tokens(server, chat) for chat in chats]
        before = [prompt_tokens(server, chat) for chat in warm_up]
        _evaluated(server, warm_up)
        evaluated = _evaluated(server, chats)
    n_shared = common_prefix(prompts[0], prompts[1])
    what = f"{n_requests} requests with one shared system prompt of {n_shared} tokens"
    name = f"{what}: prompt tokens evaluated ÷ distinct ones, after {len(warm_up)} others"
    results.add("shared", name, evaluated / distinct_tokens(prompts, before), goal="≤ 1.05")

    with setup.serve(WORKERS="2", WARM_PROMPT=system) as server:
        evaluated = _evaluated(server, chats)
    name = "the same with WARM_PROMPT, from the first request on"
    distinct = distinct_tokens(prompts, [prompts[0][:n_shared]])
    results.add("shared", name, evaluated / distinct, goal="≤ 1.05")


def _question(system: str, number: int) -> Messages:
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"{unlike_any()} {words(24, salt=number)}"},
    ]


def _evaluated(server: Server, chats: Sequence[Messages]) -> int:
    """Send chats, two at a time; returns how many prompt tokens were evaluated."""

    def work(to: Target, share: Sequence[Messages]) -> int:
        outcomes = [to.chat(chat, 4) for chat in share]
        return sum(outcome.prompt_tokens - outcome.cached_tokens for outcome in outcomes)

    target = Target("this server", server.url)
    return sum(target.side_by_side([partial(work, share=chats[k::2]) for k in range(2)]))
