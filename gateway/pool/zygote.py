"""The zygote as the gateway holds it: loads the model, forks workers, is revived when it dies."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import orjson

from gateway.pool.base import ZygoteStatus
from gateway.pool.prefix import EMPTY, Prefix
from gateway.pool.proc import activity
from gateway.pool.zygote_process import Child, ZygoteProcess
from shared.config import ZYGOTE_VARIABLE, WorkerConfig
from shared.messages import LoadFailed, Ready, Warm, Warmed

logger = logging.getLogger(__name__)

_CHECKOUT = str(Path(__file__).parents[2])
# One that dies sooner than this after it was started has died young: perhaps it cannot live.
_YOUNG_S = 30.0
_MAX_BACKOFF_S = 60.0
# Of a fork: these seconds, or so many times what is usual.
_LEAST_FORK_S = 10.0
_TIMES_USUAL = 50.0
_WEIGHT = 0.2


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
        self.status = ZygoteStatus()
        #: what every fork has in its KV cache
        self.warm = EMPTY
        self._variables = {
            ZYGOTE_VARIABLE: orjson.dumps({"config": asdict(config), "preload": preload}).decode(),
            # It does not get our sys.path; a checkout need not be installed.
            "PYTHONPATH": os.pathsep.join(filter(None, (_CHECKOUT, os.environ.get("PYTHONPATH")))),
        }
        self._warm_prompt = warm_prompt
        self._start_timeout_s = start_timeout_s
        self._usual_fork_s = 0.0
        self._process: ZygoteProcess | None = None
        self._loaded: asyncio.Future[ZygoteProcess]
        self._is_wanted = asyncio.Event()
        self._forking = asyncio.Lock()
        self._was_stopped = False
        self._closing = False
        self._keeping: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start it on the running event loop, again and again when it has died."""
        self._loaded = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.create_task(self._keep())

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

    async def _fork(
        self, process: ZygoteProcess, name: str, target: str, descriptors: Sequence[int]
    ) -> Child:
        # One at a time, as it forks: hundreds at once do not fit into its socket, and the time that
        # a fork waits for others would count against it.
        async with self._forking:
            began_s = time.monotonic()
            try:
                child = await asyncio.wait_for(process.fork(name, target, descriptors), self.fork_s)
            except asyncio.TimeoutError as error:
                process.kill()
                message = f"no worker could be forked from the zygote within {self.fork_s:g} s"
                raise TimeoutError(message) from error
            self._usual_fork_s += _WEIGHT * (time.monotonic() - began_s - self._usual_fork_s)
        return child

    async def _live(self) -> None:
        """From the start of a process to its end."""
        try:
            self._process = process = ZygoteProcess(self._variables)
        except OSError as error:
            self._fail(f"the zygote could not be started: {error}")
            return
        self.status = replace(self.status, pid=process.pid)
        reason = ""
        try:
            await self._load(process)
            self._loaded.set_result(process)
            self.status = replace(self.status, is_loaded=True)
        except NotLoaded as error:
            reason = str(error)
            process.kill()
        except ConnectionError:
            reason = "it died while it loaded the model"
        await process.gone.wait()
        if not reason:  # whoever wants a fork from now on waits for the next one
            self._loaded = asyncio.get_running_loop().create_future()
        how = await process.wait()
        self._process = None
        restarts = self.status.restarts + 1
        self.status = replace(self.status, pid=None, is_loaded=False, restarts=restarts)
        if reason:
            self._fail(f"the model could not be loaded: {how}" if process.is_lost else reason)
        if process.is_lost:
            logger.error(
                "the zygote (pid %d) died (%s); another loads the model, workers go on",
                process.pid, how,
            )  # fmt: skip

    async def _load(self, process: ZygoteProcess) -> None:
        try:
            said = await asyncio.wait_for(process.loaded, self._start_timeout_s or None)
        except asyncio.TimeoutError as error:
            limit = f"{self._start_timeout_s:g} s, which is START_TIMEOUT"
            raise NotLoaded(f"the model did not load within {limit}") from error
        if not isinstance(said, Ready):
            raise NotLoaded(said.reason if isinstance(said, LoadFailed) else f"it said {said}")
        if self._warm_prompt is not None:
            try:
                await self._evaluate(process, self._warm_prompt)
            except ConnectionError:
                raise
            except Exception as error:
                raise NotLoaded(f"WARM_PROMPT: {error}") from error

    async def _evaluate(self, process: ZygoteProcess, text: str) -> None:
        said = await process.ask(Warm(text))
        if not isinstance(said, Warmed):
            raise NotLoaded(said.reason if isinstance(said, LoadFailed) else f"it said {said}")
        self.warm = Prefix(said.ids)
        self.status = replace(self.status, prefix_tokens=len(said.ids))
        logger.info("the zygote holds a prefix of %d tokens", len(said.ids))

    def _fail(self, reason: str) -> None:
        """Let nobody wait for a model that is not loaded."""
        if self._loaded.done():
            self._loaded = asyncio.get_running_loop().create_future()
        self._loaded.set_exception(NotLoaded(reason))
        self._loaded.exception()  # nobody may be waiting
