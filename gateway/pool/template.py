"""The fork servers that hold the loaded model; workers are forked from the newest of them.

With `gateway.pool.fork_server` the only file that knows private names of `multiprocess`.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import multiprocess
import orjson

from gateway.pool.fork_server import ForkedForkServer, ModelForkServer, NotWarmed, start_from
from shared.config import TEMPLATE_VARIABLE, WorkerConfig

logger = logging.getLogger(__name__)

_HAS_FORK_SERVER = "forkserver" in multiprocess.get_all_start_methods()
_PIPE_BYTES = 1 << 20
_CHECKOUT = str(Path(__file__).parents[2])


class Template:
    """Starts fork servers, forks workers from the newest, and ends them all.

    The first loads the model, and stays. Each later generation is a fork of the first that has
    evaluated a prefix, so its forks have that in their KV caches; it ends when a newer one has
    taken its place and its last worker is gone.

    Where the platform has no fork server every worker is spawned and loads the model for itself.

    Attributes:
        context: the `multiprocess` context of all processes.
    """

    def __init__(self, config: WorkerConfig, preload: Sequence[str]) -> None:
        """Prepare; nothing is started.

        Args:
            config: reaches the template through its environment.
            preload: modules that the fork server imports before it forks.
        """
        self._config = config
        variables = {
            TEMPLATE_VARIABLE: orjson.dumps(asdict(config)).decode(),
            # The fork server does not get our sys.path; a checkout need not be installed.
            "PYTHONPATH": os.pathsep.join(filter(None, (_CHECKOUT, os.environ.get("PYTHONPATH")))),
            # So that glibc gives each large block a mapping of its own, which can be given back by
            # itself; without this it depends on what the process has freed before.
            "MALLOC_MMAP_THRESHOLD_": os.environ.get("MALLOC_MMAP_THRESHOLD_", str(1 << 20)),
        }
        self._first = ModelForkServer(variables, preload)
        self.context: Any = multiprocess.get_context("forkserver" if _HAS_FORK_SERVER else "spawn")
        self._lock = threading.Lock()
        self._generation = 0
        # Of the three below; never held for long.
        self._list_lock = threading.Lock()
        self._newest: ForkedForkServer | None = None
        self._older: list[ForkedForkServer] = []
        self._warming: ForkedForkServer | None = None
        self._ending = False

    @property
    def generation(self) -> int:
        """The number of the generation that workers are forked from; 0 is the first."""
        return 0 if self._newest is None else self._generation

    @property
    def generations_alive(self) -> int:
        """How many generations there are besides the first."""
        with self._list_lock:
            self._close_ended()
            return len(self._older) + (self._newest is not None)

    @property
    def pids(self) -> tuple[int | None, int | None]:
        """The processes of the first generation and of the newest other, which may be dead.

        None for one that was not started, or is being ended by us.
        """
        newest = self._newest
        if self._ending:
            return None, None
        return self._first.pid, None if newest is None else newest.pid

    def start(self, process: Any) -> int:
        """Start a worker's process from the newest generation; blocks while the model loads.

        Returns:
            The number of that generation.

        Raises:
            OSError: it could not be started, or all are being ended.
            EOFError: the template died meanwhile.
        """
        with self._lock:
            newest = self._newest
            if newest is not None:
                try:
                    start_from(newest, process)
                    return self._generation
                except (OSError, EOFError) as error:
                    logger.warning("template %d is gone (%s)", self._generation, error)
                    self._drop_newest()
            if self._ending:
                raise ConnectionError("the template is being ended")
            start_from(self._first, process)
            return 0

    def warm(
        self, target: Callable[..., None], prompts: tuple[tuple[int, ...], ...], is_urgent: bool
    ) -> tuple[int, int]:
        """Make a new generation that has evaluated what the prompts begin with; blocks.

        Args:
            target: body of the process; see `worker.main.run_template`.
            prompts: each plain text and special tokens by turns.
            is_urgent: whether to evaluate with all threads, or in the background.

        Returns:
            The number of the new generation, and how many tokens the prompts have in common.

        Raises:
            NotWarmed: it could not be made; everything is as before.
        """
        if not _HAS_FORK_SERVER:
            raise NotWarmed("this system has no fork server")

        try:
            with self._lock:
                made = ForkedForkServer(
                    self.context, self._first, target, self._config, prompts, is_urgent
                )
                self._warming = made
            if self._ending:
                made.process.kill()
        except (OSError, EOFError) as error:
            raise NotWarmed(f"it could not be started: {error}") from error
        try:
            n_tokens = made.prefix_tokens()
        finally:
            self._warming = None
        with self._lock:
            self._drop_newest()
            with self._list_lock:
                self._newest = made
                self._generation += 1
                return self._generation, n_tokens

    def _drop_newest(self) -> None:
        with self._list_lock:
            if self._newest is not None:
                self._newest.release()
                self._older.append(self._newest)
                self._newest = None
            self._close_ended()

    def _close_ended(self) -> None:
        """Let go of older generations that have ended; the list's lock must be held."""
        for each in [each for each in self._older if not each.process.is_alive()]:
            each.process.close()
            self._older.remove(each)

    def ensure_running(self) -> None:
        """Start the first generation if it is not running; it then loads the model by itself."""
        if _HAS_FORK_SERVER:
            self._first.ensure_running()

    def forget_dead(self) -> bool:
        """Fork from the newest generation no more if it is dead; tells whether it was."""
        newest = self._newest
        if newest is None or newest.process.is_alive():
            return False
        self._drop_newest()
        return True

    def kill_newest(self) -> bool:
        """End the newest generation besides the first, if there is one; tells whether it did.

        A start from it that is waited for in another thread goes on with the first.
        """
        newest = self._newest
        if newest is not None:
            newest.process.kill()
        return newest is not None

    def kill(self) -> None:
        """End all fork servers at once, even one that is still loading; forked workers live on.

        A start, or a prefix, that is waited for in another thread then ends with an error.
        """
        self._ending = True
        with self._list_lock:
            for each in (self._warming, self._newest, *self._older):
                if each is not None:
                    each.process.kill()
        self._first.kill()

    def stop(self) -> None:
        """End all fork servers and free what belongs to them; not while a worker is started."""
        self.kill()
        self._drop_newest()
        with self._list_lock:
            for each in self._older:
                each.process.close()
            self._older.clear()
        self._first.stop()
        self._ending = False


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
