"""Decides what to start: the model, how many workers, how many threads, how much memory."""

from dataclasses import dataclass, replace
from pathlib import Path

from gateway import machine
from gateway.engine import CTRANSFORMERS, LLAMACPP, library_for, source_for
from gateway.hub import ModelSource
from gateway.settings import Settings
from gateway.warm_prompt import load_warm_prompt
from shared.config import WorkerConfig
from shared.errors import UsageError
from shared.model.description import ModelFile, Pooling

_MIB = 1 << 20
_LLAMACPP_SLOTS = 8
_ECHO_SLOTS = 4
#: Parked workers, unless PARKED says otherwise: few users keep more conversations going at once.
_MOST_PARKED = 16
#: Longest context, unless CONTEXT_LENGTH says otherwise: its KV caches fit small machines. That of
#: llama.cpp is one for all slots of a worker.
_DEFAULT_N_CTX = {CTRANSFORMERS: 4096, LLAMACPP: 8192}
#: Of the free memory, unless PREFIX_CACHE says otherwise.
_PREFIX_CACHE_SHARE = 0.1
#: A context is not cut below this for want of memory.
_LEAST_N_CTX = 512
#: Bytes of a worker besides the engine's buffers, measured: pages of the interpreter.
_PROCESS_BYTES = 16 << 20


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
    worker_bytes: int = _PROCESS_BYTES
    #: What the context was bounded by.
    context: str = ""
    #: Build of the engine's library; empty for none.
    engine: str = ""
    #: Evaluated before workers are forked.
    warm_prompt: str | None = None

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
    _check_threads(settings.threads)
    if settings.model_type == "echo":
        return _fit_echo(settings)
    source = source_for(settings)
    path = str(source.file.path)
    if not path.isprintable():
        raise UsageError(f"{path!r}: the path of a model must be printable Unicode")
    plan = fit(settings, source, is_beside=beside is not None)
    library = library_for(settings, source.file)
    worker = replace(plan.worker, library=library.path)
    return replace(plan, worker=worker, engine=library.label)


def fit(settings: Settings, source: ModelSource, *, is_beside: bool = False) -> Plan:
    """Fit a model into this machine; ``is_beside`` as in `plan_for`.

    Raises:
        UsageError: the settings ask for more than the model or the memory allows.
    """
    file, memory = source.file, machine.available_memory()
    slots = _slots(settings, file)
    keeps_prefixes = file.engine == LLAMACPP and file.pooling is Pooling.NONE
    prefix_cache = keeps_prefixes * (settings.prefix_cache or 0)
    left = None if memory is None else max(0, memory - prefix_cache)
    n_ctx = _context_length(settings, file, None if is_beside else left)
    fitting = fitting_workers(file, n_ctx, left, slots)
    if fitting and file.engine == LLAMACPP and settings.warm_prompt is None:
        fitting -= 1  # the zygote has a cache of its own, which each worker writes anew
    if slots > 1 and settings.parked is None:
        settings = replace(settings, parked=0)  # the slots of a worker keep conversations
    workers, parked = _processes(settings, fitting, is_beside)
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
    _check_worker_memory(settings.max_worker_memory, plan.worker_bytes)
    _check_memory(plan, n_ctx, memory, is_beside)
    if keeps_prefixes and settings.prefix_cache is None and memory is not None:
        share = int(memory * _PREFIX_CACHE_SHARE)
        worker = replace(worker, prefix_cache=min(share, memory - plan.most_bytes))
    return replace(plan, worker=worker)


def default_n_ctx(file: ModelFile, memory: int | None) -> int:
    """The context without CONTEXT_LENGTH: the model's own, up to a bound.

    Halved while not even one worker would fit into ``memory`` bytes.
    """
    n_ctx = min(file.n_ctx_most, _DEFAULT_N_CTX[file.engine])
    while n_ctx > _LEAST_N_CTX and fitting_workers(file, n_ctx, memory) == 0:
        n_ctx = max(_LEAST_N_CTX, n_ctx // 2)
    return n_ctx


def why_n_ctx(file: ModelFile, n_ctx: int, wanted: int | None) -> str:
    """What the context was bounded by; ``wanted`` is CONTEXT_LENGTH."""
    trained = f"trained for {file.n_ctx_train:,}"
    if n_ctx == wanted:
        return f"CONTEXT_LENGTH; {trained}"
    if n_ctx == file.n_ctx_train:
        return "as trained"
    if n_ctx == file.n_ctx_most:
        return f"the most that the engine's buffers hold; {trained}"
    if n_ctx == _DEFAULT_N_CTX[file.engine]:
        return f"unless CONTEXT_LENGTH asks for more; {trained}"
    return f"what memory has room for; {trained}"


def worker_bytes(file: ModelFile, n_ctx: int, slots: int = 1) -> int:
    """The most that a worker takes with a context of ``n_ctx`` tokens, besides the weights."""
    return _PROCESS_BYTES + scratch_bytes(file, n_ctx) + file.memory.caches(n_ctx, slots)


def scratch_bytes(file: ModelFile, n_ctx: int) -> int:
    """The most that a worker's evaluation buffers take with a context of ``n_ctx`` tokens."""
    return file.memory.scratch - (file.n_ctx_most - n_ctx) * file.memory.scratch_per_token


def fitting_workers(file: ModelFile, n_ctx: int, memory: int | None, slots: int = 1) -> int | None:
    """How many workers fit into ``memory`` bytes beside the weights; None if it is not known."""
    if memory is None:
        return None
    return max(0, memory - file.memory.weights) // worker_bytes(file, n_ctx, slots)


def _slots(settings: Settings, file: ModelFile) -> int:
    return settings.slots or _LLAMACPP_SLOTS if file.engine == LLAMACPP else 1


def _context_length(settings: Settings, file: ModelFile, memory: int | None) -> int:
    n_ctx = settings.context_length or default_n_ctx(file, memory)
    if n_ctx > file.n_ctx_most:
        why = (
            "than the model was trained for"
            if file.n_ctx_most == file.n_ctx_train
            else f"than the engine can take for this model (trained for {file.n_ctx_train})"
        )
        raise UsageError(
            f"CONTEXT_LENGTH={n_ctx} is more {why}; it must be at most {file.n_ctx_most}"
        )
    return n_ctx


def _processes(settings: Settings, fitting: int | None, is_beside: bool) -> tuple[int, int]:
    """How many workers and parked workers there are to be; ``fitting`` processes fit in memory."""
    cores, parked = machine.usable_cores(), settings.parked
    # A zygote that has evaluated the warm prompt has a KV cache of its own.
    warm = int(settings.warm_prompt is not None)
    most = cores if fitting is None else min(cores, fitting - warm)
    workers = settings.workers or max(1, most)
    if parked is None or is_beside:
        parked = _MOST_PARKED if parked is None else parked
        if fitting is not None:
            parked = min(parked, max(0, fitting - warm - workers))
    return workers, parked


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
    _check_worker_memory(settings.max_worker_memory, _PROCESS_BYTES)
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


def _check_worker_memory(most_bytes: int | None, needed: int) -> None:
    if most_bytes is not None and most_bytes < needed:
        raise UsageError(
            f"MAX_WORKER_MEMORY={most_bytes // _MIB}M is less than the {-(-needed // _MIB)}"
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
