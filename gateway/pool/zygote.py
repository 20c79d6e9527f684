"""The zygote as the gateway holds it: loads the model, forks workers, is revived when it dies."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict

import orjson

from gateway.pool.base import ZygoteStatus
from gateway.pool.deaths import Backoff
from gateway.pool.prefix import EMPTY, Prefix
from gateway.pool.zygote_process import Child, ZygoteProcess
from shared.config import ZYGOTE_VARIABLE, WorkerConfig, python_path
from shared.messages import LoadFailed, Message, Ready, Warm, Warmed

logger = logging.getLogger(__name__)

# One that dies sooner than this after it was started has died young: perhaps it cannot live.
_YOUNG_S = 30.0
_MAX_BACKOFF_S = 60.0
# Of a fork: these seconds, or so many times what is usual.
_LEAST_FORK_S = 10.0
_TIMES_USUAL = 50.0
_WEIGHT = 0.2
_CANCEL_S = 0.1  # until what goes on after a cancellation is cancelled again


class NotLoaded(Exception):
    """There is no model to fork a worker with; the text is for the operator."""


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
        warm_prompt: str | None = None,
        start_timeout_s: float = 0.0,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            config: of all workers.
            preload: modules that it imports before it loads the model.
            warm_prompt: the system message that every fork has in its KV cache.
            start_timeout_s: for the model; 0 for no bound.
        """
        self.process: ZygoteProcess | None = None
        #: what every fork has in its KV cache
        self.warm = EMPTY
        self._config, self._preload = config, preload
        # Of the prefix cache; zygotes that come later get the same.
        self._memory: int | None = None
        self._warm_prompt = warm_prompt
        self._start_timeout_s = start_timeout_s
        self._usual_fork_s = 0.0
        self._restarts = 0
        self._is_loaded = False
        # The process once it has its model; who wants a fork waits for that.
        self._loaded: asyncio.Future[ZygoteProcess]
        self._is_wanted = asyncio.Event()
        self._forking = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start it on the running event loop, again and again when it has died."""
        self._expect_model()
        if self._config.prefix_cache:
            try:
                self._memory = os.memfd_create("prefix-cache")
                os.ftruncate(self._memory, self._config.prefix_cache)
            except OSError as error:
                logger.warning("there is no prefix cache: %s", error)
        self._keeping = asyncio.create_task(self._keep())

    @property
    def status(self) -> ZygoteStatus:
        pid = None if self.process is None else self.process.pid
        return ZygoteStatus(pid, self._is_loaded, len(self.warm), self._restarts)

    @property
    def fork_s(self) -> float:
        """Seconds after which a fork that has not got ready never will."""
        return max(_LEAST_FORK_S, _TIMES_USUAL * self._usual_fork_s)

    async def fork(self, name: str, target: str, descriptors: Sequence[int]) -> Child:
        """Fork a process as soon as there is a model; see `shared.messages.Fork`.

        Raises:
            NotLoaded: the model cannot be loaded.
            OSError: the zygote does not answer, or the next one died as well.
        """
        if not self._loaded.done():  # a model that cannot be loaded has its time to be mended
            self._is_wanted.set()
        process = await asyncio.shield(self._loaded)
        try:
            return await self._fork(process, name, target, descriptors)
        except ConnectionError:  # it died unnoticed: the next one is asked, as if it had been known
            await process.gone.wait()
            process = await asyncio.shield(self._loaded)
            return await self._fork(process, name, target, descriptors)

    async def close(self) -> None:
        """End it at once, even while it loads, and start no other; its forks live on."""
        if self._keeping is not None:
            # Before Python 3.12 `wait_for` loses a cancellation that meets what it waits for.
            while not self._keeping.done():
                self._keeping.cancel()
                await asyncio.wait((self._keeping,), timeout=_CANCEL_S)
            self._fail("the server is shutting down")
        if self.process is not None:
            self.process.kill()
            await self.process.wait()
            self.process = None
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None

    async def _fork(
        self, process: ZygoteProcess, name: str, target: str, descriptors: Sequence[int]
    ) -> Child:
        # One at a time, as it forks: hundreds at once do not fit into its socket, and the time that
        # a fork waits for others would count against it.
        async with self._forking:
            began_s = time.monotonic()
            forking = asyncio.ensure_future(process.fork(name, target, descriptors))
            try:
                # Before Python 3.12 `wait_for` loses a cancellation that comes with the answer.
                await asyncio.wait((forking,), timeout=self.fork_s)
            finally:
                is_late = not forking.done()
                forking.cancel()
            if is_late:
                process.kill()
                message = f"no worker could be forked from the zygote within {self.fork_s:g} s"
                raise TimeoutError(message)
            child = forking.result()
            self._usual_fork_s += _WEIGHT * (time.monotonic() - began_s - self._usual_fork_s)
        return child

    async def _keep(self) -> None:
        backoff = Backoff(0.25, _MAX_BACKOFF_S)
        while True:
            began_s = time.monotonic()
            try:
                await self._live(self._start())
            except OSError as error:
                self._fail(f"the zygote could not be started: {error}")
            backoff.note(is_failure=time.monotonic() - began_s < _YOUNG_S)
            await backoff.wait(self._is_wanted)
            if self._loaded.done():
                self._expect_model()

    def _start(self) -> ZygoteProcess:
        config, memory = asdict(self._config), self._memory
        wanted = {"config": config, "preload": self._preload, "prefix_cache": memory}
        variables = {
            ZYGOTE_VARIABLE: orjson.dumps(wanted).decode(),
            "PYTHONPATH": python_path(os.environ.get("PYTHONPATH")),
        }
        return ZygoteProcess(variables, () if memory is None else (memory,))

    async def _live(self, process: ZygoteProcess) -> None:
        """Serve by a process until its end."""
        self.process, reason = process, ""
        try:
            await self._load(process)
            self._loaded.set_result(process)
            self._is_loaded = True
            self._is_wanted.clear()
        except NotLoaded as error:
            reason = str(error)
            process.kill()
        except ConnectionError:
            reason = "it died while it loaded the model"
        await process.gone.wait()
        if self._is_loaded:  # whoever wants a fork from now on waits for the next one
            self._expect_model()
        how = await process.wait()
        self.process, self._is_loaded = None, False
        self._restarts += 1
        if reason:
            self._fail(f"the model could not be loaded: {how}" if process.is_lost else reason)
        if process.is_lost:
            logger.error(
                "the zygote (pid %d) died (%s); another loads the model, workers go on",
                process.pid, how,
            )  # fmt: skip

    async def _load(self, process: ZygoteProcess) -> None:
        try:
            answer = await asyncio.wait_for(process.loaded, self._start_timeout_s or None)
        except asyncio.TimeoutError as error:
            limit = f"{self._start_timeout_s:g} s, which is START_TIMEOUT"
            raise NotLoaded(f"the model did not load within {limit}") from error
        if not isinstance(answer, Ready):
            raise NotLoaded(_reason(answer))
        if self._warm_prompt is None:
            return
        answer = await process.ask(Warm(self._warm_prompt))
        if not isinstance(answer, Warmed):
            raise NotLoaded(f"WARM_PROMPT: {_reason(answer)}")
        self.warm = Prefix(answer.ids)
        logger.info("the zygote holds a prefix of %d tokens", len(self.warm))

    def _expect_model(self) -> None:
        self._loaded = asyncio.get_running_loop().create_future()

    def _fail(self, reason: str) -> None:
        """Let nobody wait for a model that is not loaded."""
        self._is_wanted.clear()
        if self._loaded.done():
            self._expect_model()
        self._loaded.set_exception(NotLoaded(reason))
        self._loaded.exception()  # nobody may be waiting


def _reason(answer: Message | Child) -> str:
    return answer.reason if isinstance(answer, LoadFailed) else f"it said {answer}"
