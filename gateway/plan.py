"""Decides what to start: the model, how many workers, how many threads, how much memory."""

from dataclasses import dataclass, replace
from pathlib import Path

from gateway import demo_model, machine
from gateway.calibration import Calibration, Exactness, layouts
from gateway.engine import LLAMACPP, adapters_for, library_for, source_for
from gateway.fitting import (
    PROCESS_BYTES,
    check_threads,
    check_worker_memory,
    context_length,
    fitting_workers,
    processes,
    why_n_ctx,
    worker_bytes,
)
from gateway.hub import ModelSource
from gateway.settings import Settings
from gateway.warm_prompt import load_warm_prompt
from shared.config import WorkerConfig
from shared.errors import UsageError
from shared.model.description import ModelFile, Pooling

_MIB = 1 << 20
_LLAMACPP_SLOTS = 8
_ECHO_SLOTS = 4
#: Generations that a server runs together, whatever the number of its workers.
_LEAST_RUNNING = 16
#: A model with less is fast however its work is divided.
_LEAST_WEIGHTS = 32 << 20
#: Of the free memory, unless PREFIX_CACHE says otherwise.
_PREFIX_CACHE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be started."""

    worker: WorkerConfig
    #: Generations that may run at the same time.
    workers: int
    #: Further worker processes, for the conversations in their KV caches.
    parked: int = 0
    #: Architecture and quantisation.
    family: str = "echo (no model)"
    #: The weights, which all workers share.
    weight_bytes: int = 0
    #: The most that each worker adds, with its context full.
    worker_bytes: int = PROCESS_BYTES
    #: What the context was bounded by.
    context: str = ""
    #: Build of the engine's library; empty for none.
    engine: str = ""
    #: Evaluated before workers are forked.
    warm_prompt: str | None = None
    #: What is known of the model on this machine.
    calibration: Calibration | None = None
    #: Whether the number of workers was measured.
    is_measured: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether texts do not depend on what else runs."""
        return self.worker.engine != LLAMACPP or bool(self.worker.exact_rows)

    @property
    def threads(self) -> int:
        """Of all workers together."""
        return max(self.workers, self.worker.threads)

    @property
    def layout(self) -> str:
        """Workers and threads in a line."""
        measured, n_rows = ", as measured" if self.is_measured else "", self.worker.exact_rows
        rows = f"; exact, with {n_rows} rows at once" if n_rows else ""
        return (
            f"{self.workers}, with {self.threads} threads among them{measured};"
            f" {self.parked} more parked{rows}"
        )

    @property
    def caches(self) -> int:
        """KV caches: of workers, and of a zygote with a warm prompt or with llama.cpp."""
        of_zygote = self.warm_prompt is not None or self.worker.engine == LLAMACPP
        return self.workers + self.parked + int(of_zygote)

    @property
    def most_bytes(self) -> int:
        """The most memory that all processes take together, besides the gateway."""
        return self.weight_bytes + self.caches * self.worker_bytes + self.worker.prefix_cache

    @property
    def memory(self) -> str:
        """The memory plan in a line."""
        prefix_cache = self.worker.prefix_cache
        return (
            f"{self.most_bytes / _MIB:.0f} MiB at most: weights {self.weight_bytes / _MIB:.0f} MiB,"
            f" shared, + {self.caches} x {self.worker_bytes / _MIB:.0f} MiB"
            + (f" + prefix cache {prefix_cache / _MIB:.0f} MiB" if prefix_cache else "")
        )


def plan_for(settings: Settings, beside: Plan | None = None) -> Plan:
    """Find the model that the settings name, and fit it into this machine; may download it.

    Args:
        settings: of the server.
        beside: what is served until this takes its place. This gets as many workers, and its
            context is not cut for want of memory; it may get fewer parked workers than asked for.

    Raises:
        UsageError: there is no such model, it cannot be served, or it does not fit.
    """
    if beside is not None:
        settings = replace(settings, workers=settings.workers or beside.workers)
    # First, since what follows may be a long download.
    settings = replace(settings, warm_prompt=load_warm_prompt(settings.warm_prompt))
    check_threads(settings.threads)
    if settings.model_type == "echo":
        return _fit_echo(settings)
    source = source_for(settings)
    path = str(source.file.path)
    if not path.isprintable():
        raise UsageError(f"{path!r}: the path of a model must be printable Unicode")
    plan = fit(settings, source, is_beside=beside is not None)
    library = library_for(settings, source.file)
    worker = replace(
        plan.worker,
        library=library.path,
        cache_type=settings.cache_type,
        adapters=adapters_for(settings, source.file),
    )
    plan = replace(plan, worker=worker, engine=library.label)
    return _calibrated(plan, settings, source.file)


