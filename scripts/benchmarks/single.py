"""One and two streams over HTTP, against ctransformers in process, side by side.

``generate`` is ctransformers' own loop with its own sampler, ``bare`` nothing but evaluation and
argmax, which no server can beat.
"""

import statistics
from collections import defaultdict
from functools import partial

from gateway import machine
from scripts.bench_sides import InProcess, Server, side_by_side
from scripts.benchmarks.results import Results
from scripts.benchmarks.setup import Setup

PROMPT = "{}. Once upon a time, in a small village by the sea, there lived"


def measure(setup: Setup, results: Results) -> None:
    """Add the figures of one and two streams, and of the gateway's CPU time meanwhile."""
    cores, n = machine.usable_cores(), setup.choose(128, 32)
    with (
        Server(MODEL_NAME=str(setup.model)) as server,
        InProcess(setup.model) as a,
        InProcess(setup.model) as b,
    ):
        seen: defaultdict[str, list[float]] = defaultdict(list)
        for number in range(setup.rounds + 1):
            prompts = [PROMPT.format(f"{number} {side}") for side in "abc"]
            library = a.run("generate", cores, prompts[0], n)[1]
            cpu = server.cpu_seconds()
            one = server.run(prompts[0], n)[1]
            cpu_one = server.cpu_seconds() - cpu
            bare = a.run("bare", cores, prompts[0], n)[1]
            two_bare = side_by_side(
                partial(a.run, "bare", 1, prompts[1], n), partial(b.run, "bare", 1, prompts[2], n)
            )
            cpu = server.cpu_seconds()
            two = side_by_side(
                partial(server.run, prompts[1], n), partial(server.run, prompts[2], n)
            )
            cpu_two = server.cpu_seconds() - cpu
            if number == 0:
                continue  # the first round warms everything up
            for name, value in (
                ("one", one),
                ("two", two),
                ("generate", one / library),
                ("bare", one / bare),
                ("two bare", two / two_bare),
                ("scale", two / one),
                ("bound", two_bare / bare),
                ("cpu", cpu_one / n * 1e6),
                ("cpu two", cpu_two / (2 * n) * 1e6),
            ):
                seen[name].append(value)
    middle = {name: statistics.median(values) for name, values in seen.items()}
    add = partial(results.add, "single")
    one_stream = f"one stream over HTTP ({middle['one']:.0f} tokens/s)"
    add(f"{one_stream} ÷ ctransformers' `generate`", middle["generate"], goal="≥ 0.97")
    add("one stream over HTTP ÷ bare evaluation and argmax", middle["bare"])
    two_streams = f"two streams over HTTP ({middle['two']:.0f} tokens/s)"
    add(f"{two_streams} ÷ two bare processes", middle["two bare"], goal="≥ 0.95")
    add("two streams ÷ one stream", middle["scale"], goal="≥ 1.35")
    add("two bare processes ÷ one with all cores, the bound of that", middle["bound"])
    name = "gateway CPU per streamed token: one stream / two"
    add(name, middle["cpu"], middle["cpu two"], unit="µs", digits=0, goal="≤ 100")
