"""What a model does on this machine, measured in a process that may die: the body of that process.

Its argument is a JSON object, as `gateway.calibration` makes it; its answer is another one.
"""

import hashlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import orjson

from shared.config import WorkerConfig
from shared.sampling import SamplingParams
from worker import engines
from worker.engines.base import Engine, Logits, SlotTokens
from worker.lifetime import end_with_gateway
from worker.sampling.sampler import Sampler

#: Sequences in all, few first: of a slow model only these are measured in time.
_SEQUENCES = (2, 4, 8, 16)
# So long each is decoded: 40 of them (16 cores) are to end in time.
_WINDOW_S = 0.2
# Of the CPU time that threads on cores of their own would have used. With less a neighbour has
# taken part of it, and the figure says nothing.
_UNDISTURBED = 0.85
# Kernels differ by how many rows they take at once, and by what is left over.
_ROWS = (2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 63)
# As many as decode together, and one that keeps a prefix.
_SLOTS = 17
# From 257 cells on, attention divides those of a row among the threads. Quantised activations hide
# most of the difference that it makes, so some tokens are looked at.
_MANY_TOKENS, _MORE_TOKENS = 260, 8


def measure_layouts(
    engine: Engine, processes: Sequence[int], cores: int, seconds: float
) -> dict[str, Any]:
    """Tokens/s by number of sequences and of processes, as far as the time allows.

    `disturbed` says whether another program has taken part of the cores.
    """
    deadline_s = time.monotonic() + seconds
    found: dict[tuple[int, int], _Figure] = {}
    rates: dict[str, dict[str, float]] = {}
    for sequences in _SEQUENCES:
        for active in sorted({min(count, sequences) for count in processes}):
            threads = max(1, cores // active)
            figure = _decode_in(engine, active, sequences, threads, deadline_s)
            found[active, sequences] = figure
            if figure.rate is None:
                break
        each = {str(count): found.get((min(count, sequences), sequences)) for count in processes}
        whole = {count: figure.rate for count, figure in each.items() if figure and figure.rate}
        if len(whole) < len(each):
            break
        rates[str(sequences)] = whole
    is_disturbed = any(figure.used < _UNDISTURBED for figure in found.values())
    return {"rates": rates, "disturbed": is_disturbed}


class _Figure(NamedTuple):
    #: tokens/s; None if it takes too long
    rate: float | None
    #: of the time that the threads had, the part in which they had a core
    used: float


def _decode_in(
    engine: Engine, processes: int, sequences: int, threads: int, deadline_s: float
) -> _Figure:
    began_s, forks = time.monotonic(), []
    for index in range(processes):
        n = sequences // processes + (index < sequences % processes)
        forks.append(_fork(partial(_decode, engine, n, threads)))
    try:
        for _, talk in forks:
            _hear(talk, deadline_s)  # all have their first step behind them
        for _, talk in forks:
            talk.send(b".")
        figures = [orjson.loads(_hear(talk, deadline_s)) for _, talk in forks]
        return _Figure(sum(rate for rate, _ in figures), min(used for _, used in figures))
    except TimeoutError:
        had_s = (time.monotonic() - began_s) * processes * threads
        return _Figure(None, sum(_end(pid) for pid, _ in forks) / had_s)
    finally:
        for pid, talk in forks:
            _end(pid)
            talk.close()


def _end(pid: int) -> float:
    """End a fork, unless it has been; returns the CPU time that it has used."""
    try:
        os.kill(pid, signal.SIGKILL)
        usage = os.wait4(pid, 0)[2]
    except (ProcessLookupError, ChildProcessError):
        return 0.0
    return usage.ru_utime + usage.ru_stime


def _decode(engine: Engine, n: int, threads: int, talk: socket.socket) -> None:
    sampler = Sampler(SamplingParams(seed=1), ())
    batch = [SlotTokens(slot, (_token(slot),)) for slot in range(n)]
    rows = engine.forward(batch, threads)
    # A fast model fills the context, which they share, before the time is over.
    most = max(1, engine.info.n_ctx // n - 1)
    talk.send(b".")
    talk.recv(1)
    began_s, used_s, evaluated_s, steps = time.monotonic(), 0.0, 0.0, 0
    while steps < most and (not steps or time.monotonic() < began_s + _WINDOW_S):
        batch = [
            SlotTokens(slot, (sampler.sample(row),))
            for slot, row in enumerate(rows)
            if row is not None
        ]
        before_s, cpu_s = time.monotonic(), time.process_time()
        rows = engine.forward(batch, threads)
        evaluated_s += time.monotonic() - before_s
        used_s += time.process_time() - cpu_s
        steps += 1
    rate = round(n * steps / (time.monotonic() - began_s), 2)
    talk.send(orjson.dumps([rate, used_s / (threads * evaluated_s)]))


def _hear(talk: socket.socket, deadline_s: float | None = None) -> bytes:
    """What a fork says.

    Raises:
        TimeoutError: it says nothing in time.
        EOFError: it has died.
    """
    talk.settimeout(None if deadline_s is None else max(0.001, deadline_s - time.monotonic()))
    said = talk.recv(1 << 10)
    if not said:
        raise EOFError("a process that measured has died")
    return said


def _fork(body: Callable[[socket.socket], None]) -> tuple[int, socket.socket]:
    """A fork, which may evaluate with several threads: those of this process would be lost."""
    ours, theirs = socket.socketpair()
    if pid := os.fork():
        theirs.close()
        return pid, ours
    try:
        ours.close()
        body(theirs)
    finally:
        os._exit(0)


def measure_exactness(engine: Engine, cores: int) -> dict[str, int]:
    """Up to how many rows and threads logits are those of a token alone, to the bit.

    Slot 0 gets a long prefix, which the others copy.
    """
    n_ctx = engine.info.n_ctx
    n = max(1, min(_MANY_TOKENS, n_ctx - _MORE_TOKENS))
    tokens = [_token(at) % engine.info.n_vocab for at in range(min(n + _MORE_TOKENS, n_ctx))]
    for at in range(0, n, engine.batch_size):
        chunk = tokens[at : min(n, at + engine.batch_size)]
        engine.forward([SlotTokens(0, chunk, wants_logits=False)], 1)
    # Each in a fork, since the threads of an evaluation stay.
    found = {_logits_of_fork(engine, tokens, threads) for threads in {1, min(2, cores), cores}}
    return {
        "exact_rows": _exact_rows(engine, tokens, n),
        "exact_threads": cores if len(found) == 1 else 1,
    }


def _exact_rows(engine: Engine, tokens: list[int], n_prefix: int) -> int:
    """Of a batch: a part of a prompt, or a token of each of several slots."""
    prompt = tokens[: _ROWS[-1]]
    engine.reuse_prefix(1, ())
    alone = [_logits(engine, 1, [token]) for token in prompt]
    behind_prefix = _together(engine, 1, tokens[: n_prefix + 1])
    exact = 1
    for n in _ROWS:
        if n > len(prompt):
            break
        engine.reuse_prefix(1, ())
        if _logits(engine, 1, prompt[:n]) != alone[n - 1]:
            break
        if n < engine.n_slots and _together(engine, n, tokens[: n_prefix + 1]) != behind_prefix:
            break
        exact = n
    return exact


def _together(engine: Engine, n: int, tokens: list[int]) -> set[bytes]:
    """What logits slots have that evaluate the same token, so many at once.

    So an expert of a mixture that has one of the rows has them all.
    """
    for slot in range(1, n + 1):
        engine.reuse_prefix(slot, tokens)
    rows = engine.forward([SlotTokens(slot, tokens[-1:]) for slot in range(1, n + 1)], 1)
    return {_digest(row) for row in rows if row is not None}


def _logits_of_fork(engine: Engine, tokens: list[int], threads: int) -> bytes:
    def body(talk: socket.socket) -> None:
        known = engine.reuse_prefix(1, tokens[: -_MORE_TOKENS + 1])
        rows = [_logits(engine, 1, [token], threads) for token in tokens[known:]]
        talk.sendall(hashlib.sha256(b"".join(rows)).digest())

    pid, talk = _fork(body)
    with talk:
        said = _hear(talk)
    os.waitpid(pid, 0)
    return said


def _logits(engine: Engine, slot: int, tokens: Sequence[int], threads: int = 1) -> bytes:
    (row,) = engine.forward([SlotTokens(slot, tokens)], threads)
    assert row is not None, "these were wanted"
    return _digest(row)


def _digest(row: Logits) -> bytes:
    return hashlib.sha256(row.tobytes()).digest()


def _token(number: int) -> int:
    """Tokens of every vocabulary, none of which is like the next."""
    return 7 + 13 * number % 89


def main() -> None:
    """Body of the process."""
    wanted = orjson.loads(sys.argv[1])
    end_with_gateway(wanted["gateway"])
    os.nice(wanted["nice"])
    cores = wanted["cores"]
    engine = engines.load(replace(WorkerConfig(**wanted["config"]), slots=_SLOTS))
    if wanted["seconds"]:
        found = measure_layouts(engine, wanted["workers"], cores, wanted["seconds"])
    else:
        found = measure_exactness(engine, cores)
    print(orjson.dumps(found).decode(), flush=True)