def fit(settings: Settings, source: ModelSource, *, is_beside: bool = False) -> Plan:
    """Fit a model into this machine; ``is_beside`` as in `plan_for`.

    Raises:
        UsageError: the settings ask for more than the model or the memory allows.
    """
    file, memory = source.file, machine.available_memory()
    slots = _slots(settings, file)
    writes = _writes_text(file)
    if settings.exact and writes:  # each slot has cells of its own, whose states are not saved
        if settings.prefix_cache:
            raise UsageError("PREFIX_CACHE has no use with EXACT=1; leave one of them out")
        settings = replace(settings, prefix_cache=0)
        file = replace(file, memory=file.memory.apart(slots))
    prefix_cache = writes * (settings.prefix_cache or 0)
    left = None if memory is None else max(0, memory - prefix_cache)
    n_ctx = context_length(settings.context_length, file, None if is_beside else left)
    fitting = fitting_workers(file, n_ctx, left, slots)
    if fitting and file.engine == LLAMACPP and settings.warm_prompt is None:
        fitting -= 1  # the zygote has a cache of its own, which each worker writes anew
    if slots > 1 and settings.parked is None:
        settings = replace(settings, parked=0)  # the slots of a worker keep conversations
    workers, parked = processes(settings, fitting, is_beside)
    tokenizer = _tokenizer(settings, source)
    worker = replace(
        _worker(settings),
        engine=file.engine,
        slots=slots,
        prefix_cache=prefix_cache,
        model_path=str(file.path),
        model_type=settings.model_type,
        tokenizer_path="" if tokenizer is None else str(tokenizer),
        tokenizer_is_optional=settings.tokenizer is None,
        n_ctx=n_ctx,
        model_id=source.name,
        file_name=source.file_name,
    )
    plan = Plan(
        worker,
        workers,
        parked,
        family=f"{file.family_name}, {file.quantisation}",
        weight_bytes=file.memory.weights,
        worker_bytes=worker_bytes(file, n_ctx, slots),
        context=why_n_ctx(file, n_ctx, settings.context_length),
        warm_prompt=settings.warm_prompt,
    )
    check_worker_memory(settings.max_worker_memory, plan.worker_bytes)
    _check_memory(plan, n_ctx, memory, is_beside)
    if writes and settings.prefix_cache is None and memory is not None:
        share = int(memory * _PREFIX_CACHE_SHARE)
        worker = replace(worker, prefix_cache=min(share, memory - plan.most_bytes))
    return replace(plan, worker=worker)


def _calibrated(plan: Plan, settings: Settings, file: ModelFile) -> Plan:
    """The plan with what is measured of the model on this machine, as far as it is left open."""
    is_small = file.memory.weights < _LEAST_WEIGHTS and not settings.exact
    if is_small or not _writes_text(file):
        return plan
    cores, worker = machine.usable_cores(), plan.worker
    calibration = Calibration(
        worker,
        cores,
        demo_model.default_cache_dir(),
        weight_bytes=plan.weight_bytes,
        timeout_s=settings.start_timeout or None,
    )
    plan = replace(plan, calibration=calibration)
    if settings.exact:
        known = calibration.measure_exactness() or Exactness(1, 1)
        threads = min(worker.threads, known.threads)
        return replace(plan, worker=replace(worker, exact_rows=known.rows, threads=threads))
    if settings.workers is not None or settings.threads is not None:
        return plan
    workers = calibration.workers(layouts(plan.workers, cores))
    if workers is None:
        return plan
    slots = settings.slots or max(worker.slots, -(-_LEAST_RUNNING // workers))
    return replace(
        plan,
        worker=replace(worker, slots=slots),
        workers=workers,
        worker_bytes=worker_bytes(file, worker.n_ctx or file.n_ctx_most, slots),
        is_measured=True,
    )


def _writes_text(file: ModelFile) -> bool:
    """Whether it does so by llama.cpp; texts that it pools are evaluated as a whole."""
    return file.engine == LLAMACPP and file.pooling is Pooling.NONE


def _slots(settings: Settings, file: ModelFile) -> int:
    return settings.slots or _LLAMACPP_SLOTS if file.engine == LLAMACPP else 1


def _worker(settings: Settings) -> WorkerConfig:
    """What does not depend on the engine."""
    return WorkerConfig(
        engine="echo",
        n_ctx=settings.context_length,
        threads=settings.threads or machine.usable_cores(),
        log_level=settings.log_level.upper(),
        log_format=settings.log_format,
        model_id=settings.model_name or "echo",
        chat_template=settings.chat_template,
        echo_delay_ms=settings.echo_delay_ms,
        slots=settings.slots or _ECHO_SLOTS,
    )


def _fit_echo(settings: Settings) -> Plan:
    check_worker_memory(settings.max_worker_memory, PROCESS_BYTES)
    workers, parked = settings.workers or machine.usable_cores(), settings.parked or 0
    return Plan(_worker(settings), workers, parked, warm_prompt=settings.warm_prompt)


def _check_memory(plan: Plan, n_ctx: int, memory: int | None, is_beside: bool) -> None:
    if memory is None or plan.most_bytes <= memory:
        return
    parked = f" and {plan.parked} parked ones" if plan.parked else ""
    warm = ", and WARM_PROMPT," if plan.warm_prompt is not None else ""
    raise UsageError(
        f"{plan.workers} workers{parked}{warm} with a context of {n_ctx} tokens need"
        f" {plan.most_bytes // _MIB} MiB of memory, and {memory // _MIB} MiB are free"
        f"{' beside the model that is served' if is_beside else ''};"
        f" lower WORKERS{', PARKED' if parked else ''}"
        f"{', PREFIX_CACHE' if plan.worker.prefix_cache else ''} or CONTEXT_LENGTH"
    )


def _tokenizer(settings: Settings, source: ModelSource) -> Path | None:
    if settings.tokenizer is None:
        return source.tokenizer
    path = Path(settings.tokenizer).expanduser()
    if not path.is_file():
        raise UsageError(f"TOKENIZER={settings.tokenizer}: no such file; name a tokenizer.json")
    return path
