"""Compares the server with ctransformers in process, side by side in one run.

Every round measures all sides one after another, and a ratio is the median of the rounds' ratios,
so that a machine whose speed drifts does not favour a side. The in-process sides run the library
in processes of their own: ``generate`` is its own loop with its own sampler, ``bare`` nothing but
evaluation and argmax, which no server can beat.
"""

import argparse
import asyncio
import platform
import statistics
import string
import sys
import time
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from gateway import demo_model, machine  # noqa: E402
from gateway.pool.handle import WorkerHandle  # noqa: E402
from gateway.pool.template import Template  # noqa: E402
from scripts.bench_sides import N_CTX, InProcess, Server, side_by_side  # noqa: E402
from shared.config import WorkerConfig  # noqa: E402
from shared.messages import Finished, Generate, Message, Ready, Shutdown  # noqa: E402
from shared.sampling import SamplingParams  # noqa: E402

N_TOKENS = 128
PROMPT = "{}. Once upon a time, in a small village by the sea, there lived"


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    arguments = parser.parse_args()
    model = demo_model.fetch()
    print(describe_machine(), "\n")
    print("| what | measured | to reach |\n|---|---|---|")
    for name, value, goal in [
        *server_figures(model, arguments.rounds),
        gateway_figure(),
        *worker_figures(model),
        sampler_figure(),
    ]:
        print(f"| {name} | {value} | {goal} |")


