"""The bodies of the processes: a worker, and a template that further workers are forked from."""

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from shared import oom_score
from shared.config import WorkerConfig
from shared.encoding import encode
from shared.errors import EngineError
from shared.logging import configure_logging
from shared.messages import Lifecycle, LoadFailed, Ready, Warmed


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
    _be_killed_with_gateway()
    threading.Thread(target=_end_with_gateway, name="end-with-gateway", daemon=True).start()
    oom_score.adjust(oom_score.WORKER)
    configure_logging(config.log_level, config.log_format, _name())

    # Imported here, not above: the gateway names this function and must not load an engine. In a
    # fork of the template both are there already.
    from worker import template
    from worker.inbox import Inbox
    from worker.loop import Loop
    from worker.outbox import Outbox

    events = Outbox(outbox.fileno())
    try:
        engine = template.engine_for(config)
    except EngineError as error:
        events.send([LoadFailed(str(error))])
        events.drain()
        return
    events.send([Ready(engine.info)])
    Loop(engine, config.threads, Inbox(inbox), events, template.grammars()).run()


def run_preparer(config: WorkerConfig, inbox: Any, outbox: Any) -> None:
    """Run a preparer until `Shutdown` arrives or the gateway is gone; see `run_worker`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _be_killed_with_gateway()
    oom_score.adjust(oom_score.WORKER)
    configure_logging(config.log_level, config.log_format, _name())
    from worker import template
    from worker.inbox import Inbox
    from worker.outbox import Outbox
    from worker.preparer import Preparer

    events = Outbox(outbox.fileno())
    try:
        engine = template.engine_for(config)
    except EngineError as error:
        events.send([LoadFailed(str(error))])
        events.drain()
        return
    events.send([Ready(engine.info)])
    Preparer(engine, template.prompts(), template.grammars(), Inbox(inbox), events).run()


def run_template(
    config: WorkerConfig,
    prompts: Sequence[Sequence[int]],
    is_urgent: bool,
    listener: Any,
    alive: Any,
    outbox: Any,
) -> None:
    """Evaluate a prefix, say `Warmed`, and be a fork server whose forks have it in their caches.

    Args:
        config: what to load; in a fork of the template it is loaded already.
        prompts: what they begin with in common is the prefix.
        is_urgent: whether to evaluate with all threads, or in the background.
        listener: the socket of the fork server, listening.
        alive: the reading end of a pipe whose writing ends the gateway and all forks hold.
        outbox: the writing end of a pipe for one message, `Warmed` or `LoadFailed`.
    """
    _be_killed_with_gateway()
    configure_logging(config.log_level, config.log_format, "template")
    from worker import template
    from worker.warm_template import warm

    answer: Lifecycle
    try:
        engine = template.engine_for(config)
        answer = Warmed(warm(engine, prompts, config.threads, is_urgent, alive.fileno()))
    except EngineError as error:
        answer = LoadFailed(str(error))
    except Exception as error:  # whatever it is, the gateway is to know
        answer = LoadFailed(f"{type(error).__name__}: {error}")
    _write_all(outbox.fileno(), encode(answer) + b"\n")
    # Forks must not hold it: its end tells the gateway that there is no more to come.
    outbox.close()
    if isinstance(answer, Warmed):
        from multiprocess import forkserver

        forkserver.main(listener.detach(), alive.fileno(), preload=[])


def _write_all(pipe: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(pipe, data) :]
    except BrokenPipeError:
        os._exit(0)  # nobody listens any more


def _name() -> str:
    import multiprocess

    name: str = multiprocess.current_process().name
    return name


def _be_killed_with_gateway() -> None:
    """Have the kernel end this process when the gateway is gone, even if it was stopped.

    A parent's death could do that, too (``PR_SET_PDEATHSIG``), but the template is the parent, and
    workers outlive that. What the gateway holds, and nobody else, is the end of a pipe.
    """
    import multiprocess

    gateway = multiprocess.parent_process()
    if gateway is None:
        return
    with suppress(ImportError, AttributeError, OSError):  # only Linux has all of it
        import fcntl

        pipe = gateway.sentinel
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def _end_with_gateway() -> None:
    """Wait for the gateway's death, however it comes, even in the midst of an evaluation."""
    import multiprocess

    gateway = multiprocess.parent_process()
    if gateway is not None:
        gateway.join()
        # To the whole group: a worker that was stopped cannot notice by itself that it is to end.
        with suppress(OSError):
            os.killpg(0, signal.SIGCONT)
        os._exit(0)
