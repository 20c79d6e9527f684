"""What worker processes cost: time to start, memory, and the sampler's share of a token."""

import statistics
import time
from functools import partial
from pathlib import Path

from gateway import machine
from scripts.bench_sides import Server, free_port
from scripts.benchmarks.results import Results, Series
from scripts.benchmarks.setup import Setup
from scripts.benchmarks.target import Connection, Target, checked, unlike_any, words
from shared.sampling import SamplingParams

_MB = 1e6
PARKED = 16
_START_WITHIN_S = 60.0


def measure(setup: Setup, results: Results) -> None:
    """Add memory and start times of workers that keep conversations, and the curve of memory."""
    cores = machine.usable_cores()
    n_parked = setup.choose(PARKED, 3)
    series: list[tuple[float, float]] = []
    for parked in sorted({0, n_parked // 4, n_parked // 2, n_parked}):
        with Server(MODEL_NAME=str(setup.model), WORKERS=str(cores), PARKED=str(parked)) as server:
            ready_pids = worker_pids(server)
            when_ready = [private_bytes(pid) / _MB for pid in ready_pids]
            size = hold_chats(server, len(ready_pids))
            pids = worker_pids(server)
            series.append((len(pids), pss_bytes([server.pid]) / _MB))
            if parked == n_parked:
                after = sorted(private_bytes(pid) / _MB for pid in pids)
                add = partial(results.add, "workers", unit="MB", digits=1)
                add("private memory of a worker when ready, median", statistics.median(when_ready))
                name = f"the same after a chat of {size:.0f} tokens: median / most of {len(after)}"
                add(name, statistics.median(after), after[-1], goal="≤ 40")
    x, y = zip(*sorted(dict(series).items()), strict=True)
    results.series.append(Series("memory", f"after chats of {size:.0f} tokens", x, y))
    first_s, rest_s, n_rest = start_times(setup.model, cores, n_parked)
    name = "the first worker ready after (the model is loaded)"
    results.add("workers", name, first_s * 1e3, unit="ms", digits=0)
    name = f"{n_rest} more of them ready after"
    results.add("workers", name, rest_s * 1e3, unit="ms", digits=0, goal="≤ 1000")
    results.add(
        "workers",
        "sampler per token, vocabulary 49,152, default parameters",
        sampler_ms(),
        unit="ms",
        digits=3,
        goal="≤ 0.5",
    )


def worker_pids(server: Server) -> list[int]:
    """The processes of the workers."""
    return [worker["pid"] for worker in server.ready()["workers"] if worker["pid"]]


def hold_chats(server: Server, n_workers: int) -> float:
    """Give each worker a conversation of about 200 tokens, which it then keeps.

    Returns:
        How many tokens they are, the median.

    Raises:
        RequestFailed: a chat was not answered.
    """
    target = Target("this server", server.url)
    sizes: list[int] = []

    def work(connection: Connection, n: int) -> None:
        for number in range(n):
            system = {"role": "system", "content": f"{unlike_any()} {words(168, salt=number)}"}
            outcome = checked(connection.chat([system, {"role": "user", "content": words(8)}], 8))
            sizes.append(outcome.prompt_tokens + outcome.completion_tokens)

    # More chats than workers, so that each has had one whichever the scheduler takes.
    target.side_by_side([partial(work, n=n_workers - n_workers // 2), partial(work, n=n_workers)])
    return statistics.median(sizes)


def private_bytes(pid: int) -> int:
    """Memory that a process shares with no other."""
    return _from_smaps(pid, "Private_")


def pss_bytes(pids: list[int]) -> int:
    """Memory of these processes and all their descendants, what they share counted once."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # The name, in parentheses, may hold anything.
            parent = int(stat.rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    total, todo = 0, list(pids)
    while todo:
        pid = todo.pop()
        total += _from_smaps(pid, "Pss:")
        todo += children.get(pid, [])
    return total


def _from_smaps(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def start_times(model: Path, workers: int, parked: int) -> tuple[float, float, int]:
    """Start a server, and watch ``/ready`` from the beginning.

    Returns:
        Seconds from the start to the first ready worker, from there to the last, and how many
        there were besides the first.

    Raises:
        TimeoutError: a worker was not ready in time.
    """
    started = time.perf_counter()
    server = Server(
        port=free_port(),
        wait=False,
        MODEL_NAME=str(model),
        WORKERS=str(workers),
        PARKED=str(parked),
    )
    first = 0.0
    try:
        while (now := time.perf_counter()) < started + _START_WITHIN_S:
            try:
                states = [worker["state"] for worker in server.ready()["workers"]]
            except OSError:
                states = ["starting"]  # nor does it listen
            if "idle" in states:
                first = first or now
                if set(states) == {"idle"}:
                    return first - started, now - first, len(states) - 1
            time.sleep(0.002)
        raise TimeoutError(f"not all workers were ready within {_START_WITHIN_S:.0f} s")
    finally:
        server.close()


def sampler_ms() -> float:
    """Time to draw a token with the default parameters, median."""
    import numpy as np

    from worker.sampling.sampler import Sampler

    logits = np.random.default_rng(0).normal(0, 3, 49_152).astype(np.float32)
    sampler, times = Sampler(SamplingParams(), range(500)), []
    for _ in range(2000):
        started = time.perf_counter()
        sampler.sample(logits)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3
