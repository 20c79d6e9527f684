"""Every setting of the server, and the only reader of the command line and the environment."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.setting_types import (
    MODEL_TYPES,
    amount,
    auto_or,
    flag,
    host_names,
    model_type,
    one_of,
    origins,
    size,
    size_or_none,
    whole,
)
from shared.errors import UsageError

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("console", "json")
_DAY_S = 86_400


def _setting(parse: Callable[[str], Any], default: Any, metavar: str, help_text: str) -> Any:
    metadata = {"parse": parse, "metavar": metavar, "help": help_text}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """The settings of one run.

    A setting ``max_queue`` is the option ``--max-queue`` and the environment variable
    ``MAX_QUEUE``; the option wins. An empty variable counts as not set.

    Attributes:
        model_name: a model file, a folder or a hub repository id; None takes the demo model.
        model_file: the file within the folder or repository.
        model_type: what the model is expected to be, or ``echo``; None finds out from the file.
        tokenizer: a tokenizer.json, for a model file whose vocabulary does not suffice.
        chat_template: the name of a chat format, or a Jinja file; None leaves it to the model.
        workers: how many generations may run at the same time; None chooses by cores and memory.
        parked: how many more worker processes keep conversations in their KV caches; None chooses
            by memory.
        warm_prompt: text, or a file, that every worker is born with in its KV cache.
        threads: threads for evaluation in all, shared by the workers that run; None takes the
            usable cores.
        host: address to listen on.
        port: TCP port to listen on; 0 lets the system choose.
        context_length: tokens of prompt and completion together; None chooses by the model.
        max_queue: the most generations that wait for a worker; 0 for none.
        log_level: one of `LOG_LEVELS`.
        max_body_bytes: the longest request body that is read.
        drain_timeout: seconds that running requests get to finish after SIGTERM or SIGINT; 0 for
            none.
        max_queue_seconds: the longest that a generation may be expected to wait; 0 for no bound.
        queue_timeout: seconds that a generation may wait for a worker; 0 for no bound.
        request_timeout: seconds that a request may take in all; 0 for no bound.
        receive_timeout: seconds in which the whole of a request must have arrived; 0 for no bound.
        send_timeout: seconds that a client may read nothing; 0 for no bound. One for whom more is
            kept than its system takes counts as reading when that makes room for a further
            segment, which may be as much as 64 KiB: who reads less in that time is cut off, too.
        keep_alive_timeout: seconds that a connection may be idle between two requests; 0 ends each
            with its first answer.
        max_connections: the most connections; None chooses by the limit on open files.
        max_header_bytes: the longest request line and headers together.
        start_timeout: seconds in which a worker must have loaded its model; 0 for no bound.
        stall_timeout: seconds without progress after which a worker is replaced; 0 for no bound,
            None learns from the model's speed.
        max_worker_memory: bytes of private memory beyond which a worker is replaced; None, which is
            written 0, for no bound.
        min_free_memory: bytes of free memory below which nothing new is taken; 0 for no bound.
        api_keys: who may use the server: keys, or ``@`` and a file of them; None for everybody.
        admin_key: the key for ``/admin``; None for nobody.
        key_requests_per_minute: of each key; 0 for no bound, as for the two that follow.
        key_tokens_per_minute: of each key, prompts and completions together.
        key_concurrent_requests: of each key.
        cors_origins: of web pages that may use the server, besides those of this machine.
        allowed_hosts: further names of this server, where it listens on this machine only.
        ssl_certfile: a certificate in PEM format, with its chain; None for no TLS.
        ssl_keyfile: its private key; None if that is in the same file.
        ssl_keyfile_password: of that key.
        log_format: one of `LOG_FORMATS`.
        log_prompts: whether prompts and completions are logged.
        otel: whether a span of each request is exported, as OpenTelemetry's variables say.
        ct_lib: the engine's library: a file, or a variant of ctransformers' wheels; None takes a
            native build if there is one.
        echo_delay_ms: how long the echo engine takes for each token.
    """

    model_name: str | None = _setting(
        str, None, "NAME", "a model file, a folder or a hub repository (default: a demo model)"
    )
    model_file: str | None = _setting(
        str, None, "FILE", "which file of the folder or repository, where there are several"
    )
    model_type: str | None = _setting(
        model_type, None, "TYPE", f"one of: {', '.join(MODEL_TYPES)} (default: see file)"
    )
    tokenizer: str | None = _setting(
        str, None, "FILE", "a tokenizer.json (default: beside the model, else from its vocabulary)"
    )
    chat_template: str | None = _setting(
        str, None, "NAME|FILE", "a chat format, or a Jinja file (default: the model's own)"
    )
    workers: int | None = _setting(
        auto_or(whole(1, 1024)), None, "N|auto", "worker processes: generations at the same time"
    )
    parked: int | None = _setting(
        auto_or(whole(0, 256)),
        None,
        "N|auto",
        "further processes, for the conversations in their caches (default: by memory, at most 16)",
    )
    warm_prompt: str | None = _setting(
        str, None, "TEXT|FILE", "evaluated once, for all workers; in chats, the system message"
    )
    threads: int | None = _setting(
        auto_or(whole(1, 256)), None, "N|auto", "threads in all, shared by the workers that run"
    )
    host: str = _setting(str, "127.0.0.1", "ADDRESS", "address to listen on")
    port: int = _setting(whole(0, 65535), 8000, "PORT", "port to listen on")
    context_length: int | None = _setting(
        whole(8, 1 << 20), None, "TOKENS", "prompt and completion together (default: see model)"
    )
    max_queue: int = _setting(
        whole(0, 1_000_000), 64, "N", "generations that may wait; beyond that clients get 429"
    )
    log_level: str = _setting(
        one_of(LOG_LEVELS), "info", "LEVEL", f"one of: {', '.join(LOG_LEVELS)}"
    )
    max_body_bytes: int = _setting(
        whole(1024, 1 << 30), 2 << 20, "BYTES", "longest request body; beyond that 413"
    )
    drain_timeout: float = _setting(
        amount(_DAY_S, "seconds"),
        30.0,
        "SECONDS",
        "time for running requests to finish at shutdown",
    )
    max_queue_seconds: float = _setting(
        amount(_DAY_S, "seconds"), 300.0, "SECONDS", "expected waiting time beyond that is a 429"
    )
    queue_timeout: float = _setting(
        amount(_DAY_S, "seconds"), 300.0, "SECONDS", "longest wait for a worker; beyond that 503"
    )
    request_timeout: float = _setting(
        amount(_DAY_S, "seconds"), 3600.0, "SECONDS", "longest request in all; beyond that 504"
    )
    receive_timeout: float = _setting(
        amount(_DAY_S, "seconds"), 60.0, "SECONDS", "time for a whole request to arrive"
    )
    send_timeout: float = _setting(
        amount(_DAY_S, "seconds"), 60.0, "SECONDS", "time that a client may read nothing"
    )
    keep_alive_timeout: float = _setting(
        amount(_DAY_S, "seconds"), 65.0, "SECONDS", "idle time between requests of a connection"
    )
    max_connections: int | None = _setting(
        auto_or(whole(1, 1_000_000)), None, "N|auto", "open connections; beyond that 503"
    )
    max_header_bytes: int = _setting(
        whole(1024, 1 << 24), 64 << 10, "BYTES", "request line and headers; beyond that 431"
    )
    start_timeout: float = _setting(
        amount(_DAY_S, "seconds"), 600.0, "SECONDS", "time for the model to load"
    )
    stall_timeout: float | None = _setting(
        auto_or(amount(_DAY_S, "seconds")),
        None,
        "SECONDS|auto",
        "time a worker may make no progress",
    )
    max_worker_memory: int | None = _setting(
        size_or_none, None, "SIZE", "private memory of a worker; one that takes more is replaced"
    )
    min_free_memory: int = _setting(
        size, 256 << 20, "SIZE", "free memory; while there is less, requests get 503"
    )
    api_keys: str | None = _setting(
        str, None, "KEYS|@FILE", "keys, as name:key or key, with commas between; or a file of them"
    )
    admin_key: str | None = _setting(str, None, "KEY", "key for /admin (default: no /admin)")
    key_requests_per_minute: int = _setting(
        whole(0, 1 << 31), 0, "N", "requests per minute and key; 0 for no limit"
    )
    key_tokens_per_minute: int = _setting(
        whole(0, 1 << 31), 0, "N", "tokens per minute and key; 0 for no limit"
    )
    key_concurrent_requests: int = _setting(
        whole(0, 1 << 31), 0, "N", "requests at the same time per key; 0 for no limit"
    )
    cors_origins: tuple[str, ...] = _setting(
        origins, (), "ORIGINS", "web pages that may use the server, besides local ones; or *"
    )
    allowed_hosts: tuple[str, ...] = _setting(
        host_names, (), "NAMES", "names of this server, besides localhost, on a loopback address"
    )
    ssl_certfile: str | None = _setting(str, None, "FILE", "certificate for TLS, PEM")
    ssl_keyfile: str | None = _setting(str, None, "FILE", "private key for TLS, PEM")
    ssl_keyfile_password: str | None = _setting(str, None, "PASSWORD", "of the private key")
    log_format: str = _setting(
        one_of(LOG_FORMATS), "console", "FORMAT", f"one of: {', '.join(LOG_FORMATS)}"
    )
    log_prompts: bool = _setting(flag, False, "0|1", "whether prompts and completions are logged")
    otel: bool = _setting(flag, False, "0|1", "whether OpenTelemetry spans are exported")
    ct_lib: str | None = _setting(
        str, None, "NAME|FILE", "the engine's library: avx2, avx, basic or a file (default: native)"
    )
    echo_delay_ms: float = _setting(
        amount(60_000, "milliseconds"), 0.0, "MS", "MODEL_TYPE=echo only: time for each token"
    )

    @classmethod
    def load(cls, arguments: Sequence[str], environment: Mapping[str, str]) -> "Settings":
        """Read the command line and the environment.

        Raises:
            UsageError: a value is not allowed; the text names the setting and what is allowed.
            SystemExit: ``--help``, or an option that does not exist (status 2).
        """
        given = vars(_parser().parse_args(arguments))
        values = {}
        for field in dataclasses.fields(cls):
            source, text = f"--{field.name.replace('_', '-')}", given[field.name]
            if text is None:
                source, text = field.name.upper(), environment.get(field.name.upper())
            if text is None or text == "":
                continue
            try:
                values[field.name] = field.metadata["parse"](text)
            except ValueError as error:
                raise UsageError(f"{source}={text!r} is not allowed; it must be {error}") from None
        return cls(**values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ggml-fastapi",
        description="Serve a GGML/GGUF language model on CPU cores, with an OpenAI-style API.",
        epilog="Each option is an environment variable too, e.g. MAX_QUEUE for --max-queue;"
        " an option wins over the environment.",
        allow_abbrev=False,
    )
    for field in dataclasses.fields(Settings):
        default = "" if field.default in (None, ()) else f" (default: {field.default})"
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            metavar=field.metadata["metavar"],
            help=field.metadata["help"] + default,
        )
    return parser
