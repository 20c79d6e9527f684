"""Every setting of the server: an option, a variable, and a row of docs/settings.md."""

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from shared.errors import UsageError
from shared.model.description import Family, family_named

_PORTS = {"http": 80, "https": 443}
_UNITS = ("", "k", "m", "g", "t")
_FLAGS = {"1": True, "true": True, "yes": True, "on": True,
          "0": False, "false": False, "no": False, "off": False}  # fmt: skip
_TYPES = (*(family.value for family in Family), "gguf", "echo")


class Kind(NamedTuple):
    """What the value of a setting may be."""

    metavar: str
    #: Ends the sentence "it must be ...".
    allowed: str
    #: Raises `ValueError` or `KeyError` for a text that is not allowed.
    parse: Callable[[str], Any]


def _text(metavar: str) -> Kind:
    return Kind(metavar, "a text", str)


def _number(metavar: str, allowed: str, high: float, cast: type, low: float = 0) -> Kind:
    def parse(text: str) -> Any:
        if not low <= (value := cast(text)) <= high:
            raise ValueError
        return value

    return Kind(metavar, f"{allowed} from {low} to {high}", parse)


def _whole(low: int, high: int, metavar: str = "N") -> Kind:
    return _number(metavar, "a whole number", high, int, low)


def _auto_or(kind: Kind) -> Kind:
    """``auto`` is None."""
    return Kind(
        f"{kind.metavar}|auto",
        f"auto, or {kind.allowed}",
        lambda text: None if text == "auto" else kind.parse(text),
    )


def _one_of(metavar: str, *words: str) -> Kind:
    allowed = f"one of: {', '.join(words)}"
    return Kind(metavar, allowed, lambda text: words[words.index(text.lower())])


def _size(text: str) -> int:
    lower = text.strip().lower().removesuffix("b").removesuffix("i")
    digits = lower.rstrip("kmgt")
    if not (digits.isascii() and digits.isdecimal()):
        raise ValueError
    return int(digits) << 10 * _UNITS.index(lower[len(digits) :])


def _model_type(text: str) -> str:
    if text.lower() != "echo":
        try:
            family_named(text)
        except UsageError as error:
            raise ValueError from error
    return text.lower()


def _listed(text: str) -> Iterator[str]:
    return (part.strip().lower() for part in text.split(",") if part.strip())


def _origins(text: str) -> tuple[str, ...]:
    """As browsers send them: without the scheme's default port."""
    found = []
    for origin in _listed(text):
        parts = urlsplit(origin)
        if origin != "*" and (origin != f"{parts.scheme}://{parts.netloc}" or not parts.netloc):
            raise ValueError
        found.append(origin.removesuffix(f":{_PORTS.get(parts.scheme)}"))
    return tuple(found)


def _host_names(text: str) -> tuple[str, ...]:
    found = tuple(part.removesuffix(".") for part in _listed(text))
    if any(not name or set(name) & set("/ @") or name.count(":") == 1 for name in found):
        raise ValueError
    return found


_FILE = _text("FILE")
_SECONDS = _number("SECONDS", "a number of seconds", 86_400, float)
_LIMIT = _whole(0, 1 << 31)
_SIZE = Kind("SIZE", "a size like 512M or 2G, or a number of bytes", _size)
_SIZE_OR_NONE = _SIZE._replace(parse=lambda text: _size(text) or None)
_FLAG = Kind("0|1", "1 or 0", lambda text: _FLAGS[text.strip().lower()])
_MODEL_TYPE = Kind("TYPE", f"one of: {', '.join(_TYPES)}", _model_type)
_ORIGINS = Kind(
    "ORIGINS",
    "origins like https://example.org, without a path, with commas between; or *",
    _origins,
)
_HOST_NAMES = Kind(
    "NAMES", "names of hosts, without http:// and port, with commas between", _host_names
)


