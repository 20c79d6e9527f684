"""Loads the model again, or what has taken its place, beside the one that is served."""

import asyncio
import concurrent.futures
import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from gateway import machine
from gateway.errors import ApiError
from gateway.models import Models, Reloaded, Served, ServingConfig
from gateway.plan import Plan, plan_for
from gateway.pool.base import WorkerPool
from gateway.settings import Settings
from shared.errors import ErrorCode, UsageError

logger = logging.getLogger(__name__)

_MIB = 1 << 20
_PATH = re.compile(r"(?:(?<=[\s'\"=(\[:,;])|^)(?:~|\.\.?)?/(?:[^\s'\":,;]*/)?")


class RetiringPool(WorkerPool, Protocol):
    """A pool that can end what it has before it is closed."""

    def stop_accepting(self) -> None:
        """Refuse new generations; those that were taken go on."""

    async def idle(self) -> None:
        """Return when no generation waits or runs."""


class Reloads:
    """The pools of a server: the one that serves, those before it, and the one that loads.

    A pool that was replaced is closed when the last of its requests has ended.
    """

    def __init__(
        self,
        settings: Settings,
        pool_of: Callable[[Plan], tuple[ServingConfig, RetiringPool]],
        plan: Plan,
        pool: RetiringPool,
        models: Models,
        requests: Callable[[], Iterable["asyncio.Task[None]"]],
    ) -> None:
        self._settings = settings
        self._pool_of = pool_of
        self._plan = plan
        self._pool = pool
        self._models = models
        self._requests = requests  # that are being answered now
        self._retiring: dict[RetiringPool, asyncio.Task[None]] = {}
        self._reloading: asyncio.Task[Reloaded] | None = None
        self._closing = False

    @property
    def pools(self) -> list[RetiringPool]:
        """The pools that have something to do: the present one, and those that end."""
        return [*self._retiring, self._pool]

    async def reload(self) -> Reloaded:
        """Load the model that the settings name; returns when it serves.

        Raises:
            ApiError: `RELOAD_RUNNING`; `RELOAD_FAILED`, everything is as before; `SHUTTING_DOWN`.
        """
        if self._closing:
            raise _shutting_down()
        if self._reloading is not None or self._pool.status().state == "starting":
            raise ApiError(ErrorCode.RELOAD_RUNNING, "A model is being loaded already.")
        # A task of its own: it goes on if whoever asked for it goes away.
        self._reloading = asyncio.create_task(self._reload())
        self._reloading.add_done_callback(self._on_end)
        try:
            return await asyncio.shield(self._reloading)
        except asyncio.CancelledError:
            if self._closing:
                raise _shutting_down() from None
            raise

    async def reload_for_signal(self) -> None:
        """The same for SIGHUP, where only the log is told."""
        try:
            await self.reload()
        except ApiError as error:
            if error.code is not ErrorCode.RELOAD_FAILED:  # which is in the log
                logger.warning("SIGHUP: %s", error.message)

    def begin_close(self) -> None:
        """Give up the reload that is running, and begin no other."""
        # Once: a second cancellation would interrupt how the first closes its pool.
        if self._reloading is not None and not self._closing:
            self._reloading.cancel()
        self._closing = True

    async def close(self) -> None:
        """End every generation and every process; safe to call again."""
        self.begin_close()
        if self._reloading is not None:
            await asyncio.gather(self._reloading, return_exceptions=True)
        retiring = dict(self._retiring)
        for task in retiring.values():
            task.cancel()
        await asyncio.gather(*(pool.close() for pool in (*retiring, self._pool)))
        await asyncio.gather(*retiring.values(), return_exceptions=True)

    async def _reload(self) -> Reloaded:
        began_s = time.monotonic()
        logger.info("loading the model again")
        plan, config, pool = await self._load()
        self._models.replace(Served(config, pool))
        config.measure_beside()
        before, self._pool, self._plan = self._pool, pool, plan
        # Before any other request begins: these may have found the pool that is replaced.
        begun = set(self._requests())
        self._retiring[before] = asyncio.create_task(self._retire(before, begun))
        reloaded = Reloaded(plan.worker.model_id, plan.workers, time.monotonic() - began_s)
        logger.info(
            "%s is served from now on, by %d workers and %d parked ones; it took %.1f s",
            plan.worker.model_id,
            plan.workers,
            plan.parked,
            reloaded.seconds,
        )
        return reloaded

    async def _load(self) -> tuple[Plan, ServingConfig, RetiringPool]:
        """Start a pool beside the present one.

        Raises:
            ApiError: `RELOAD_FAILED`; nothing of it is left.
        """
        try:
            plan = await _in_daemon_thread(lambda: plan_for(self._settings, beside=self._plan))
        except UsageError as error:
            raise self._failure(str(error)) from error
        except Exception as error:
            logger.exception("the model could not be loaded again")
            raise self._failure(type(error).__name__) from error
        if plan.parked < self._plan.parked:
            logger.warning(
                "there is not enough memory for %d parked workers beside the model that is served;"
                " there are %d from now on",
                self._plan.parked,
                plan.parked,
            )
        self._warn_of_memory(plan)
        config, pool = self._pool_of(plan)
        try:
            await pool.start()
            status = pool.status()
            if status.model is None or status.state != "ready":
                raise self._failure(status.reason or "no worker could be started")
        except BaseException:
            await pool.close()
            raise
        return plan, config, pool

    async def _retire(self, pool: RetiringPool, begun: set["asyncio.Task[None]"]) -> None:
        """Close a pool when those who may use it have ended, or had all the time there is."""

        async def ended() -> None:
            if begun:
                await asyncio.wait(begun)
            pool.stop_accepting()
            await pool.idle()

        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ended(), self._settings.request_timeout or None)
        finally:
            await pool.close()
            self._models.metrics.retire(pool)
            del self._retiring[pool]
        logger.info("the model that was served before has been unloaded")

    def _warn_of_memory(self, plan: Plan) -> None:
        """Say so if both models do not fit, should all KV caches be filled meanwhile."""
        free = machine.available_memory()
        needed = plan.most_bytes + self._plan.caches * self._plan.worker_bytes
        if free is not None and needed > free:
            logger.warning(
                "until the model that is served is unloaded, both may take %d MiB more than now,"
                " and %d MiB are free",
                needed // _MIB,
                free // _MIB,
            )

    def _failure(self, reason: str) -> ApiError:
        logger.error("the model was not loaded again, all is as before: %s", reason)
        shown = self._without_folders(reason)
        return ApiError(
            ErrorCode.RELOAD_FAILED, f"The model was not loaded again, all is as before: {shown}"
        )

    def _without_folders(self, text: str) -> str:
        """The text with the names of files in place of their paths."""
        settings = self._settings
        named = (settings.model_name, settings.tokenizer, settings.chat_template, settings.ct_lib)
        for path in (*named, settings.warm_prompt, self._plan.worker.model_path):
            folder = Path(path or "").expanduser().parent
            with contextlib.suppress(OSError, ValueError):
                if folder != Path() and folder.is_dir():
                    for shown in (path or "", str(Path(path or "").expanduser())):
                        text = text.replace(shown, Path(shown).name)
                    text = text.replace(f"{folder}/", "")
        return _PATH.sub("", text)

    def _on_end(self, reloading: "asyncio.Task[Reloaded]") -> None:
        self._reloading = None
        if not reloading.cancelled():
            reloading.exception()  # whoever asked for it may have gone


def _shutting_down() -> ApiError:
    return ApiError(ErrorCode.SHUTTING_DOWN, "The server is shutting down.")


async def _in_daemon_thread(work: Callable[[], Plan]) -> Plan:
    """Do what may be a long download, which the end of the server does not wait for."""
    done: concurrent.futures.Future[Plan] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()  # who no longer waits for it does not end it

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="plan", daemon=True).start()
    return await asyncio.wrap_future(done)
