"""The fork server that holds the loaded model; workers are forked from it.

The only file that knows private names of `multiprocess`.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import multiprocess
import orjson

from shared.config import TEMPLATE_VARIABLE, WorkerConfig

_HAS_FORK_SERVER = "forkserver" in multiprocess.get_all_start_methods()
_PIPE_BYTES = 1 << 20
_CHECKOUT = str(Path(__file__).parents[2])


class Template:
    """Starts the fork server, gives a `multiprocess` context to start workers with, and ends it.

    A process has one fork server, so there may be one `Template` at a time. Where the platform has
    no fork server every worker is spawned and loads the model for itself.
    """

    def __init__(self, config: WorkerConfig, preload: Sequence[str]) -> None:
        """Prepare; nothing is started.

        Args:
            config: reaches the template through its environment.
            preload: modules that the fork server imports before it forks.
        """
        self._variables = {
            TEMPLATE_VARIABLE: orjson.dumps(asdict(config)).decode(),
            # The fork server does not get our sys.path; a checkout need not be installed.
            "PYTHONPATH": os.pathsep.join(filter(None, (_CHECKOUT, os.environ.get("PYTHONPATH")))),
        }
        self._preload = list(preload)
        self.context: Any = multiprocess.get_context("forkserver" if _HAS_FORK_SERVER else "spawn")

    def ensure_running(self) -> None:
        """Start the fork server if it is not running; it then loads the model by itself."""
        if not _HAS_FORK_SERVER:
            return
        from multiprocess import forkserver, resource_tracker

        # The fork server starts it if need be, and would end our blocking of signals with that.
        resource_tracker.ensure_running()
        with _environment(self._variables), _blocked(signal.SIGINT, signal.SIGTERM):
            forkserver.set_forkserver_preload(self._preload)
            forkserver.ensure_running()

    def kill(self) -> None:
        """End the fork server at once, even if it is still loading; forked workers live on.

        A start that waits for it in another thread then ends with an error.
        """
        if not _HAS_FORK_SERVER:
            return
        from multiprocess import forkserver

        pid = forkserver._forkserver._forkserver_pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the fork server and free what belongs to it; not while a worker is started."""
        if not _HAS_FORK_SERVER:
            return
        from multiprocess import forkserver

        self.kill()
        forkserver._forkserver._stop()


def widen(queue: Any) -> None:
    """Make room for a whole prompt in the pipe under a `multiprocess.SimpleQueue`.

    A put then never blocks the event loop, not even if the worker has been stopped: a worker is
    sent a prompt only when it has read all that came before, and no prompt that fits a context
    comes near the size (see ``max_token_bytes``).
    """
    # Not on every system; and past the user's limit the default of 64 KiB serves most prompts.
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(queue._writer.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


@contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    """Let a process that is started here, and all that it forks, never get these signals.

    A terminal's Ctrl-C and a service manager's SIGTERM go to every process of the group at once,
    but only the gateway decides what ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
