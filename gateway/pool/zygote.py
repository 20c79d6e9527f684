"""The zygote as the gateway holds it: loads the model, forks workers, is revived when it dies."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import orjson

from gateway.pool.base import ZygoteStatus
from gateway.pool.prefix import EMPTY, Prefix
from gateway.pool.proc import activity
from shared.config import ZYGOTE_VARIABLE, WorkerConfig
from shared.encoding import decode, encode
from shared.exit_status import ended
from shared.messages import Ended, Fork, Forked, LoadFailed, Message, ModelInfo, Ready, Warm, Warmed

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
Prompt = tuple[str, ...]
"""Plain text and special tokens by turns, as `shared.messages.Generate` has them."""

_CODE = "from worker.zygote import serve; serve()"
_CHECKOUT = str(Path(__file__).parents[2])
_READ_BYTES = 1 << 16
# One that dies sooner than this after it was started has died young: perhaps it cannot live.
_YOUNG_S = 30.0
_MAX_BACKOFF_S = 60.0
# Of a fork: these seconds, or so many times what is usual.
_LEAST_FORK_S = 10.0
_TIMES_USUAL = 50.0
_WEIGHT = 0.2


class NotLoaded(Exception):
    """There is no model to fork a worker with; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was forked."""

    pid: int
    #: readable once the process has ended; belongs to whoever asked for the fork
    descriptor: int
    #: its exit status, negative for a signal; None if the zygote has died before it
    status: "asyncio.Future[int | None]"


class Zygote:
    """Keeps a zygote running; each new one loads the model and evaluates the warm prompt anew.

    Workers live on when it dies, and nothing is forked before one of them does; so the time to load
    the model again is at once.
    """

    def __init__(
        self,
        config: WorkerConfig,
        preload: Sequence[str] = (),
        *,
        warm_prompts: Callable[[ModelInfo], Sequence[Prompt]] | None = None,
        start_timeout_s: float = 0.0,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            config: of all workers.
            preload: modules that it imports before it loads the model.
            warm_prompts: gives prompts whose common beginning every fork has in its KV cache;
                raises `ValueError` if the model has no such prompts.
            start_timeout_s: in which the model must be loaded; 0 for no bound.
        """
        self.status = ZygoteStatus()
        #: what every fork has in its KV cache
        self.warm = EMPTY
        self._variables = {
            ZYGOTE_VARIABLE: orjson.dumps({"config": asdict(config), "preload": preload}).decode(),
            # It does not get our sys.path; a checkout need not be installed.
            "PYTHONPATH": os.pathsep.join(filter(None, (_CHECKOUT, os.environ.get("PYTHONPATH")))),
            # So that glibc gives each large block a mapping of its own, which can be given back by
            # itself; without this it depends on what the process has freed before.
            "MALLOC_MMAP_THRESHOLD_": os.environ.get("MALLOC_MMAP_THRESHOLD_", str(1 << 20)),
        }
        self._warm_prompts = warm_prompts
        self._start_timeout_s = start_timeout_s
        self._usual_fork_s = 0.0
        self._process: _Process | None = None
        self._loaded: asyncio.Future[_Process]
        self._is_wanted = asyncio.Event()
        self._was_stopped = False
        self._closing = False
        self._keeping: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start it on the running event loop, again and again when it has died."""
        self._loaded = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.create_task(self._keep())

    async def fork(self, name: str, target: str, descriptors: Sequence[int]) -> Child:
        """Fork a process as soon as there is a model.

        Args:
            name: of the process, for its log.
            target: its body, as ``module:function``.
            descriptors: what `worker.zygote` hands to its forks.

        Raises:
            NotLoaded: the model cannot be loaded.
            OSError: the zygote died meanwhile, or does not answer.
        """
        self._is_wanted.set()
        process = await asyncio.shield(self._loaded)
        began_s = time.monotonic()
        try:
            child = await asyncio.wait_for(process.fork(name, target, descriptors), self.fork_s)
        except asyncio.TimeoutError as error:
            process.kill()
            message = f"no worker could be forked from the zygote within {self.fork_s:g} s"
            raise TimeoutError(message) from error
        self._usual_fork_s += _WEIGHT * (time.monotonic() - began_s - self._usual_fork_s)
        return child

    @property
    def fork_s(self) -> float:
        """Seconds after which a fork that has not got ready never will."""
        return max(_LEAST_FORK_S, _TIMES_USUAL * self._usual_fork_s)

    def look(self) -> bool:
        """End it if it was stopped, and was so already at the last call.

        Returns:
            Whether it is stopped, so that it is to be looked at again soon.
        """
        process = self._process
        is_stopped = process is not None and activity(process.pid).state == "T"
        if process is not None and is_stopped and self._was_stopped:
            process.kill()
        self._was_stopped = is_stopped
        return is_stopped

    def kill(self) -> None:
        """End it at once, even while it loads, and start no other; its forks live on."""
        self._closing = True
        if self._keeping is not None:
            self._keeping.cancel()
        if self._process is not None:
            self._process.kill()

    async def close(self) -> None:
        """The same, and wait for its end."""
        self.kill()
        if self._keeping is not None:
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._fail("the server is shutting down")
        if self._process is not None:
            await self._process.wait()
            self._process = None

    async def _keep(self) -> None:
        failures = 0
        while True:
            began_s = time.monotonic()
            await self._live()
            failures = failures + 1 if time.monotonic() - began_s < _YOUNG_S else 0
            # The first death is answered at once.
            if failures > 1:
                self._is_wanted.clear()
                backoff_s = min(_MAX_BACKOFF_S, 0.25 * 2 ** min(failures, 10))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._is_wanted.wait(), backoff_s)
            if self._loaded.done():
                self._loaded = asyncio.get_running_loop().create_future()

    async def _live(self) -> None:
        """From the start of a process to its end."""
        try:
            self._process = process = _Process(self._variables)
        except OSError as error:
            self._fail(f"the zygote could not be started: {error}")
            return
        self.status = replace(self.status, pid=process.pid)
        reason = ""
        try:
            await self._load(process)
            self._loaded.set_result(process)
        except NotLoaded as error:
            reason = str(error)
            process.kill()
        except ConnectionError:
            reason = "it died while it loaded the model"
        how = await process.wait()
        self._process = None
        self.status = replace(self.status, pid=None, restarts=self.status.restarts + 1)
        if reason:
            self._fail(f"the model could not be loaded: {how}" if process.is_lost else reason)
        else:
            self._loaded = asyncio.get_running_loop().create_future()
        if process.is_lost:
            logger.error(
                "the zygote (pid %d) died (%s); another loads the model, workers go on",
                process.pid, how,
            )  # fmt: skip

    async def _load(self, process: "_Process") -> None:
        try:
            said = await asyncio.wait_for(process.loaded, self._start_timeout_s or None)
        except asyncio.TimeoutError as error:
            limit = f"{self._start_timeout_s:g} s, which is START_TIMEOUT"
            raise NotLoaded(f"the model did not load within {limit}") from error
        if not isinstance(said, Ready):
            raise NotLoaded(said.reason if isinstance(said, LoadFailed) else f"it said {said}")
        if self._warm_prompts is not None:
            try:
                await self._evaluate(process, tuple(self._warm_prompts(said.model)))
            except ConnectionError:
                raise
            except Exception as error:
                raise NotLoaded(f"WARM_PROMPT: {error}") from error

    async def _evaluate(self, process: "_Process", prompts: tuple[Prompt, ...]) -> None:
        said = await process.ask(Warm(prompts))
        if not isinstance(said, Warmed):
            raise NotLoaded(said.reason if isinstance(said, LoadFailed) else f"it said {said}")
        first, *others = (Prefix("".join(prompt)) for prompt in prompts)
        length = min((first.shared_length(other) for other in others), default=len(first))
        self.warm = Prefix(first.text[:length])
        self.status = replace(self.status, prefix_tokens=said.prefix_tokens)
        logger.info("the zygote holds a prefix of %d tokens", said.prefix_tokens)

    def _fail(self, reason: str) -> None:
        """Let nobody wait for a model that is not loaded."""
        if self._loaded.done():
            self._loaded = asyncio.get_running_loop().create_future()
        self._loaded.set_exception(NotLoaded(reason))
        self._loaded.exception()  # nobody may be waiting


class _Process:
    """One incarnation of the zygote, and the socket to it."""

    def __init__(self, variables: dict[str, str]) -> None:
        """Start it, on the running event loop.

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
                    pass_fds=(theirs.fileno(), alive),
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
