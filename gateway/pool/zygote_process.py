"""One incarnation of the zygote, and the socket to it."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shared.encoding import decode, encode
from shared.exit_status import ended
from shared.messages import Ended, Fork, Forked, LoadFailed, Message

_Result = TypeVar("_Result")
_CODE = "from worker.zygote import serve; serve()"
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was forked."""

    pid: int
    #: readable once the process has ended; belongs to whoever asked for the fork
    descriptor: int
    #: its exit status, negative for a signal; None if the zygote has died before it
    status: "asyncio.Future[int | None]"


class ZygoteProcess:
    """One incarnation of the zygote, and the socket to it."""

    def __init__(self, variables: dict[str, str], descriptors: Sequence[int] = ()) -> None:
        """Start it, on the running event loop; it inherits the descriptors.

        Raises:
            OSError: it could not be started.
        """
        ours, theirs = socket.socketpair()
        alive, self._alive = os.pipe()
        try:
            with _blocked_signals():
                self._popen = subprocess.Popen(
                    [sys.executable, "-c", _CODE, str(theirs.fileno()), str(alive)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), alive, *descriptors),
                    env={**os.environ, **variables},
                )
        except BaseException:
            ours.close()
            os.close(self._alive)
            raise
        finally:
            theirs.close()
            os.close(alive)
        ours.setblocking(False)
        self.pid = self._popen.pid
        self.gone = asyncio.Event()
        self._socket = ours
        self._loop = asyncio.get_running_loop()
        self._partial = b""
        self._descriptors: deque[int] = deque()
        self._answers: deque[asyncio.Future[Message | Child]] = deque()
        self._children: dict[int, asyncio.Future[int | None]] = {}
        #: we have ended it, or it ended as it should
        self._is_ended = False
        #: `Ready` or `LoadFailed`
        self.loaded = self._expect()
        self._loop.add_reader(ours.fileno(), self._read)

    @property
    def is_lost(self) -> bool:
        """Whether it has died by itself."""
        return self.gone.is_set() and not self._is_ended

    async def ask(self, command: Message) -> Message | Child:
        """The answer to a command.

        Raises:
            ConnectionError: it died instead.
        """
        answer = self._expect()
        await self._loop.sock_sendall(self._socket, encode(command) + b"\n")
        return await answer

    async def fork(self, name: str, target: str, descriptors: Sequence[int]) -> Child:
        """Have a process forked.

        Raises:
            OSError: it does not take the command, or died.
        """
        line = encode(Fork(name, target)) + b"\n"
        socket.send_fds(self._socket, [line], descriptors)  # so short that it is sent whole
        child = await self._expect()
        assert isinstance(child, Child), "answers come in the order of commands"
        return child

    def kill(self) -> None:
        self._is_ended = True
        if not self.gone.is_set():
            self._popen.kill()

    async def wait(self) -> str:
        """Wait for its end; returns how it ended."""
        await self.gone.wait()
        self._popen.kill()  # it may have closed its socket and live
        return ended(await asyncio.to_thread(self._popen.wait))

    def _expect(self) -> "asyncio.Future[Message | Child]":
        answer: asyncio.Future[Message | Child] = self._loop.create_future()
        if self.gone.is_set():
            answer.set_exception(ConnectionError("the zygote is gone"))
        self._answers.append(answer)
        return answer

    def _read(self) -> None:
        try:
            said, descriptors, _, _ = socket.recv_fds(self._socket, _READ_BYTES, 8)
        except BlockingIOError:
            return
        except OSError:
            said, descriptors = b"", []
        if not said:
            self._end()
            return
        self._descriptors.extend(descriptors)
        *lines, self._partial = (self._partial + said).split(b"\n")
        for line in lines:
            match message := decode(line):
                case Ended(pid, status):
                    _settle(self._children.pop(pid), status)
                case Forked(pid):
                    self._note_fork(pid)
                case _:
                    self._is_ended = self._is_ended or isinstance(message, LoadFailed)
                    _settle(self._answers.popleft(), message)

    def _note_fork(self, pid: int) -> None:
        descriptor, answer = self._descriptors.popleft(), self._answers.popleft()
        status = self._children[pid] = self._loop.create_future()
        if answer.cancelled():  # nobody waits for it any more
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)
        else:
            answer.set_result(Child(pid, descriptor, status))

    def _end(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        os.close(self._alive)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self.gone.set()
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(ConnectionError("the zygote died"))
                answer.exception()  # nobody may be waiting
        for status in self._children.values():
            _settle(status, None)


def _settle(future: "asyncio.Future[_Result]", result: "_Result") -> None:
    if not future.done():
        future.set_result(result)


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
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