def describe_machine() -> str:
    """The machine and the versions that matter, in a line."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return (
        f"{cpu}, {machine.usable_cores()} cores, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}, SmolLM2-135M-Instruct Q4_1, context {N_CTX}"
    )


def server_figures(model: Path, rounds: int) -> list[tuple[str, str, str]]:
    """Everything that is measured over HTTP."""
    cores = machine.usable_cores()
    server, a, b = Server(MODEL_NAME=str(model)), InProcess(model), InProcess(model)
    ratios: dict[str, list[float]] = {
        name: [] for name in ("generate", "bare", "two", "scale", "bound", "ttft", "cpu", "cpu2")
    }
    speeds: dict[str, list[float]] = {"one": [], "two": []}
    for number in range(rounds + 1):
        prompts = [PROMPT.format(f"{number} {side}") for side in "abc"]
        library = a.run("generate", cores, prompts[0], N_TOKENS)[1]
        cpu_before_one = server.cpu_seconds()
        one = server.run(prompts[0], N_TOKENS)[1]
        cpu_after_one = server.cpu_seconds()
        bare = a.run("bare", cores, prompts[0], N_TOKENS)[1]
        two_bare = side_by_side(
            partial(a.run, "bare", 1, prompts[1], N_TOKENS),
            partial(b.run, "bare", 1, prompts[2], N_TOKENS),
        )
        cpu_before_two = server.cpu_seconds()
        two = side_by_side(
            partial(server.run, prompts[1], N_TOKENS),
            partial(server.run, prompts[2], N_TOKENS),
        )
        cpu_after_two = server.cpu_seconds()
        if number == 0:
            continue  # the first round warms everything up
        for name, ratio in (
            ("generate", one / library),
            ("bare", one / bare),
            ("two", two / two_bare),
            ("scale", two / one),
            ("bound", two_bare / bare),
            ("cpu", (cpu_after_one - cpu_before_one) / N_TOKENS * 1e6),
            ("cpu2", (cpu_after_two - cpu_before_two) / (2 * N_TOKENS) * 1e6),
        ):
            ratios[name].append(ratio)
        speeds["one"].append(one)
        speeds["two"].append(two)
    for number in range(5 * rounds):
        # Another first token each time, so that the server has nothing in its cache either.
        prompt = PROMPT.format(string.ascii_letters[number % 52])
        inside, _ = a.run("bare", cores, prompt, 4)
        over_http, _ = server.run(prompt, 4)
        ratios["ttft"].append((over_http - inside) * 1e3)
    server.close()
    a.close()
    b.close()

    def median(name: str, digits: int = 2) -> str:
        return f"{statistics.median(ratios[name]):.{digits}f}"

    one_speed, two_speed = (statistics.median(speeds[name]) for name in ("one", "two"))
    return [
        (
            f"one stream over HTTP ({one_speed:.0f} tokens/s) ÷ ctransformers' `generate`",
            median("generate"),
            "≥ 0.97",
        ),
        ("one stream over HTTP ÷ bare evaluation and argmax", median("bare"), ""),
        (
            f"two streams over HTTP ({two_speed:.0f} tokens/s) ÷ two bare processes",
            median("two"),
            "≥ 0.95",
        ),
        ("two streams ÷ one stream", median("scale"), "≥ 1.35"),
        ("two bare processes ÷ one with all cores, the bound of that", median("bound"), ""),
        ("TTFT over HTTP minus in-process prefill, 17 tokens", median("ttft") + " ms", "≤ 3 ms"),
        (
            "gateway CPU per streamed token: one stream / two",
            f"{median('cpu', 0)} µs / {median('cpu2', 0)} µs",
            "≤ 100 µs",
        ),
    ]


def gateway_figure() -> tuple[str, str, str]:
    """What a token costs the gateway when it has more to do than to wake up for each."""
    streams, n = 16, 400
    server = Server(MODEL_TYPE="echo", WORKERS=str(streams), ECHO_DELAY_MS="10")
    prompts = [f"{stream:03} {'x' * n}" for stream in range(streams)]
    cpu = server.cpu_seconds()
    side_by_side(*(partial(server.run, prompt, n) for prompt in prompts))
    cpu = server.cpu_seconds() - cpu
    server.close()
    return (
        f"gateway CPU per streamed token, {streams} echo streams at once",
        f"{cpu / streams / n * 1e6:.0f} µs",
        "≤ 100 µs",
    )


# ---- workers and sampler


def worker_figures(model: Path) -> list[tuple[str, str, str]]:
    """What a further worker costs."""
    return asyncio.run(_worker_figures(model))


async def _worker_figures(model: Path) -> list[tuple[str, str, str]]:
    from worker.main import run_worker

    config = WorkerConfig("ctransformers", str(model), n_ctx=N_CTX, log_level="ERROR")
    template = Template(config, ["worker.template"])
    ready_ms, memory = [], []
    for number in range(9):
        arrivals: asyncio.Queue[Message] = asyncio.Queue()
        started = time.perf_counter()
        handle = await asyncio.to_thread(
            WorkerHandle.start, template, run_worker, f"worker-{number}", config
        )
        handle.attach(arrivals.put_nowait)
        assert isinstance(await arrivals.get(), Ready)
        ready_ms.append((time.perf_counter() - started) * 1e3)
        if number == 8:
            memory.append(private_mib(handle.pid))
            # A short chat, then one that fills the context.
            for words in (100, N_CTX - 300):
                prompt = " ".join(["sea"] * words)
                greedy = SamplingParams(temperature=0)
                handle.send(Generate(str(words), (prompt,), greedy, 64))
                while not isinstance(await arrivals.get(), Finished):
                    pass
                memory.append(private_mib(handle.pid))
        handle.send(Shutdown())
        await handle.exited
        await asyncio.to_thread(handle.reap)
    template.stop()
    # The first start waits for the template to load.
    return [
        ("a further worker: ready after", f"{statistics.median(ready_ms[1:]):.0f} ms", "≤ 50 ms"),
        ("the first worker: ready after (the model is loaded)", f"{ready_ms[0]:.0f} ms", ""),
        (
            "a further worker: private memory when ready / after 164 tokens / 1,800 tokens",
            " / ".join(f"{amount:.0f} MiB" for amount in memory),
            "≤ 50 MB",
        ),
    ]


def private_mib(pid: int) -> float:
    """Memory that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def sampler_figure() -> tuple[str, str, str]:
    """Time to draw a token with the default parameters."""
    import numpy as np

    from worker.sampler import Sampler

    logits = np.random.default_rng(0).normal(0, 3, 49_152).astype(np.float32)
    sampler, times = Sampler(SamplingParams(), range(500)), []
    for _ in range(2000):
        started = time.perf_counter()
        sampler.sample(logits)
        times.append(time.perf_counter() - started)
    return (
        "sampler per token, vocabulary 49,152, default parameters",
        f"{statistics.median(times) * 1e3:.2f} ms",
        "≤ 0.5 ms",
    )


if __name__ == "__main__":
    main()
