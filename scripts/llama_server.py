"""llama.cpp's own server, which the package xllamacpp carries: what this one is compared with."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.server import DEADLINE_S, START_S, Server, ServerFailed, environment, launch

_SERVE = """
import signal, sys
import xllamacpp
slots, n_ctx, threads, embeds, checkpoints = map(int, sys.argv[2:7])
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], 0
params.n_parallel, params.n_ctx, params.kv_unified = slots, n_ctx, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
params.embedding, params.n_ctx_checkpoints = bool(embeds), checkpoints
server = xllamacpp.Server(params)
print("it listens on", server.listening_address, flush=True)
signal.pause()
"""


@contextmanager
def llama_server(
    model: str,
    *,
    slots: int = 1,
    n_ctx: int = 2048,
    threads: int = 1,
    embeds: bool = False,
    checkpoints: int = 32,
) -> Iterator[Server]:
    """Serve a model file, all slots in one KV cache of ``n_ctx`` tokens.

    Where it makes a checkpoint of a sliding window, it splits the prompt.

    Raises:
        ServerFailed: it did not start.
    """
    numbers = map(str, (slots, n_ctx, threads, int(embeds), checkpoints))
    command = (sys.executable, "-c", _SERVE, model, *numbers)
    server = Server(launch(command=command, env=environment()))
    try:
        server.url = server.wait_for_output(r"it listens on (\S+)\n", timeout=START_S)[1]
        deadline_s = time.monotonic() + DEADLINE_S
        while server.get("/health") != {"status": "ok"}:
            if time.monotonic() > deadline_s:
                raise ServerFailed(f"llama-server is not ready\n{server.log()}")
            time.sleep(0.05)
        yield server
    finally:
        server.kill()
