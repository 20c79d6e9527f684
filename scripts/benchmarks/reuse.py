"""What is not evaluated twice: chats of many turns, a system prompt of many chats, long prompts."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from scripts.benchmarks.setup import Setup, Target, ttft_of
from scripts.client import Connection
from scripts.figures import Results, Series
from scripts.prompts import unlike_any, words
from scripts.server import Server
from scripts.transcript import Outcome

LENGTHS = (64, 256, 512, 1024, 1536)
"""Of prompts, in words, which is about tokens."""
Messages = list[dict[str, str]]


@dataclass(slots=True)
class Chat:
    """A conversation that is being held."""

    messages: Messages
    outcomes: list[Outcome] = field(default_factory=list)  #: of each turn

    def turn(self, target: Target, question: str, n: int) -> None:
        self.messages.append({"role": "user", "content": question})
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


def measure_chats(setup: Setup, results: Results) -> None:
    """Add how much of the chats' prompts was reused."""
    n_chats, turns = setup.choose(8, 2), setup.choose(4, 3)
    everything = list[Chat]()
    with setup.serve(WORKERS="2") as server:
        target = Target("this server", server.url)
        for _ in range(setup.choose(min(setup.rounds, 3), 1)):
            chats = new_chats(n_chats, setup.choose(96, 32))
            hold(target, chats, turns, 2, setup.choose(32, 8))
            everything += chats
    reused, reusable = map(sum, zip(*(chat.reused() for chat in everything), strict=True))
    name = (
        f"{n_chats} chats of {turns} turns interleaved, 2 running: prompt tokens reused ÷ reusable"
    )
    results.add("chats", name, reused / reusable, goal="≥ 0.95")


def measure_shared(setup: Setup, results: Results) -> None:
    """Add how many tokens were evaluated for requests that share a long system prompt."""
    n_requests, system = setup.choose(50, 6), words(setup.choose(1000, 200))
    chats = [_question(system, number) for number in range(n_requests)]
    warm_up = [_question(system, -number) for number in range(1, setup.choose(12, 4) + 1)]
    with setup.serve(WORKERS="2") as server:
        n_shared = _common_prefix(_prompt_ids(server, chats[0]), _prompt_ids(server, chats[1]))
        _evaluated_to_distinct(server, warm_up, n_shared)
        ratio = _evaluated_to_distinct(server, chats, n_shared)
    what = f"{n_requests} requests with one shared system prompt of {n_shared} tokens"
    name = f"{what}: prompt tokens evaluated ÷ distinct ones, after {len(warm_up)} others"
    results.add("shared", name, ratio, goal="≤ 1.05")
    with setup.serve(WORKERS="2", WARM_PROMPT=system) as server:
        ratio = _evaluated_to_distinct(server, chats, n_shared)
    name = "the same with WARM_PROMPT, from the first request on"
    results.add("shared", name, ratio, goal="≤ 1.05")


def _question(system: str, number: int) -> Messages:
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"{unlike_any()} {words(24, salt=number)}"},
    ]


def _prompt_ids(server: Server, messages: Messages) -> list[int]:
    connection = Connection(server.url)
    answer = connection.post("/tokenize", {"messages": messages})
    connection.close()
    ids: list[int] = answer.json()["tokens"]
    return ids


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((n for n, (x, y) in pairs if x != y), min(len(a), len(b)))


def _evaluated_to_distinct(server: Server, chats: Sequence[Messages], n_shared: int) -> float:
    """Send chats, two at a time; tokens evaluated to tokens behind the prefix that all share."""

    def work(to: Target, share: Sequence[Messages]) -> list[Outcome]:
        return [to.chat(chat, 4) for chat in share]

    target = Target("this server", server.url)
    halves = target.side_by_side([partial(work, share=chats[k::2]) for k in range(2)])
    seen = [outcome for half in halves for outcome in half]
    evaluated = sum(each.prompt_tokens - each.cached_tokens for each in seen)
    return evaluated / sum(each.prompt_tokens - n_shared for each in seen)


def measure_lengths(setup: Setup, results: Results) -> None:
    """Add the curves of TTFT by prompt length, with and without reuse."""
    lengths = LENGTHS[: setup.choose(len(LENGTHS), 2)]
    with setup.serve() as server:
        target = Target("this server", server.url)
        pairs = [
            [cold_and_warm(target, n_words) for n_words in lengths]
            for _ in range(setup.choose(min(setup.rounds, 3), 1))
        ]
    for column, label in enumerate(("without reuse", "with reuse")):
        y = tuple(statistics.median(row[k][column] for row in pairs) for k in range(len(lengths)))
        results.series.append(Series("ttft", label, lengths, y))
    ratio = statistics.median(row[-1][1] / row[-1][0] for row in pairs)
    name = f"TTFT of {lengths[-1]} words, all but the last 8 words known ÷ nothing known"
    results.add("lengths", name, ratio)


def cold_and_warm(target: Target, n_words: int) -> tuple[float, float]:
    """Seconds to the first text of an unknown prompt, then of one that differs at its end only."""
    known = f"{unlike_any()} {words(n_words - 9)}"
    cold_s = ttft_of(target.complete(f"{known} {words(8, salt=3)}", 2))
    return cold_s, ttft_of(target.complete(f"{known} {words(8, salt=5)}", 2))
