"""Every setting of the server, and the only reader of the command line and the environment."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import UsageError
from shared.model_file import Family
from shared.model_names import family_named

MODEL_TYPES = (*(family.value for family in Family), "gguf", "echo")
"""The names of `MODEL_TYPE`; `shared.model_names` knows further spellings."""
LOG_LEVELS = ("debug", "info", "warning", "error")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return parse


def _whole_or_auto(low: int, high: int) -> Callable[[str], int | None]:
    whole = _whole(low, high)

    def parse(text: str) -> int | None:
        if text == "auto":
            return None
        try:
            return whole(text)
        except ValueError as error:
            raise ValueError(f"auto, or {error}") from None

    return parse


def _amount(high: float, unit: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0.0 <= value <= high:
            raise ValueError(f"a number of {unit} from 0 to {high:g}")
        return value

    return parse


def _one_of(allowed: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"one of: {', '.join(allowed)}")
        return text.lower()

    return parse


def _model_type(text: str) -> str:
    if text.lower() != "echo":
        try:
            family_named(text)
        except UsageError:
            raise ValueError(f"one of: {', '.join(MODEL_TYPES)}") from None
    return text.lower()


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
        max_queue: the most generations that wait for a worker.
        log_level: one of `LOG_LEVELS`.
        max_body_bytes: the longest request body that is read.
        drain_timeout: seconds that running requests get to finish after SIGTERM or SIGINT.
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
        _model_type, None, "TYPE", f"one of: {', '.join(MODEL_TYPES)} (default: see file)"
    )
    tokenizer: str | None = _setting(
        str, None, "FILE", "a tokenizer.json (default: beside the model, else from its vocabulary)"
    )
    chat_template: str | None = _setting(
        str, None, "NAME|FILE", "a chat format, or a Jinja file (default: the model's own)"
    )
    workers: int | None = _setting(
        _whole_or_auto(1, 1024), None, "N|auto", "worker processes: generations at the same time"
    )
    parked: int | None = _setting(
        _whole_or_auto(0, 256),
        None,
        "N|auto",
        "further processes, for the conversations in their caches (default: by memory, at most 16)",
    )
    warm_prompt: str | None = _setting(
        str, None, "TEXT|FILE", "evaluated once, for all workers; in chats, the system message"
    )
    threads: int | None = _setting(
        _whole_or_auto(1, 256), None, "N|auto", "threads in all, shared by the workers that run"
    )
    host: str = _setting(str, "127.0.0.1", "ADDRESS", "address to listen on")
    port: int = _setting(_whole(0, 65535), 8000, "PORT", "port to listen on")
    context_length: int | None = _setting(
        _whole(8, 1 << 20), None, "TOKENS", "prompt and completion together (default: see model)"
    )
    max_queue: int = _setting(
        _whole(0, 1_000_000), 64, "N", "generations that may wait; beyond that clients get 429"
    )
    log_level: str = _setting(
        _one_of(LOG_LEVELS), "info", "LEVEL", f"one of: {', '.join(LOG_LEVELS)}"
    )
    max_body_bytes: int = _setting(
        _whole(1024, 1 << 30), 2 << 20, "BYTES", "longest request body; beyond that 413"
    )
    drain_timeout: float = _setting(
        _amount(86_400, "seconds"),
        30.0,
        "SECONDS",
        "time for running requests to finish at shutdown",
    )
    ct_lib: str | None = _setting(
        str, None, "NAME|FILE", "the engine's library: avx2, avx, basic or a file (default: native)"
    )
    echo_delay_ms: float = _setting(
        _amount(60_000, "milliseconds"), 0.0, "MS", "MODEL_TYPE=echo only: time for each token"
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
        default = "" if field.default is None else f" (default: {field.default})"
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            metavar=field.metadata["metavar"],
            help=field.metadata["help"] + default,
        )
    return parser
