"""Decides what to start: the model, how many workers, how many threads, how much memory."""

from dataclasses import dataclass, replace
from pathlib import Path

from gateway import machine, memory_plan
from gateway.chat.choice import load_chat_template
from gateway.chat.formats import ChatFormat
from gateway.model_source import ModelSource, resolve
from gateway.settings import Settings
from shared.config import WorkerConfig
from shared.errors import UsageError

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be started.

    Attributes:
        model_id: the model's name, as clients say and see it.
        file_name: what the model file is called where it came from.
        worker: what every worker gets.
        workers: how many workers.
        family: architecture and quantisation, for the summary.
        weight_bytes: the weights, which all workers share.
        worker_bytes: the most that each worker adds, with its context full.
        chat_template: the chat format that the settings ask for, if they do.
    """

    model_id: str
    file_name: str
    worker: WorkerConfig
    workers: int
    family: str
    weight_bytes: int
    worker_bytes: int
    chat_template: ChatFormat | None = None

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
    # First, since what follows may be a long download.
    chat_template = load_chat_template(settings.chat_template)
    if settings.model_type == "echo":
        return replace(_fit_echo(settings), chat_template=chat_template)
    source = resolve(settings.model_name, settings.model_file, settings.model_type)
    path = str(source.file.path)
    if not path.isprintable():
        raise UsageError(f"{path!r}: the path of a model must be printable Unicode")
    return replace(fit(settings, source), chat_template=chat_template)


def fit(settings: Settings, source: ModelSource) -> Plan:
    """Fit a model into this machine.

    Args:
        settings: what was asked for.
        source: the model.

    Raises:
        UsageError: what was asked for is more than the model or the memory allows.
    """
    file = source.file
    tokenizer = _tokenizer(settings, source)
    memory = machine.available_memory()
    n_ctx = settings.context_length or memory_plan.default_n_ctx(file, memory)
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
    cores = machine.usable_cores()
    fitting = memory_plan.fitting_workers(file, n_ctx, memory)
    workers = settings.workers or max(1, min(cores, fitting))
    if workers > fitting:
        raise UsageError(
            f"{workers} workers with a context of {n_ctx} tokens need"
            f" {(weight_bytes + workers * worker_bytes) // _MIB} MiB of"
            f" memory, and {(memory or 0) // _MIB} MiB are free; lower WORKERS or CONTEXT_LENGTH"
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
    )
    family = f"{file.family.value}, {file.quantisation}"
    return Plan(source.name, source.file_name, worker, workers, family, weight_bytes, worker_bytes)


def _fit_echo(settings: Settings) -> Plan:
    cores = machine.usable_cores()
    worker = WorkerConfig(
        engine="echo",
        n_ctx=settings.context_length,
        threads=settings.threads or cores,
        log_level=settings.log_level.upper(),
        echo_delay_ms=settings.echo_delay_ms,
    )
    name, workers = settings.model_name or "echo", settings.workers or cores
    return Plan(name, "", worker, workers, "echo (no model)", 0, memory_plan.WORKER_BYTES)


def _tokenizer(settings: Settings, source: ModelSource) -> Path | None:
    if settings.tokenizer is None:
        return source.tokenizer
    path = Path(settings.tokenizer).expanduser()
    if not path.is_file():
        raise UsageError(f"TOKENIZER={settings.tokenizer}: no such file; name a tokenizer.json")
    return path
