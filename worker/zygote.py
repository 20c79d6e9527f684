"""The zygote: the process that loads the model once; every worker is a fork that shares it.

The gateway starts it with one end of a socket as its first argument, the reading end of a pipe that
ends with the gateway as its second, and a `Loading` in the environment. It says `Ready` or
`LoadFailed`, then takes `Warm` and `Fork`, and tells of the end of each fork (`Ended`). It has one
thread: a thread does not survive a fork, and what it held locked would stay so.
"""

import faulthandler
import gc
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
from shared.errors import EngineError, UsageError
from shared.logging import configure_logging
from shared.messages import Ended, Fork, Forked, LoadFailed, Message, Ready, Warm, Warmed
from shared.sampling import SamplingParams

# Both must be set before the libraries that read them are imported: a thread pool does not
# survive a fork, and neither library needs one here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np

from worker import engines
from worker.engines.base import Engine, SlotTokens
from worker.grammar.grammars import Grammars
from worker.lifetime import end_with_gateway
from worker.loop import Loop  # noqa: F401  # so that workers share it
from worker.pipes import Inbox, Outbox
from worker.prompt.formats import choose_format
from worker.prompt.prompts import Prompts
from worker.prompt.warm import warm_ids
from worker.sampling.sampler import Sampler

_READ_BYTES = 1 << 16
_SLOT = 0
# Descriptors that come with a `Fork`: commands, events, standard error, what ends with the gateway.
N_DESCRIPTORS = 4
_FORKED = multiprocess.get_context("fork")


class Warmer:
    """Evaluates before the fork, with one thread: there is no way to ask for more.

    A library may keep the threads of an evaluation (OpenMP does); a fork has none of them, and its
    first evaluation with several would wait for them for ever.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Put tokens into the cache.

        Raises:
            EngineError: there are none, they do not leave room in the context, or they cannot be
                evaluated.
        """
        engine, n_ctx = self._engine, self._engine.info.n_ctx
        if not 1 <= len(tokens) < n_ctx:
            raise EngineError(
                f"the prefix has {len(tokens)} tokens; it must have at least 1 and fewer than the"
                f" {n_ctx} of the context, prompt and completion together"
            )
        n_done = engine.reuse_prefix(_SLOT, tokens)
        while n_done < len(tokens):
            chunk = tokens[n_done : n_done + engine.chunk_size(_SLOT)]
            engine.forward([SlotTokens(_SLOT, chunk)], threads=1)
            n_done += len(chunk)


class Zygote:
    """Serves the gateway's commands until the gateway is gone."""

    def __init__(self, config: WorkerConfig, control: socket.socket) -> None:
        self._config = config
        self._control = control
        self._partial = b""
        self._descriptors: deque[int] = deque()
        # Of the forks that live: descriptor (`os.pidfd_open`) -> process.
        self._forks: dict[int, Any] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def run(self) -> None:
        engine = _load(self._config)
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
            _, prompts, _ = loaded()
            ids = warm_ids(engine, prompts, text)
            Warmer(engine).evaluate(ids)
            answer: Message = Warmed(ids)
        except Exception as error:  # whatever it is, the gateway is to know
            answer = LoadFailed(_reason(error))
        _share()
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


_engine: Engine | None = None
_prompts: Prompts | None = None
_grammars: Grammars | None = None


def loaded() -> tuple[Engine, Prompts, Grammars]:
    """What this process, a fork of the zygote, has inherited from it."""
    assert _engine is not None, "the model is loaded before a fork"
    assert _prompts is not None and _grammars is not None
    return _engine, _prompts, _grammars


def _load(config: WorkerConfig) -> Engine | str:
    """The engine, or why there is none."""
    global _engine, _prompts, _grammars
    try:
        _engine = engine = engines.load(config)
        engine.tokenize(("a",))  # loads parts of its library, which forks can share
        chat_format = choose_format(config, engine.info.chat_template)
        engine.info = replace(
            engine.info,
            chat_template=chat_format.source,
            chat_format=chat_format.name,
            chat_format_origin=chat_format.origin,
        )
        _prompts = Prompts(engine, chat_format)
        _grammars = Grammars(engine)
        if config.engine != "echo":  # which starts in no time, and is seldom asked for any
            _grammars.prepare()
    except Exception as error:
        return _reason(error)
    # Libraries load parts of themselves when they are first used: once here, not in each worker.
    Sampler(SamplingParams(), ()).sample(np.zeros(256, np.float32))
    _share()
    return engine


def _reason(error: Exception) -> str:
    is_ours = isinstance(error, EngineError | UsageError)
    return str(error) if is_ours else f"{type(error).__name__}: {error}"


def _share() -> None:
    """Keep objects that live as long as the process out of the workers' garbage collections.

    These would write to their headers, and so un-share their pages.
    """
    gc.collect()
    gc.freeze()


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
    loading = orjson.loads(os.environ[ZYGOTE_VARIABLE])
    config = WorkerConfig(**loading["config"])
    configure_logging(config.log_level, config.log_format, "zygote")
    for module in loading["preload"]:
        import_module(module)
    Zygote(config, socket.socket(fileno=control)).run()
