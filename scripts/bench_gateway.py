"""What the gateway costs: CPU per token, memory per stream, the longest stall. No model needed.

Echo workers speak at a given pace, so that all that is measured is the gateway's own: its CPU time
is the kernel's account of that one process. Client, workers and gateway share the machine, so
tokens per second of wall time are a lower bound, and tokens per second of the gateway's CPU time
say what one core of its own would carry.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from scripts.bench_gateway_server import echo_server, probed, streams  # noqa: E402

MIB = 1 << 20
LEAST_TOKENS = 50
"""Streams shorter than that are over before their CPU time means anything."""
FULL = ((1, 1, 400, 10), (8, 8, 400, 10), (32, 32, 400, 20), (128, 128, 200, 20),
        (500, 500, 100, 50), (500, 2000, 20, 50), (2, 2, 4000, 0))  # fmt: skip
"""Workers, streams, tokens of each, and milliseconds per token; 0 is as fast as they can."""
QUICK = ((1, 1, 50, 10), (8, 8, 50, 10), (2, 2, 1000, 0))
"""The same, for a look."""


@dataclass(frozen=True)
class Cost:
    """What streams cost the gateway.

    Attributes:
        workers: how many generated at once.
        streams: how many were open at once.
        tokens: in all of them.
        errors: streams that did not end well.
        us_per_token: CPU time of the gateway for each further token of a stream, in microseconds.
        us_per_request: CPU time of the gateway for a stream of one token, in microseconds.
        tokens_per_s: in all, by wall time, with client and workers on the same cores.
        events_per_token: less than 1 where the gateway sent several tokens as one event.
        kib_per_stream: what the gateway's memory grew by for each stream, at most, in KiB.
    """

    workers: int
    streams: int
    tokens: int
    errors: int
    us_per_token: float
    us_per_request: float
    tokens_per_s: float
    events_per_token: float
    kib_per_stream: float

    @property
    def us_per_event(self) -> float:
        """CPU time of the gateway for each event of a stream, in microseconds; NaN without any."""
        return self.us_per_token / self.events_per_token if self.events_per_token > 0 else math.nan


def cost(workers: int, n: int, tokens: int, delay_ms: float) -> Cost:
    """Run ``n`` streams of ``tokens`` tokens each on ``workers`` echo workers."""
    with echo_server(workers, delay_ms, max_queue=n) as server:
        streams(server.port, min(workers, 8), 8)
        cpu, held = [server.cpu_seconds()], server.resident_bytes()
        seen = []
        for length in (tokens, 1):
            seen.append(streams(server.port, n, length, tokens))
            cpu.append(server.cpu_seconds())
        grown = server.resident_bytes(peak=True) - held
    for each in seen:
        if each.errors:
            print(f"{each.errors} streams failed, the first with: {each.error}", file=sys.stderr)
    whole, begun = cpu[1] - cpu[0], cpu[2] - cpu[1]
    return Cost(
        workers=workers,
        streams=n,
        tokens=n * tokens,
        errors=sum(each.errors for each in seen),
        us_per_token=(whole - begun) / (n * (tokens - 1)) * 1e6,
        us_per_request=begun / n * 1e6,
        tokens_per_s=n * tokens / seen[0].seconds,
        # The end of a generation and the end of the stream are events, too.
        events_per_token=(seen[0].events - 2 * n) / (n * tokens),
        kib_per_stream=grown / n / 1024,
    )


def large_bodies() -> dict[str, tuple[str, bytes]]:
    """Bodies of a megabyte, each with where it is sent, by what is in them."""

    def chat(*contents: Any) -> bytes:
        messages = [{"role": "user", "content": content} for content in contents]
        return json.dumps({"messages": messages, "max_tokens": 1}).encode()

    def prompt(text: Any) -> bytes:
        return json.dumps({"prompt": text, "max_tokens": 1}).encode()

    def compact(body: Any) -> bytes:
        return json.dumps(body, separators=(",", ":")).encode()

    parts = [{"type": "text", "text": ""}] * 3
    empty_parts = {"messages": [{"role": "user", "content": parts}] * 9_900}
    chats, completions = "/v1/chat/completions", "/v1/completions"
    many = {"messages": [[{"role": "user", "content": "x"}]] * 28_000}
    return {
        "one long message": (chats, chat("x" * (MIB - 100))),
        "one long message, not ASCII": (chats, chat("é" * (MIB // 6 - 20))),
        "10,000 messages": (chats, chat(*["x" * 60] * 10_000)),
        "30,000 messages": (chats, chat(*[""] * 30_000)),
        "10,000 parts": (chats, chat([{"type": "text", "text": "x" * 60}] * 10_000)),
        "9,900 messages of 3 empty text parts": (chats, compact(empty_parts)),
        "28,000 conversations": ("/v2/chat/completions", json.dumps(many).encode()),
        "one long prompt": (completions, prompt("x" * (MIB - 100))),
        "special tokens": (completions, prompt("<|im_end|>" * (MIB // 10 - 10))),
        "200,000 prompts": (completions, prompt(["x"] * 200_000)),
        "not JSON": (completions, b'{"prompt":"' + b"x" * MIB),
        "deep nesting": (completions, b'{"prompt":' + b"[" * MIB),
        "70,000 objects": (completions, prompt({str(i): {} for i in range(70_000)})),
    }


def stalls(repeats: int = 5) -> dict[str, float]:
    """The longest answer of ``/health`` in milliseconds, while bodies of each kind arrive.

    ``nothing`` is what the machine does to it while none do.
    """
    longest = {}
    with echo_server(2, 0, 8, n_ctx=MIB, CHAT_TEMPLATE="chatml") as server:
        for name, (path, body) in {"nothing": ("", b""), **large_bodies()}.items():
            with probed(server.port) as times:
                if not body:
                    time.sleep(1)
                for _ in range(repeats if body else 0):
                    server.post(path, body)
            longest[name] = max(times)
    return longest


def measure(
    plans: Sequence[tuple[int, int, int, float]] = FULL, repeats: int = 5
) -> dict[str, Any]:
    """All of it: ``costs``, one for each of ``plans``, and ``stalls_ms``."""
    return {"costs": [asdict(cost(*plan)) for plan in plans], "stalls_ms": stalls(repeats)}


def markdown(measured: dict[str, Any]) -> str:
    """What `measure` returned, as tables."""
    costs = [Cost(**each) for each in measured["costs"]]
    lines = [
        "| workers | streams | tokens/s | gateway CPU per token | per event | events per token "
        "| tokens per CPU second | gateway CPU per request | memory per stream | errors |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(_row, costs),
        "",
        "| a megabyte of | longest answer of /health |",
        "|---|---|",
        *(f"| {name} | {value:.1f} ms |" for name, value in measured["stalls_ms"].items()),
    ]
    return "\n".join(lines)


def _row(c: Cost) -> str:
    per_token = per_event = per_second = "-"
    if c.tokens >= LEAST_TOKENS * c.streams:
        per_token, per_event = f"{c.us_per_token:.1f} µs", f"{c.us_per_event:.1f} µs"
        per_second = f"{1e6 / c.us_per_token:,.0f}"
    return (
        f"| {c.workers} | {c.streams} | {c.tokens_per_s:,.0f} | {per_token} | {per_event} "
        f"| {c.events_per_token:.2f} | {per_second} | {c.us_per_request:,.0f} µs "
        f"| {c.kib_per_stream:.0f} KiB | {c.errors} |"
    )


def main() -> None:
    """Measure, print the tables in Markdown, and write JSON if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few streams, for a look")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    measured = measure(QUICK, 1) if arguments.quick else measure()
    print(markdown(measured))
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
