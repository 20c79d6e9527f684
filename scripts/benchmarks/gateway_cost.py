"""What streams cost the gateway, with echo workers at the pace of a model."""

from scripts import bench_gateway
from scripts.benchmarks.results import Results, Series
from scripts.benchmarks.setup import Setup

STREAMS = (1, 2, 8, 32, 128, 500)
_DELAY_MS = 50.0
"""For each token of a worker."""


def measure(setup: Setup, results: Results) -> None:
    """Add CPU time per token against streams, memory of many streams, and the longest stall."""
    streams = STREAMS[: setup.choose(len(STREAMS), 3)]
    tokens = setup.choose(200, 20)
    costs = [bench_gateway.cost(n, n, tokens, _DELAY_MS) for n in streams]
    us_per_token = tuple(cost.us_per_token for cost in costs)
    label = f"echo engine, {1000 / _DELAY_MS:.0f} tokens/s each"
    results.series.append(Series("cpu", label, streams, us_per_token))
    most = us_per_token[-1]
    name = f"gateway CPU per streamed token, {streams[-1]} echo streams at once"
    results.add("gateway", name, most, unit="µs", digits=0, goal="≤ 30")
    # Where several tokens went out as one event, a token costs less than an event does.
    name = "the same: events per token"
    results.add("gateway", name, costs[-1].events_per_token)
    name = "the same: gateway CPU per event"
    results.add("gateway", name, costs[-1].us_per_event, unit="µs", digits=0)
    name = "tokens that a second of the gateway's CPU time carries, by the same"
    results.add("gateway", name, 1e6 / most, digits=0, goal="≥ 30,000")

    workers, n_open = setup.choose(128, 8), setup.choose(2000, 50)
    many = bench_gateway.cost(workers, n_open, setup.choose(20, 5), 10.0)
    name = f"{n_open:,} open streams on {workers} workers: errors"
    results.add("gateway", name, many.errors, digits=0, goal="≤ 0")
    name = "the same: gateway memory for each"
    results.add("gateway", name, many.kib_per_stream * 1.024, unit="KB", digits=0, goal="≤ 50")
    if not setup.quick:
        longest = bench_gateway.stalls()
        name = "longest stall while bodies of 1 MB arrive, of all kinds"
        results.add("gateway", name, max(longest.values()), unit="ms", digits=1, goal="≤ 20")
        results.add("gateway", "the same, while none arrive", longest["nothing"], unit="ms")
