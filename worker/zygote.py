"""The zygote: the process that loads the model once; every worker is a fork that shares it.

The gateway starts it with one end of a socket as its first argument, the reading end of a pipe that
ends with the gateway as its second, and what to load in the environment. It says `Ready` or
`LoadFailed`, then takes `Warm` and `Fork`, and tells of the end of each fork (`Ended`). It has one
thread: a thread does not survive a fork, and what it held locked would stay so.
"""

import faulthandler
import os
import resource
import select
import socket
import sys
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import multiprocess
import orjson

from shared import oom_score
from shared.config import ZYGOTE_VARIABLE, WorkerConfig
from shared.encoding import decode, encode
from shared.logging import configure_logging
from shared.messages import Ended, Fork, Forked, LoadFailed, Message, Ready, Warm, Warmed
from worker import loading
from worker.engines.base import Engine
from worker.lifetime import end_with_gateway
from worker.loop import Loop  # noqa: F401  # so that workers share it
from worker.pipes import Inbox, Outbox
from worker.prompt.warm import warm_ids

_READ_BYTES = 1 << 16
# Descriptors that come with a `Fork`: commands, events, standard error, what ends with the gateway.
N_DESCRIPTORS = 4
_FORKED = multiprocess.get_context("fork")


class Zygote:
    """Serves the gateway's commands until the gateway is gone."""

    def __init__(
        self, config: WorkerConfig, control: socket.socket, prefix_cache: int | None = None
    ) -> None:
        """``prefix_cache`` is the descriptor of the prefix cache, if there is one."""
        self._config = config
        self._prefix_cache = prefix_cache
        self._control = control
        self._partial = b""
        self._descriptors: deque[int] = deque()
        # Of the forks that live: descriptor (`os.pidfd_open`) -> process.
        self._forks: dict[int, Any] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def run(self) -> None:
        engine = loading.load(self._config, self._prefix_cache)
        if isinstance(engine, str):
            self._say(LoadFailed(engine))
            return
        self._say(Ready(engine.info))
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._forks:
                    self._reap(descriptor)
                else:
                    self._take_commands(engine)

    def _take_commands(self, engine: Engine) -> None:
        said, descriptors, _, _ = socket.recv_fds(self._control, _READ_BYTES, N_DESCRIPTORS)
        if not said:
            os._exit(0)  # the gateway is gone
        self._descriptors.extend(descriptors)
        *lines, self._partial = (self._partial + said).split(b"\n")
        for line in lines:
            match decode(line):
                case Fork(name, target):
                    self._fork(name, target)
                case Warm(text):
                    self._warm(engine, text)

    def _warm(self, engine: Engine, text: str) -> None:
        try:
            _, prompts, _ = loading.loaded()
            ids = warm_ids(engine, prompts, text)
            loading.Warmer(engine).evaluate(ids)
            answer: Message = Warmed(ids)
        except Exception as error:  # whatever it is, the gateway is to know
            answer = LoadFailed(loading.reason_of(error))
        loading.share()
        self._say(answer)

    def _fork(self, name: str, target: str) -> None:
        ends = [self._descriptors.popleft() for _ in range(N_DESCRIPTORS)]
        process = _FORKED.Process(target=self._be_worker, args=(name, target, ends), name=name)
        process.start()
        descriptor = os.pidfd_open(process.pid)
        for end in ends:
            os.close(end)
        self._forks[descriptor] = process
        self._poll.register(descriptor, select.POLLIN)
        self._say(Forked(process.pid), descriptor)

    def _be_worker(self, name: str, target: str, ends: Sequence[int]) -> None:
        try:
            _close_all_but(ends)
            commands, events, standard_error, gateway = ends
            end_with_gateway(gateway)
            _redirect_standard_error(standard_error)
            module, _, function = target.partition(":")
            body = getattr(import_module(module), function)
            body(replace(self._config, name=name), Inbox(commands), Outbox(events))
        except BaseException:
            os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
            os._exit(1)

    def _reap(self, descriptor: int) -> None:
        process = self._forks.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        process.join()
        self._say(Ended(process.pid, process.exitcode))
        process.close()

    def _say(self, message: Message, *descriptors: int) -> None:
        try:
            socket.send_fds(self._control, [encode(message) + b"\n"], descriptors)
        except OSError:
            os._exit(0)  # nobody listens any more


def _close_all_but(kept: Sequence[int]) -> None:
    """Let go of the zygote's socket and of the pipes of older forks, whose ends tell of a death."""
    first = 3
    for descriptor in (*sorted(kept), resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        os.closerange(first, descriptor)
        first = descriptor + 1


def _redirect_standard_error(pipe: int) -> None:
    """Have what C code writes to standard error read by the gateway, which logs it.

    The last words of an abort and the Python traceback of a fatal signal arrive there, too.
    `sys.stderr`, and with it the log of the process, remains what it was.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(pipe, 2)
    os.close(pipe)
    faulthandler.enable(2)


def serve() -> None:
    """Body of the process; see the module."""
    control, gateway = map(int, sys.argv[1:])
    end_with_gateway(gateway)
    oom_score.adjust(oom_score.ZYGOTE)
    wanted = orjson.loads(os.environ[ZYGOTE_VARIABLE])
    config = WorkerConfig(**wanted["config"])
    configure_logging(config.log_level, config.log_format, "zygote")
    for module in wanted["preload"]:
        import_module(module)
    Zygote(config, socket.socket(fileno=control), wanted["prefix_cache"]).run()
