"""What fits into this machine: a context, workers, threads."""

from gateway import machine
from gateway.engine import CTRANSFORMERS, LLAMACPP
from gateway.settings import Settings
from shared.errors import UsageError
from shared.model.description import ModelFile

_MIB = 1 << 20
#: Parked workers, unless PARKED says otherwise: few users keep more conversations going at once.
_MOST_PARKED = 16
#: Longest context, unless CONTEXT_LENGTH says otherwise: its KV caches fit small machines. That of
#: llama.cpp is one for all slots of a worker.
_DEFAULT_N_CTX = {CTRANSFORMERS: 4096, LLAMACPP: 8192}
#: A context is not cut below this for want of memory.
_LEAST_N_CTX = 512
#: Bytes of a worker besides the engine's buffers, measured: pages of the interpreter.
PROCESS_BYTES = 16 << 20


def default_n_ctx(file: ModelFile, memory: int | None) -> int:
    """The context without CONTEXT_LENGTH: the model's own, up to a bound.

    Halved while not even one worker would fit into ``memory`` bytes.
    """
    n_ctx = min(file.n_ctx_most, _DEFAULT_N_CTX[file.engine])
    while n_ctx > _LEAST_N_CTX and fitting_workers(file, n_ctx, memory) == 0:
        n_ctx = max(_LEAST_N_CTX, n_ctx // 2)
    return n_ctx


def context_length(wanted: int | None, file: ModelFile, memory: int | None) -> int:
    """The context: ``wanted``, which is CONTEXT_LENGTH, or the default.

    Raises:
        UsageError: the model does not take so much.
    """
    n_ctx = wanted or default_n_ctx(file, memory)
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
    return PROCESS_BYTES + scratch_bytes(file, n_ctx) + file.memory.caches(n_ctx, slots)


def scratch_bytes(file: ModelFile, n_ctx: int) -> int:
    """The most that a worker's evaluation buffers take with a context of ``n_ctx`` tokens."""
    return file.memory.scratch - (file.n_ctx_most - n_ctx) * file.memory.scratch_per_token


def fitting_workers(file: ModelFile, n_ctx: int, memory: int | None, slots: int = 1) -> int | None:
    """How many workers fit into ``memory`` bytes beside the weights; None if it is not known."""
    if memory is None:
        return None
    return max(0, memory - file.memory.weights) // worker_bytes(file, n_ctx, slots)


def check_worker_memory(most_bytes: int | None, needed: int) -> None:
    """Refuse a bound that a worker with a full context would break.

    Raises:
        UsageError: it does.
    """
    if most_bytes is not None and most_bytes < needed:
        raise UsageError(
            f"MAX_WORKER_MEMORY={most_bytes // _MIB}M is less than the {-(-needed // _MIB)}"
            " MiB that a worker takes when its context is full; raise it, or lower CONTEXT_LENGTH"
        )


def processes(settings: Settings, fitting: int | None, is_beside: bool) -> tuple[int, int]:
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


def check_threads(threads: int | None) -> None:
    """Refuse more than there are CPUs.

    Raises:
        UsageError: there are fewer.
    """
    cpus = machine.usable_cpus()
    if threads is not None and threads > cpus:
        raise UsageError(
            f"THREADS={threads} is more than the {cpus} CPUs that can be used here; threads that"
            " share one wait for each other, and are many times slower"
        )
