"""The fork servers: the one that loads the model, and forks of it that share the model.

With `gateway.pool.template` the only file that knows private names of `multiprocess`.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from multiprocess import connection, forkserver, process, resource_tracker, spawn, util

from shared.config import WorkerConfig
from shared.encoding import decode
from shared.messages import LoadFailed, Warmed

logger = logging.getLogger(__name__)

# What every fork needs; those who preload more need it, too.
_PRELOAD = (
    "shared.standard_error", "multiprocess.popen_forkserver", "multiprocess.queues",
    "multiprocess.synchronize",
)  # fmt: skip
_preparation_data = spawn.get_preparation_data
# What is started while the environment is changed would see it, whoever starts it.
_environment_lock = threading.Lock()
_of_this_thread = threading.local()


class NotWarmed(Exception):
    """There is no template with the prefix that was asked for; the text says why."""


def start_from(server: forkserver.ForkServer, started: Any) -> None:
    """Start a `multiprocess` process as a fork of ``server``.

    `multiprocess` itself knows one fork server for all. A start waits for as long as a model loads,
    and must not hold up one from another fork server.

    Args:
        server: where.
        started: the process; its target must be found by the name of its module.

    Raises:
        OSError: it could not be started.
        EOFError: the fork server died meanwhile.
    """
    forkserver.connect_to_new_process = _connect_to_new_process
    spawn.get_preparation_data = _preparation_data_without_main
    _of_this_thread.server = server
    try:
        started.start()
    finally:
        del _of_this_thread.server
    # Each start looks, in whatever thread, for ends of processes that are known to it. One that
    # somebody else waits for at that moment would lose its exit status.
    process._children.discard(started)


def _preparation_data_without_main(name: str) -> dict[str, Any]:
    data: dict[str, Any] = _preparation_data(name)
    if hasattr(_of_this_thread, "server"):
        # Nothing of ours is there, and to run it takes longer than all else in a new process.
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


def _connect_to_new_process(descriptors: Sequence[int]) -> tuple[int, int]:
    server = getattr(_of_this_thread, "server", forkserver._forkserver)
    ends: tuple[int, int] = server.connect_to_new_process(descriptors)
    return ends


class Pidfd:
    """A process that is known for certain: its number is not given to another meanwhile."""

    def __init__(self, pid: int) -> None:
        """Take hold of a process.

        Raises:
            ProcessLookupError: it is gone.
        """
        self._descriptor = os.pidfd_open(pid)

    def fileno(self) -> int:
        """The descriptor; it can be read once the process has ended."""
        return self._descriptor

    def is_alive(self) -> bool:
        """Whether the process lives; False once this is closed."""
        if self._descriptor < 0:
            return False
        ended = select.poll()  # `select.select` takes no descriptor above 1,023
        ended.register(self._descriptor, select.POLLIN)
        return not ended.poll(0)

    def kill(self) -> None:
        """End the process at once; harmless if it is gone."""
        if self._descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the process; safe to call again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class ModelForkServer(forkserver.ForkServer):  # type: ignore[misc]  # multiprocess has no types
    """A fork server that loads a model when it is started, and is started again when it is dead."""

    def __init__(self, variables: dict[str, str], preload: Sequence[str]) -> None:
        """Prepare; nothing is started.

        Args:
            variables: its environment, besides ours.
            preload: modules that it imports before it forks.
        """
        super().__init__()
        self.set_forkserver_preload([*_PRELOAD, *preload])
        self._variables = variables

    @property
    def pid(self) -> int | None:
        """Its process, which may be dead; None before the first and after `stop`."""
        pid: int | None = self._forkserver_pid
        return pid

    def ensure_running(self) -> None:
        """Start it if it is not running; does not wait for it to load."""
        # Its start may start the tracker, which would end our blocking of signals with that.
        resource_tracker.ensure_running()
        with _environment_lock, _environment(self._variables), _blocked():
            _find_directory()
            super().ensure_running()

    def connect_to_new_process(self, fds: Sequence[int]) -> tuple[int, int]:
        """Have a process forked; see `multiprocess`. Waits for a model that is being loaded.

        Raises:
            OSError: that cannot be.
        """
        try:
            ends: tuple[int, int] = super().connect_to_new_process(fds)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            # It may live: whoever cleans up temporary files may have deleted its socket.
            logger.warning("the template cannot be reached (%s); another is started", error)
            self.stop()
            ends = super().connect_to_new_process(fds)
        return ends

    def kill(self) -> None:
        """End it at once, even while it loads; its forks live on."""
        pid = self._forkserver_pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # nobody but us reaps it, so the number is its own

    def stop(self) -> None:
        """End it at once, and free what belongs to it."""
        self.kill()
        with contextlib.suppress(FileNotFoundError):  # its socket
            self._stop()
        self._forkserver_address = None


class ForkedForkServer(forkserver.ForkServer):  # type: ignore[misc]  # multiprocess has no types
    """A fork server that another one was asked to start.

    It ends by itself when we have let go of it and the last worker forked from it has ended: all
    of them hold the writing end of its "alive" pipe.

    Attributes:
        pid: its process.
        process: the same, which may be closed when this is not used any more.
    """

    def __init__(
        self,
        context: Any,
        origin: ModelForkServer,
        target: Callable[..., None],
        config: WorkerConfig,
        *arguments: object,
    ) -> None:
        """Start its process, as a fork of ``origin``; blocks while that loads.

        Args:
            context: a `multiprocess` context.
            origin: the other fork server.
            target: body of the process; see `worker.main.run_template`.
            config: for ``target``.
            arguments: the others that ``target`` takes before the socket and the pipes.

        Raises:
            OSError: the process could not be started.
            EOFError: the other fork server died meanwhile.
        """
        super().__init__()
        _find_directory()
        address = connection.arbitrary_address("AF_UNIX")
        self._forkserver_address = address
        alive_reader, self._alive = context.Pipe(duplex=False)
        self._forkserver_alive_fd = self._alive.fileno()
        self._reader, writer = context.Pipe(duplex=False)
        try:
            with socket.socket(socket.AF_UNIX) as listener, alive_reader, writer:
                listener.bind(address)
                if not util.is_abstract_socket_namespace(address):
                    os.chmod(address, 0o600)
                listener.listen()
                # Kept, since it holds what tells the process that the gateway lives.
                self._started = context.Process(
                    target=target,
                    args=(config, *arguments, listener, alive_reader, writer),
                    name="template",
                    daemon=True,
                )
                start_from(origin, self._started)
                # Whether it lives, `multiprocess` could not say any more once its origin is dead.
                self.pid: int = self._started.pid
                self.process = Pidfd(self.pid)
        except BaseException:
            self._reader.close()
            self.release()
            raise

    def prefix_tokens(self) -> int:
        """How many tokens its cache holds; blocks until it has evaluated them.

        Raises:
            NotWarmed: it has ended instead.
        """
        said = b""
        with self._reader:
            while more := os.read(self._reader.fileno(), 1 << 16):
                said += more
        try:
            message = decode(said.rstrip(b"\n"))
        except ValueError:
            message = LoadFailed("its process died")
        if not isinstance(message, Warmed):
            self.release()
            self.process.close()
            raise NotWarmed(message.reason)
        return message.prefix_tokens

    def ensure_running(self) -> None:
        """Nothing to do: if it has ended, connecting to it fails."""
        resource_tracker.ensure_running()

    def release(self) -> None:
        """Let it end as soon as its last fork has."""
        self._alive.close()
        if not util.is_abstract_socket_namespace(self._forkserver_address):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._forkserver_address)


def _find_directory() -> None:
    """Have `multiprocess` make another directory for its sockets if its own was deleted."""
    config = process.current_process()._config
    if not os.path.isdir(config.get("tempdir") or ""):
        config.pop("tempdir", None)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Let a process that is started here, and all that it forks, never get these signals.

    A terminal's Ctrl-C and a service manager's SIGTERM go to every process of the group at once,
    but only the gateway decides what ends.
    """
    signals = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
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
