"""Serves files of about a billion random weights, and prints what they take in time and memory.

For each family: how long a start takes, the memory of 1, 2 and 4 workers before and after a short
chat in each, tokens per second of as many streams, and the time to the first token of a prompt of
512 tokens. `scripts/models/synthetic.py` makes the files; they are deleted at the end.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from scripts.bench_sides import ROOT, Server, ServerFailed  # noqa: E402
from shared.model.inspect import inspect  # noqa: E402

FAMILIES = ("falcon", "starcoder", "mpt")
WORKERS = (1, 2, 4)
CHAT_TOKENS = 100
"""In the prompt of a short chat."""
ANSWER_TOKENS = 64
LONG_PROMPT_TOKENS = 512
_MIB = 1 << 20


def main() -> None:
    """Measure, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=FAMILIES, metavar="FAMILY")
    parser.add_argument("--parameters", default="1b", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for family in arguments.families:
            path = Path(folder, f"{family}.bin")
            maker = [sys.executable, "scripts/models/synthetic.py", family, str(path)]
            options = ["--parameters", arguments.parameters, "--type", "q4_0"]
            subprocess.run([*maker, *options], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            measure(path, arguments.rounds)
            path.unlink()


def measure(path: Path, rounds: int) -> None:
    """Print the table of one model."""
    file = inspect(path)
    weights = file.memory.weights
    print(
        f"\n{file.family.value}, {file.quantisation}, {weights / _MIB:.0f} MiB of weights,"
        f" {file.memory.kv_per_token * 1024 / _MIB:.0f} MiB of KV cache per 1,024 tokens\n"
    )
    print(
        "| workers | ready after | Private_Dirty of a worker: ready / after a chat | ÷ weights"
        " | Pss of all processes | tokens/s, a stream to each worker |\n"
        "|---|---|---|---|---|---|"
    )
    for workers in WORKERS:
        started = time.perf_counter()
        server = Server(MODEL_NAME=str(path), WORKERS=str(workers), PARKED="0", LOG_LEVEL="error")
        ready_s = time.perf_counter() - started
        ready = max(memory(pid, "Private_Dirty") for pid in worker_pids(server))
        words = words_for(server, CHAT_TOKENS)
        speed = statistics.median(
            tokens_per_second(server, workers, words, number) for number in range(rounds)
        )
        after = max(memory(pid, "Private_Dirty") for pid in worker_pids(server))
        total = sum(memory(pid, "Pss") for pid in processes(server))
        if workers == 1:
            words = words_for(server, LONG_PROMPT_TOKENS)
            first = [stream(server, prompt(words, 90 + n), 2)[0] for n in range(rounds)]
        server.close()
        print(
            f"| {workers} | {ready_s:.1f} s | {ready / _MIB:.0f} / {after / _MIB:.0f} MiB"
            f" | {after / weights:.3f} | {total / _MIB:.0f} MiB | {speed:.1f} |",
            flush=True,
        )
    print(f"\nTTFT, {LONG_PROMPT_TOKENS} tokens, alone: {statistics.median(first):.1f} s")


def prompt(words: int, number: int) -> str:
    """A text that begins like no other, so that no cache has any of it."""
    return f"{number} is the first. " + "sea " * words


def words_for(server: Server, n_tokens: int) -> int:
    """How many words make a `prompt` of at most so many tokens."""
    few, many = (stream(server, prompt(words, 10), 1)[2] for words in (1, 17))
    return 1 + int((n_tokens - few) / ((many - few) / 16))


def tokens_per_second(server: Server, streams: int, words: int, first: int) -> float:
    """Speed of so many streams at once, each with a prompt of its own."""
    prompts = [prompt(words, 20 + first * streams + number) for number in range(streams)]
    with ThreadPoolExecutor(streams) as clients:
        return sum(clients.map(lambda text: stream(server, text, ANSWER_TOKENS)[1], prompts))


def stream(server: Server, prompt: str, n: int) -> tuple[float, float, int]:
    """Stream a greedy completion.

    Returns:
        Seconds to the first text, tokens per second after it, and tokens in the prompt.
    """
    body = {"prompt": prompt, "max_tokens": n, "temperature": 0, "stream": True}
    started = time.perf_counter()
    first = None
    usage: dict[str, Any] = {}
    for chunk in server.stream({**body, "stream_options": {"include_usage": True}}):
        if first is None and chunk["choices"] and chunk["choices"][0]["text"]:
            first = time.perf_counter()
        usage = chunk.get("usage") or usage
    ended = time.perf_counter()
    first = first or ended
    n_more = usage["completion_tokens"] - 1
    return first - started, n_more / max(ended - first, 1e-9), usage["prompt_tokens"]


def worker_pids(server: Server) -> list[int]:
    """The processes of the workers."""
    return [worker["pid"] for worker in json.loads(server.get("/ready"))["workers"]]


def processes(server: Server) -> Sequence[int]:
    """The gateway, the template and the workers."""
    workers = worker_pids(server)
    parent = Path(f"/proc/{workers[0]}/stat").read_text().rpartition(")")[2].split()[1]
    return [server.pid, int(parent), *workers]


def memory(pid: int, kind: str) -> int:
    """One line of a process' account of its memory, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {kind} in smaps_rollup")


if __name__ == "__main__":
    try:
        main()
    except ServerFailed as error:
        sys.exit(str(error))
