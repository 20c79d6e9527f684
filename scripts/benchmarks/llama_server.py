"""This server, llama.cpp's own and its library alone, on one file, in turn in one run."""

import json
import random
import statistics
import time
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from scripts.benchmarks.compare import OURS, Comparison, Rounds
from scripts.benchmarks.raw_library import RawLibrary
from scripts.benchmarks.reuse import Chat, hold, new_chats
from scripts.benchmarks.setup import COMPLETIONS, CORES, RequestFailed, Setup, Target, ttft_of
from scripts.client import Connection, model_of, play, request
from scripts.figures import Results
from scripts.llama_server import llama_server
from scripts.processes import mib
from scripts.prompts import unlike_any, words
from scripts.server import START_S, Server, environment, launch
from scripts.transcript import Outcome, outcome

NAME = "llama-server"
_STREAMS = (1, 2, 4, 8, 16)
_SLOTS = _STREAMS[-1]
_N_CTX = 8192
# Of each stream, unless --tokens says otherwise; prompts keep their ratio to it.
_TOKENS, _PROMPTS = 128, (60, 200)
_N_CHATS, _TURNS, _AT_ONCE = 16, 4, 2
_STEPS = 16
_MIB = 1 << 20

Side = Target | RawLibrary


def measure_llama_server(
    setup: Setup, results: Results, tokens: int | None = None, *, is_demo: bool
) -> None:
    """Add ratios of this server to llama.cpp's own, and curves of both and of the library alone."""
    load = _Load(setup, tokens or setup.choose(_TOKENS, _TOKENS // 8))
    common = {"CONTEXT_LENGTH": str(_N_CTX), "SLOTS": str(_SLOTS)}
    _measure_start(setup, results, is_demo)
    with setup.serve(WORKERS=str(CORES), **common) as server:
        _measure_memory(setup, results, server, "when ready")
    with ExitStack() as running:
        server = running.enter_context(setup.serve(**common))
        theirs = running.enter_context(
            llama_server(setup.model, slots=_SLOTS, n_ctx=_N_CTX, threads=CORES)
        )
        raw = running.enter_context(RawLibrary(setup.model, _SLOTS, _N_CTX))
        targets = [Target(OURS, server.url), Target(NAME, theirs.url)]
        _measure_streams(Comparison(setup, results, NAME, [*targets, raw]), load, results)
        _measure_memory(setup, results, server, "after the streams")
        _measure_turns(targets[0], results, load.tokens)


class _Load:
    """What all sides get: streams of ``tokens`` tokens each, and other prompts in each round."""

    def __init__(self, setup: Setup, tokens: int) -> None:
        self.tokens = tokens
        self.streams = _STREAMS[: setup.choose(len(_STREAMS), 2)]
        self.shares: list[float] = []  # of a core, which the generator took
        least, most = (length * tokens // _TOKENS for length in _PROMPTS)
        source = random.Random(setup.model)
        self.lengths = [source.randint(least, most) for _ in range(_SLOTS)]

    def run(self, side: Side) -> list[float]:
        """Tokens per second of each number of streams, and TTFT of the most of them, its median."""
        if isinstance(side, RawLibrary):
            return [*side.speeds(self.lengths, self.streams, self.tokens, _STEPS), 0.0]
        model = model_of(Connection(side.url))
        runs = [self._play(side, model, count) for count in self.streams]
        speeds = [
            len(seen) * self.tokens / max(each.ended_s - seen[0].started_s for each in seen)
            for seen in runs
        ]
        return [*speeds, statistics.median(map(ttft_of, runs[-1]))]

    def warm_up(self, side: Target) -> None:
        self._play(side, model_of(Connection(side.url)), 2)
        self.shares.clear()

    def _play(self, side: Target, model: str, count: int) -> list[Outcome]:
        """So many streams that arrive at once, each with a prompt that no cache has.

        Raises:
            RequestFailed: an answer is not whole.
        """
        bodies = [
            {"model": model, "prompt": f"{unlike_any()} {words(length - 2, salt=number)}",
             "max_tokens": self.tokens, "temperature": 0, "stream": True, "ignore_eos": True}
            for number, length in enumerate(self.lengths[:count])
        ]  # fmt: skip
        requests = [request("POST", COMPLETIONS, json.dumps(body).encode()) for body in bodies]
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        answers = play(side.port, requests)
        self.shares.append((time.process_time() - began_cpu_s) / (time.monotonic() - began_s))
        seen = [outcome(COMPLETIONS, answer, COMPLETIONS) for answer in answers]
        for each in seen:
            if each.kind != "completed" or each.finish_reason != "length":
                raise RequestFailed(f"not {self.tokens} tokens: {each}")
        return seen


def _measure_streams(comparison: Comparison[Side], load: _Load, results: Results) -> None:
    for side in comparison.sides:
        if isinstance(side, Target):
            load.warm_up(side)
    what = f"output tokens/s at {' / '.join(map(str, load.streams))} streams of {load.tokens}"
    rounds = comparison.in_turn(what, load.run)
    speeds: Rounds = [{name: row[:-1] for name, row in one.items()} for one in rounds]
    comparison.add(what, speeds)
    comparison.draw(NAME, load.streams, speeds)
    ttft = [{name: one[name][-1:] for name in (OURS, NAME)} for one in rounds]
    what = f"TTFT of {load.streams[-1]} streams that arrive at once, p50"
    comparison.add(what, ttft, "s", "≤ 0.7")
    results.notes.append(
        f"both servers have {_SLOTS} slots and a context of {_N_CTX};"
        f" the load generator took {max(load.shares):.1%} of a core at most"
    )


def _measure_turns(target: Target, results: Results, tokens: int) -> None:
    """Add TTFT of the later turns of chats, to that of the same prompts with nothing known."""
    n = max(2, tokens // 4)
    chats = new_chats(_N_CHATS, max(8, tokens * 3 // 4))
    hold(target, chats, _TURNS, _AT_ONCE, n)
    known = [ttft_of(seen) for chat in chats for seen in chat.outcomes[1:]]

    def ask_again(to: Target, share: list[Chat]) -> list[float]:
        return [
            ttft_of(to.chat([_unlike(chat.messages[0]), *chat.messages[1 : 2 * turn]], n))
            for chat in share
            for turn in range(2, _TURNS + 1)
        ]

    some = chats[:: _N_CHATS // 4]
    shares = [some[number::_AT_ONCE] for number in range(_AT_ONCE)]
    unknown = target.side_by_side([partial(ask_again, share=share) for share in shares])
    ratio = statistics.median(known) / statistics.median(chain.from_iterable(unknown))
    what = f"TTFT of turns 2 to {_TURNS} of {_N_CHATS} chats that take turns ÷ without reuse, p50"
    results.add(NAME, what, ratio, goal="≤ 0.25")


def _unlike(message: dict[str, str]) -> dict[str, str]:
    return {**message, "content": f"{unlike_any()} {message['content']}"}


def _measure_memory(setup: Setup, results: Results, server: Server, when: str) -> None:
    private_mib = [mib(pid, "Private_") for pid in server.worker_pids()]
    weights_mib = Path(setup.model).stat().st_size / _MIB
    what = f"private memory of a worker ({max(private_mib):.0f} MiB) ÷ the model file, {when}"
    results.add(NAME, what, max(private_mib) / weights_mib)


def _measure_start(setup: Setup, results: Results, is_demo: bool) -> None:
    """Add how soon a server is ready that has served the model before."""
    model = {} if is_demo else {"MODEL_NAME": setup.model}
    for is_first in (True, False):
        started_s = time.monotonic()
        server = Server(launch(env=environment(LOG_LEVEL="warning", **model)))
        try:
            server.wait_until_ready()
            server.wait_until(_has_idle_worker, START_S)
            took_s = time.monotonic() - started_s
            if is_first:
                _wait_until_measured(server)
        finally:
            server.kill()
    results.add(NAME, "ready after the second start", took_s, unit="s", goal="≤ 2.5")


def _has_idle_worker(status: dict[str, Any]) -> bool:
    return any(worker["state"] == "idle" for worker in status["workers"])


def _wait_until_measured(server: Server) -> None:
    """What a server finds out about a model beside its work would disturb what comes next."""
    deadline_s = time.monotonic() + START_S
    while server.get("/props").get("exact_rows") is None and time.monotonic() < deadline_s:
        time.sleep(0.1)
