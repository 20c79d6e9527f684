"""Decides what to start: the model, how many workers, how many threads, how much memory."""

from dataclasses import dataclass, replace
from pathlib import Path

from gateway import demo_model, machine, memory_plan
from gateway.hub import ModelSource, resolve
from gateway.settings import Settings
from gateway.warm_prompt import load_warm_prompt
from shared.config import WorkerConfig
from shared.errors import UsageError
from shared.model.library import choose

_MIB = 1 << 20
# Nobody keeps more conversations going at the same time without saying so.
_MOST_PARKED = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be started.

    Attributes:
        model_id: the model's name, as clients say and see it.
        file_name: what the model file is called where it came from.
        worker: what every worker gets.
        workers: how many generations may run at the same time.
        parked: how many more worker processes there are.
        family: architecture and quantisation, for the summary.
        engine: which build of the engine's library serves, for the summary; empty for none.
        weight_bytes: the weights, which all workers share.
        worker_bytes: the most that each worker adds, with its context full.
        warm_prompt: the text that all workers are to be born with, if there is one.
    """

    model_id: str
    file_name: str
    worker: WorkerConfig
    workers: int
    family: str
    weight_bytes: int
    worker_bytes: int
    parked: int = 0
    engine: str = ""
    warm_prompt: str | None = None

    @property
    def caches(self) -> int:
        """How many KV caches there may be: of workers, and of a zygote with a warm prompt."""
        return self.workers + self.parked + int(self.warm_prompt is not None)

    @property
    def most_bytes(self) -> int:
        """The most memory that all processes take together, besides the gateway."""
        return self.weight_bytes + self.caches * self.worker_bytes

    @property
    def memory(self) -> str:
        """The memory plan in a line."""
        return (
            f"{self.most_bytes / _MIB:.0f} MiB at most: weights {self.weight_bytes / _MIB:.0f} MiB,"
            f" shared, + {self.caches} x {self.worker_bytes / _MIB:.0f} MiB"
        )


def plan_for(settings: Settings, beside: Plan | None = None) -> Plan:
    """Find the model that the settings name, and fit it into this machine.

    Downloads the model if it has to.

    Args:
        settings: what was asked for.
        beside: what is served until this takes its place. It gets as many workers, and its context
            is not cut for want of memory; of parked workers there may be fewer than asked for.

    Raises:
        UsageError: there is no such model, it cannot be served, or it does not fit.
    """
    if beside is not None:
        settings = replace(settings, workers=settings.workers or beside.workers)
    # First, since what follows may be a long download.
    warm_prompt = load_warm_prompt(settings.warm_prompt)
    _check_threads(settings.threads)
    if settings.model_type == "echo":
        return replace(_fit_echo(settings), warm_prompt=warm_prompt)
    library = choose(settings.ct_lib, demo_model.default_cache_dir())
    source = resolve(settings.model_name, settings.model_file, settings.model_type)
    path = str(source.file.path)
    if not path.isprintable():
        raise UsageError(f"{path!r}: the path of a model must be printable Unicode")
    plan = fit(settings, source, is_beside=beside is not None)
    return replace(
        plan,
        worker=replace(plan.worker, library=library.path),
        engine=library.label,
        warm_prompt=warm_prompt,
    )


def fit(settings: Settings, source: ModelSource, *, is_beside: bool = False) -> Plan:
    """Fit a model into this machine.

    Args:
        settings: what was asked for.
        source: the model.
        is_beside: another is served until this takes its place; see `plan_for`.

    Raises:
        UsageError: what was asked for is more than the model or the memory allows.
    """
    file = source.file
    tokenizer = _tokenizer(settings, source)
    memory = machine.available_memory()
    n_ctx = settings.context_length or memory_plan.default_n_ctx(
        file, None if is_beside else memory
    )
    if n_ctx > file.n_ctx_most:
        why = (
            "than the model was trained for"
            if file.n_ctx_most == file.n_ctx_train
            else f"than the engine can take for this model (trained for {file.n_ctx_train})"
        )
        raise UsageError(
            f"CONTEXT_LENGTH={n_ctx} is more {why}; it must be at most {file.n_ctx_most}"
        )
    weight_bytes, worker_bytes = file.memory.weights, memory_plan.worker_bytes(file, n_ctx)
    _check_worker_memory(settings.max_worker_memory, worker_bytes)
    cores = machine.usable_cores()
    fitting = memory_plan.fitting_workers(file, n_ctx, memory)
    # A zygote that has evaluated the warm prompt has a KV cache of its own.
    warm = 0 if settings.warm_prompt is None else 1
    workers = settings.workers or max(1, min(cores, fitting - warm))
    parked = settings.parked
    if parked is None or is_beside:
        left = fitting - workers - warm
        parked = min(_MOST_PARKED if parked is None else parked, max(0, left))
    needed = workers + parked + warm
    if needed > fitting:
        what = f"{workers} workers" + (f" and {parked} parked ones" if parked else "")
        lower = "WORKERS" + (", PARKED" if parked else "")
        raise UsageError(
            f"{what}{', and WARM_PROMPT,' if warm else ''} with a context of {n_ctx} tokens need"
            f" {(weight_bytes + needed * worker_bytes) // _MIB} MiB of memory,"
            f" and {(memory or 0) // _MIB} MiB are free"
            f"{' beside the model that is served' if is_beside else ''};"
            f" lower {lower} or CONTEXT_LENGTH"
        )
    worker = WorkerConfig(
        engine="ctransformers",
        model_path=str(file.path),
        model_type=settings.model_type,
        tokenizer_path="" if tokenizer is None else str(tokenizer),
        tokenizer_is_optional=settings.tokenizer is None,
        n_ctx=n_ctx,
        threads=settings.threads or cores,
        log_level=settings.log_level.upper(),
        log_format=settings.log_format,
        model_id=source.name,
        file_name=source.file_name,
        chat_template=settings.chat_template,
    )
    family = f"{file.family.value}, {file.quantisation}"
    return Plan(
        model_id=source.name,
        file_name=source.file_name,
        worker=worker,
        workers=workers,
        family=family,
        weight_bytes=weight_bytes,
        worker_bytes=worker_bytes,
        parked=parked,
    )


def _fit_echo(settings: Settings) -> Plan:
    cores = machine.usable_cores()
    name, workers = settings.model_name or "echo", settings.workers or cores
    worker = WorkerConfig(
        engine="echo",
        n_ctx=settings.context_length,
        threads=settings.threads or cores,
        log_level=settings.log_level.upper(),
        log_format=settings.log_format,
        model_id=name,
        chat_template=settings.chat_template,
        echo_delay_ms=settings.echo_delay_ms,
        slots=settings.slots,
    )
    _check_worker_memory(settings.max_worker_memory, memory_plan.WORKER_BYTES)
    return Plan(
        model_id=name,
        file_name="",
        worker=worker,
        workers=workers,
        family="echo (no model)",
        weight_bytes=0,
        worker_bytes=memory_plan.WORKER_BYTES,
        parked=settings.parked or 0,
    )


def _check_worker_memory(most_bytes: int | None, worker_bytes: int) -> None:
    if most_bytes is not None and most_bytes < worker_bytes:
        raise UsageError(
            f"MAX_WORKER_MEMORY={most_bytes // _MIB}M is less than the {-(-worker_bytes // _MIB)}"
            " MiB that a worker takes when its context is full; raise it, or lower CONTEXT_LENGTH"
        )


def _check_threads(threads: int | None) -> None:
    cpus = machine.usable_cpus()
    if threads is not None and threads > cpus:
        raise UsageError(
            f"THREADS={threads} is more than the {cpus} CPUs that can be used here; threads that"
            " share one wait for each other, and are many times slower"
        )


def _tokenizer(settings: Settings, source: ModelSource) -> Path | None:
    if settings.tokenizer is None:
        return source.tokenizer
    path = Path(settings.tokenizer).expanduser()
    if not path.is_file():
        raise UsageError(f"TOKENIZER={settings.tokenizer}: no such file; name a tokenizer.json")
    return path
