"""A fork server that is itself a fork, so that it shares the model with the one it came from.

With `gateway.pool.template` the only file that knows private names of `multiprocess`.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from multiprocess import connection, forkserver, resource_tracker, util

from shared.config import WorkerConfig
from shared.messages import LoadFailed, Warmed, decode


class NotWarmed(Exception):
    """There is no template with the prefix that was asked for; the text says why."""


class ForkedForkServer(forkserver.ForkServer):  # type: ignore[misc]  # multiprocess has no types
    """A fork server that another one was asked to start.

    It ends by itself when we have let go of it and the last worker forked from it has ended: all
    of them hold the writing end of its "alive" pipe.
    """

    def __init__(
        self, context: Any, target: Callable[..., None], config: WorkerConfig, *arguments: object
    ) -> None:
        """Start its process, as a fork of the fork server of ``context``.

        Args:
            context: a `multiprocess` context.
            target: body of the process; see `worker.main.run_template`.
            config: for ``target``.
            arguments: the others that ``target`` takes before the socket and the pipes.

        Raises:
            OSError: the process could not be started.
            EOFError: the other fork server died meanwhile.
        """
        super().__init__()
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
                self._process = context.Process(
                    target=target,
                    args=(config, *arguments, listener, alive_reader, writer),
                    name="template",
                    daemon=True,
                )
                self._process.start()
        except BaseException:
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
            raise NotWarmed(message.reason)
        return message.prefix_tokens

    def ensure_running(self) -> None:
        """Nothing to do: if it has ended, connecting to it fails."""
        resource_tracker.ensure_running()

    @contextmanager
    def forking(self) -> Iterator[None]:
        """Let the process that is started meanwhile be a fork of this one; not for two at once."""
        usual = forkserver.connect_to_new_process
        forkserver.connect_to_new_process = self.connect_to_new_process
        try:
            yield
        finally:
            forkserver.connect_to_new_process = usual

    def is_alive(self) -> bool:
        """Whether its process lives."""
        alive: bool = self._process.is_alive()
        return alive

    def release(self) -> None:
        """Let it end as soon as its last fork has."""
        self._alive.close()
        if not util.is_abstract_socket_namespace(self._forkserver_address):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._forkserver_address)

    def kill(self) -> None:
        """End it at once; its forks live on."""
        self._process.kill()
