"""Decides what to start: the model, how many workers, how many threads, how much memory."""

from dataclasses import dataclass

from gateway import machine
from gateway.model_source import resolve
from gateway.settings import Settings
from shared.config import WorkerConfig
from shared.errors import UsageError
from shared.gguf import GGUFFile
from shared.gguf_reader import read_gguf

# Without a length of their own choice, models get at most this context: what it takes in memory
# is known to fit small machines. CONTEXT_LENGTH asks for more.
_DEFAULT_N_CTX = 4096
# What a worker takes beyond its KV cache (interpreter pages, evaluation buffers), as measured.
_WORKER_BYTES = 32 << 20
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be started.

    Attributes:
        model_id: the model's name, as clients say and see it.
        worker: what every worker gets.
        workers: how many workers.
        family: architecture and quantisation, for the summary.
        weight_bytes: the weights, which all workers share.
        worker_bytes: the most that each worker adds, with its context full.
    """

    model_id: str
    worker: WorkerConfig
    workers: int
    family: str
    weight_bytes: int
    worker_bytes: int

    @property
    def memory(self) -> str:
        """The memory plan in a line."""
        total = self.weight_bytes + self.workers * self.worker_bytes
        return (
            f"{total / _MIB:.0f} MiB at most: weights {self.weight_bytes / _MIB:.0f} MiB, shared,"
            f" + {self.workers} x {self.worker_bytes / _MIB:.0f} MiB"
        )


def plan_for(settings: Settings) -> Plan:
    """Find the model that the settings name, and fit it into this machine.

    Downloads the model if it has to.

    Raises:
        UsageError: there is no such model, it cannot be served, or it does not fit.
    """
    if settings.model_type == "echo":
        return fit(settings, settings.model_name or "echo", None)
    source = resolve(settings.model_name, settings.model_file)
    if not str(source.path).isprintable():
        raise UsageError(f"{str(source.path)!r}: the path of a model must be printable Unicode")
    return fit(settings, source.name, read_gguf(source.path))


def fit(settings: Settings, model_id: str, file: GGUFFile | None) -> Plan:
    """Fit a model into this machine.

    Args:
        settings: what was asked for.
        model_id: the model's name.
        file: the checked model file; None for the echo engine.

    Raises:
        UsageError: what was asked for is more than the model or the memory allows.
    """
    cores = machine.usable_cores()
    n_ctx = settings.context_length
    weight_bytes, worker_bytes, family = 0, _WORKER_BYTES, "echo (no model)"
    if file is not None:
        if n_ctx is not None and n_ctx > file.n_ctx_train:
            raise UsageError(
                f"CONTEXT_LENGTH={n_ctx} is more than the model was trained for;"
                f" it must be at most {file.n_ctx_train}"
            )
        n_ctx = n_ctx or min(file.n_ctx_train, _DEFAULT_N_CTX)
        weight_bytes = file.n_bytes
        worker_bytes += n_ctx * file.kv_bytes_per_token
        family = f"{file.architecture}, {file.quantisation}"

    memory = machine.available_memory()
    fitting = 256 if memory is None else (memory - weight_bytes) // worker_bytes
    workers = settings.workers or max(1, min(cores, fitting))
    if workers > fitting:
        raise UsageError(
            f"{workers} workers need {(weight_bytes + workers * worker_bytes) // _MIB} MiB of"
            f" memory, and {(memory or 0) // _MIB} MiB are free; lower WORKERS or CONTEXT_LENGTH"
        )
    return Plan(
        model_id=model_id,
        worker=WorkerConfig(
            engine="echo" if file is None else "ctransformers",
            model_path="" if file is None else str(file.path),
            n_ctx=n_ctx,
            threads=settings.threads or cores,
            log_level=settings.log_level.upper(),
            echo_delay_ms=settings.echo_delay_ms,
        ),
        workers=workers,
        family=family,
        weight_bytes=weight_bytes,
        worker_bytes=worker_bytes,
    )