def _setting(default: Any, kind: Kind, about: str, group: str = "") -> Any:
    """A setting; ``group`` is the heading of it and of those that follow."""
    metadata = {"kind": kind, "help": about, "group": group}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """The settings of one run.

    A setting ``max_queue`` is the option ``--max-queue`` and the environment variable
    ``MAX_QUEUE``; the option wins. An empty variable counts as not set.
    """

    # fmt: off

    model_name: str | None = _setting(None, _text("NAME"),
        "a model file, a folder or a hub repository (owner/name, owner/name:Q8_0); without it the"
        " demo model", "The model")
    model_file: str | None = _setting(None, _FILE,
        "which file of the folder or repository, where there are several")
    model_type: str | None = _setting(None, _MODEL_TYPE,
        f"what the file must be: {', '.join(_TYPES[:-1])}; or echo, which needs no file")
    tokenizer: str | None = _setting(None, _FILE,
        "a tokenizer.json; without it the one beside the model, else the file's own")
    chat_template: str | None = _setting(None, _text("NAME|FILE"),
        "a chat format or a Jinja file; without it the model's own")
    context_length: int | None = _setting(None, _whole(8, 1 << 20, "TOKENS"),
        "prompt and completion together; without it the model's own, up to 8192 (ctransformers:"
        " 4096) and to what fits")
    workers: int | None = _setting(None, _auto_or(_whole(1, 1024)),
        "worker processes that run at the same time; auto: by cores and memory")
    parked: int | None = _setting(None, _auto_or(_whole(0, 256)),
        "further processes, to keep conversations in their KV caches; auto: 0, with ctransformers"
        " up to 16, by memory")
    threads: int | None = _setting(None, _auto_or(_whole(1, 256)),
        "threads in all, shared by the workers that run")
    warm_prompt: str | None = _setting(None, _text("TEXT|FILE"),
        "evaluated once, for all workers; in chats the system message")
    engine: str = _setting("auto", _one_of("NAME", "auto", "llamacpp", "ctransformers"),
        "what evaluates the model; auto: llama.cpp GGUF files, ctransformers all others")
    ct_lib: str | None = _setting(None, _text("NAME|FILE"),
        "ctransformers' library: avx2, avx, basic or a file; without it a native build, if any")
    llama_lib: str | None = _setting(None, _text("FILE[@VERSION]"),
        "another build of llama.cpp's library; without it that of the package xllamacpp")
    cache_type: str = _setting("f16", _one_of("TYPE", "f16", "q8_0"),
        "numbers in llama.cpp's KV cache: f16, or q8_0 in half the memory")
    lora: str | None = _setting(None, _text("FILE[:SCALE],..."),
        "adapters for llama.cpp, GGUF files; without a scale 1")
    echo_delay_ms: float = _setting(0.0, _number("MS", "a number of milliseconds", 60_000, float),
        "time that MODEL_TYPE=echo takes for each token")
    slots: int | None = _setting(None, _auto_or(_whole(1, 64)),
        "generations that a worker evaluates together; auto: 8 with llama.cpp, 16 where it was"
        " measured that one worker is best, 4 with MODEL_TYPE=echo; ctransformers has one")
    prefix_cache: int | None = _setting(None, _auto_or(_SIZE),
        "memory for conversations that workers have no room for, or that another worker has, with"
        " llama.cpp; auto: a tenth of the free memory, none with EXACT=1; 0 for none")

    exact: bool = _setting(False, _FLAG,
        "1 makes texts of llama.cpp independent of what else runs, which takes memory and speed")

    host: str = _setting("127.0.0.1", _text("ADDRESS"), "address to listen on", "The server")
    port: int = _setting(8000, _whole(0, 65535, "PORT"), "port to listen on; 0 takes a free one")
    ssl_certfile: str | None = _setting(None, _FILE, "certificate for https, with its chain, PEM")
    ssl_keyfile: str | None = _setting(None, _FILE,
        "its private key, PEM; without it in the same file")
    ssl_keyfile_password: str | None = _setting(None, _text("PASSWORD"), "of the private key")
    log_level: str = _setting("info", _one_of("LEVEL", "debug", "info", "warning", "error"),
        "debug, info, warning or error")
    log_format: str = _setting("console", _one_of("FORMAT", "console", "json"), "console or json")
    log_prompts: bool = _setting(False, _FLAG, "1 logs prompts and completions")
    otel: bool = _setting(False, _FLAG, "1 exports OpenTelemetry spans")

    max_queue: int = _setting(64, _whole(0, 1_000_000),
        "generations that may wait for a worker; beyond that 429",
        "Limits; 0 is no limit, unless the text says otherwise")
    max_queue_seconds: float = _setting(300.0, _SECONDS,
        "a generation that is expected to wait longer gets 429")
    queue_timeout: float = _setting(300.0, _SECONDS,
        "a generation that has waited so long for a worker gets 503")
    request_timeout: float = _setting(3600.0, _SECONDS,
        "a request that takes longer gets 504, or an error event")
    receive_timeout: float = _setting(60.0, _SECONDS,
        "a request whose headers and body take longer to arrive gets 408")
    send_timeout: float = _setting(60.0, _SECONDS,
        "a client that takes nothing of its answer for so long is disconnected")
    keep_alive_timeout: float = _setting(65.0, _SECONDS,
        "idle time between two requests of a connection; 0 closes after each answer")
    drain_timeout: float = _setting(30.0, _SECONDS,
        "time to finish running requests at shutdown; 0 for none")
    start_timeout: float = _setting(600.0, _SECONDS, "time for the model to load")
    stall_timeout: float | None = _setting(None, _auto_or(_SECONDS),
        "a worker that makes no progress for so long is replaced; auto: by the model's speed")
    max_connections: int | None = _setting(None, _auto_or(_whole(1, 1_000_000)),
        "open connections, beyond that 503; auto: by the limit on open files")
    max_header_bytes: int = _setting(64 << 10, _whole(1024, 1 << 24, "BYTES"),
        "request line and headers; beyond that 431")
    max_body_bytes: int = _setting(2 << 20, _whole(1024, 1 << 30, "BYTES"),
        "request body; beyond that 413")
    max_worker_memory: int | None = _setting(None, _SIZE_OR_NONE,
        "a worker that takes more private memory is replaced")
    min_free_memory: int = _setting(256 << 20, _SIZE, "while less memory is free, requests get 503")

    api_keys: str | None = _setting(None, _text("KEYS|@FILE"),
        "keys, as name:key or key, with commas between; or @ and a file, one key to a line",
        "Who may use it")
    admin_key: str | None = _setting(None, _text("KEY"),
        "the key for /admin; without it there is no such address")
    key_requests_per_minute: int = _setting(0, _LIMIT, "of each key; 0 is no limit")
    key_tokens_per_minute: int = _setting(0, _LIMIT,
        "of each key, prompts and completions together; 0 is no limit")
    key_concurrent_requests: int = _setting(0, _LIMIT, "of each key; 0 is no limit")
    cors_origins: tuple[str, ...] = _setting((), _ORIGINS,
        "web pages that may use the server, besides those of this machine; or *")
    allowed_hosts: tuple[str, ...] = _setting((), _HOST_NAMES,
        "names of this server, besides localhost, where it listens on a loopback address")
    # fmt: on

    @classmethod
    def load(cls, arguments: Sequence[str], environment: Mapping[str, str]) -> "Settings":
        """Read the command line and the environment.

        Raises:
            UsageError: a value is not allowed; the text names the setting and what is allowed.
            SystemExit: ``--help``, or an option that does not exist (status 2).
        """
        options = vars(_parser().parse_args(arguments))
        values = {}
        for field in dataclasses.fields(cls):
            name, kind = field.name, field.metadata["kind"]
            source, text = _option(name), options[name]
            if text is None:
                source, text = name.upper(), environment.get(name.upper())
            if not text:
                continue
            try:
                values[name] = kind.parse(text)
            except (ValueError, KeyError):
                raise UsageError(
                    f"{source}={text!r} is not allowed; it must be {kind.allowed}"
                ) from None
        return cls(**values)


def default_text(field: "dataclasses.Field[Any]") -> str:
    """The default as one would write it; empty if it is not to be written."""
    kind: Kind = field.metadata["kind"]
    default: Any = field.default
    if default in (None, ()):
        return "auto" if kind.metavar.endswith("|auto") else ""
    if kind.metavar == "SIZE":
        return f"{default >> 20}M"
    if isinstance(default, str):
        return default
    return f"{default:g}" if isinstance(default, float) else str(int(default))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ggml-fastapi",
        description="Serve a GGML/GGUF language model on CPU cores, with an OpenAI-style API.",
        epilog="Each option is an environment variable too, e.g. MAX_QUEUE for --max-queue;"
        " an option wins over the environment.",
        allow_abbrev=False,
    )
    group: Any = parser
    for field in dataclasses.fields(Settings):
        if field.metadata["group"]:
            group = parser.add_argument_group(field.metadata["group"])
        default = f" (default: {text})" if (text := default_text(field)) else ""
        group.add_argument(
            _option(field.name),
            metavar=field.metadata["kind"].metavar,
            help=field.metadata["help"] + default,
        )
    return parser
