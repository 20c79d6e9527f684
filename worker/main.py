"""The body of a worker process: signals, the model, `Ready`, then the loop."""

import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

from shared.config import WorkerConfig
from shared.errors import EngineError
from shared.logging import configure_logging
from shared.messages import Event, Lifecycle, LoadFailed, Ready, encode


def run_worker(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    """Run a worker until `Shutdown` arrives or the gateway is gone.

    Args:
        config: what to load and how.
        inbox: the queue of commands, a `multiprocess.SimpleQueue` of encoded messages.
        outbox: the writing end of the worker's pipe, a `multiprocess` ``Connection``.
    """
    # The gateway alone decides when a worker ends. A fork of the template has them blocked already.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_gateway, name="end-with-gateway", daemon=True).start()
    configure_logging(config.log_level)

    pipe = outbox.fileno()

    def emit(events: Sequence[Event | Lifecycle]) -> None:
        _write_all(pipe, b"".join(encode(event) + b"\n" for event in events))

    # Imported here, not above: the gateway names this function and must not load an engine. In a
    # fork of the template both are there already.
    from worker import template
    from worker.loop import Loop

    try:
        engine = template.engine_for(config)
    except EngineError as error:
        emit([LoadFailed(str(error))])
        return
    emit([Ready(engine.info)])
    Loop(engine, config.threads, inbox, emit).run()


def _write_all(pipe: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(pipe, data) :]
    except BrokenPipeError:
        os._exit(0)  # nobody listens any more


def _end_with_gateway() -> None:
    """Wait for the gateway's death, however it comes, even in the midst of an evaluation."""
    import multiprocess

    gateway = multiprocess.parent_process()
    if gateway is not None:
        gateway.join()
        os._exit(0)
