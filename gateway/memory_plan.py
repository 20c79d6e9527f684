"""How a model fits into the memory of a machine: the context, and how many workers."""

from shared.model.description import ModelFile

# Without a length of their own choice, models get at most this context: what it takes in memory
# is known to fit small machines. CONTEXT_LENGTH asks for more.
_DEFAULT_N_CTX = 4096
# A context that is cut for want of memory is not cut below this.
_LEAST_N_CTX = 512
WORKER_BYTES = 16 << 20
"""What a worker takes besides the engine's buffers, as measured: pages of the interpreter."""
MOST_WORKERS = 1024


def default_n_ctx(file: ModelFile, memory: int | None) -> int:
    """The context length that a model gets if nobody asks for another.

    That is the model's own, cut to what is usual, and halved while not even one worker would fit
    into ``memory`` bytes.
    """
    n_ctx = min(file.n_ctx_most, _DEFAULT_N_CTX)
    if memory is not None:
        while n_ctx > _LEAST_N_CTX and fitting_workers(file, n_ctx, memory) < 1:
            n_ctx = max(_LEAST_N_CTX, n_ctx // 2)
    return n_ctx


def worker_bytes(file: ModelFile, n_ctx: int) -> int:
    """The most that a worker takes with a context of ``n_ctx`` tokens, besides the weights."""
    return WORKER_BYTES + scratch_bytes(file, n_ctx) + n_ctx * file.memory.kv_per_token


def scratch_bytes(file: ModelFile, n_ctx: int) -> int:
    """The most that a worker's evaluation buffers take with a context of ``n_ctx`` tokens."""
    return file.memory.scratch - (file.n_ctx_most - n_ctx) * file.memory.scratch_per_token


def fitting_workers(file: ModelFile, n_ctx: int, memory: int | None) -> int:
    """How many workers fit into so many bytes; `MOST_WORKERS` if their number is not known."""
    if memory is None:
        return MOST_WORKERS
    return max(0, memory - file.memory.weights) // worker_bytes(file, n_ctx)
