"""The echo server and the client process that scripts/bench_gateway.py measures with."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from scripts.bench_gateway_client import Seen  # noqa: E402
from scripts.bench_sides import Server, ServerFailed  # noqa: E402

CLIENT = Path(__file__).with_name("bench_gateway_client.py")
DEADLINE_S = 120.0
N_CTX = 8_192
"""As long as the echo engine's own, whatever the environment says."""


def echo_server(
    workers: int, delay_ms: float, max_queue: int = 0, n_ctx: int = N_CTX, **more: Any
) -> Server:
    """The server with the echo engine and no parked workers; ``more`` are further settings.

    Args:
        workers: how many generate at once.
        delay_ms: what a worker takes for a token.
        max_queue: generations that may wait.
        n_ctx: context length in tokens.
        more: environment variables, as text.

    Raises:
        ServerFailed: it did not start.
    """
    return Server(
        n_ctx=n_ctx,
        MODEL_TYPE="echo",
        WORKERS=str(workers),
        PARKED="0",
        ECHO_DELAY_MS=str(delay_ms),
        MAX_QUEUE=str(max_queue),
        **more,
    )


def client(plan: dict[str, Any]) -> Any:
    """Play a plan in a client process; what it saw.

    Raises:
        ServerFailed: the client could not reach the server, or did not end.
    """
    try:
        done = subprocess.run(
            [sys.executable, str(CLIENT)],
            input=json.dumps(plan),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=2 * DEADLINE_S,
        )
    except subprocess.SubprocessError as error:
        raise ServerFailed(f"the client of the echo server failed: {error}") from error
    return json.loads(done.stdout)


def streams(port: int, n: int, tokens: int, length: int = 0) -> Seen:
    """Ask for ``n`` streams of ``tokens`` tokens each, all at once.

    Args:
        port: of the server.
        n: how many.
        tokens: the most that each may have.
        length: of the prompt in tokens; at least ``tokens`` count.
    """
    bodies = [
        json.dumps(
            {
                "prompt": f"{number:05}".ljust(max(tokens, length), "x"),
                "stream": True,
                "max_tokens": tokens,
                "temperature": 0,
            }
        )
        for number in range(n)
    ]
    plan = {"port": port, "path": "/v1/completions", "bodies": bodies, "deadline_s": DEADLINE_S}
    return Seen(**client(plan))


@contextmanager
def probed(port: int) -> Iterator[list[float]]:
    """Ask ``/health`` over and over during a block, from a process of its own.

    Yields a list that holds what each answer took, in milliseconds, after the block.
    """
    times: list[float] = []
    probing = subprocess.Popen(
        [sys.executable, str(CLIENT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert probing.stdin is not None and probing.stdout is not None
    probing.stdin.write(json.dumps({"port": port, "probe": True}) + "\n")
    probing.stdin.flush()
    probing.stdout.readline()  # it has begun
    try:
        yield times
    finally:
        probing.stdin.close()  # it ends
        times += json.load(probing.stdout)
        probing.wait(DEADLINE_S)
        probing.stdout.close()
