"""Every message between the gateway and a worker, and their one encoding.

Down a worker's queue go commands: `Generate`, `Cancel`, `SetThreads`, `Shutdown`. Up its pipe come
events: `Ready`, `LoadFailed`, `Progress`, `Prefilled`, `Delta`, `Finished`, `Failed`. Every
`Generate` is answered by exactly one terminal event (`Finished` or `Failed`), in the order
``Prefilled, Delta*, terminal``. A template that evaluates a prefix says `Warmed` or `LoadFailed`.

On the wire a message is one line of JSON. JSON holds no raw newline, so a reader that got half a
message keeps it and waits, and a worker that died in the middle of one cannot be misread.
"""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from shared.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Generate:
    """Generate one completion of ``prompt``.

    Attributes:
        request_id: names this generation in every later message about it.
        prompt: plain text and special tokens by turns, plain text first: the parts at odd places
            are texts of special tokens, and no other text becomes one.
        sampling: how tokens are drawn.
        max_tokens: the most tokens to generate; None means up to the end of the context.
        max_tokens_is_default: the client did not choose ``max_tokens``, so what does not fit into
            the context is cut instead of refused.
        stop: generation ends before any of these strings; they are never part of the text.
        trace_id: the HTTP request that it belongs to (``x-request-id``), for the worker's log.
    """

    request_id: str
    prompt: tuple[str, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    max_tokens_is_default: bool = False
    stop: tuple[str, ...] = ()
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop working on ``request_id``; ignored by a worker that is not running it."""

    request_id: str


@dataclass(frozen=True, slots=True)
class SetThreads:
    """Use this many threads from the next evaluation on."""

    threads: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End the worker process."""


Command: TypeAlias = Generate | Cancel | SetThreads | Shutdown


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the gateway needs to know of a loaded model.

    Attributes:
        family: the architecture, e.g. ``llama``.
        n_ctx: context length in tokens, prompt and completion together.
        n_vocab: how many token ids there are.
        max_token_bytes: length of the longest token's text in bytes; a prompt of more than
            ``n_ctx * max_token_bytes`` bytes cannot fit.
        chat_template: the model's own Jinja template, if its file carries one.
        bos_token: text of the begin-of-sequence token, for the template; may be empty.
        eos_token: text of the end-of-sequence token, for the template; may be empty.
        special_tokens: texts of all special tokens.
        fim_tokens: texts of the tokens before the prefix, the suffix and the middle of a text to
            be filled in; None if the model has not learned that.
        can_rewind: whether a KV cache can be cut back to a part of what it holds.
    """

    family: str
    n_ctx: int
    n_vocab: int
    max_token_bytes: int
    chat_template: str | None = None
    bos_token: str = ""
    eos_token: str = ""
    special_tokens: tuple[str, ...] = ()
    fim_tokens: tuple[str, str, str] | None = None
    can_rewind: bool = True


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has its model and waits for work."""

    model: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The worker has no model and ends; ``reason`` is for the operator."""

    reason: str


@dataclass(frozen=True, slots=True)
class Warmed:
    """A template has ``prefix_tokens`` tokens in its KV cache, and so will have its forks."""

    prefix_tokens: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A generation goes on, though there is nothing to tell: sent now and then between its events.

    Not an event of the generation: no consumer sees it.
    """

    request_id: str


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt has been evaluated.

    Attributes:
        request_id: which generation.
        prompt_tokens: tokens in the prompt.
        cached_tokens: how many of them were still in the KV cache.
        prefill_ms: how long the others took.
    """

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    prefill_ms: float


@dataclass(frozen=True, slots=True)
class Delta:
    """A further piece of text, never empty, made of whole characters.

    Attributes:
        request_id: which generation.
        text: the piece.
        tokens: how many tokens were generated since the last `Delta`.
    """

    request_id: str
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A generation has ended as it should.

    Attributes:
        request_id: which generation.
        finish_reason: ``stop`` (end of generation, or a stop string), ``length`` (``max_tokens``
            or the context ended) or ``cancelled``.
        completion_tokens: how many tokens were generated, the end-of-generation token not counted.
        decode_ms: time from the end of the prefill to here.
    """

    request_id: str
    finish_reason: str
    completion_tokens: int
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A generation has ended without success.

    Attributes:
        request_id: which generation.
        code: an `ErrorCode` value.
        message: for the client: what was wrong and what would be right.
        param: the field of `Generate` at fault, if it is one.
    """

    request_id: str
    code: str
    message: str
    param: str | None = None


Lifecycle: TypeAlias = Ready | LoadFailed | Warmed | Progress
Event: TypeAlias = Prefilled | Delta | Finished | Failed
Message: TypeAlias = Command | Lifecycle | Event

_TYPES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        Generate, Cancel, SetThreads, Shutdown,
        Ready, LoadFailed, Warmed, Progress, Prefilled, Delta, Finished, Failed,
    )
}  # fmt: skip


# There is a `Delta` for each token and next to nothing else: what frozen dataclasses and orjson do
# for messages of any kind takes twice as long.
_DELTA = b'["Delta",{"request_id":%b,"text":%b,"tokens":%d}]'
_new: Any = object.__new__
_set_request_id, _set_text, _set_tokens = (
    getattr(Delta, name).__set__ for name in Delta.__match_args__
)


def _delta(request_id: str, text: str, tokens: int) -> Delta:
    delta: Delta = _new(Delta)
    _set_request_id(delta, request_id)
    _set_text(delta, text)
    _set_tokens(delta, tokens)
    return delta


def encode(message: Message) -> bytes:
    r"""Encode a message as one line of JSON, without the ``\n`` that ends it on a pipe."""
    if type(message) is Delta:
        request_id, text = orjson.dumps(message.request_id), orjson.dumps(message.text)
        return _DELTA % (request_id, text, message.tokens)
    return orjson.dumps((type(message).__name__, message))


def decode(line: bytes) -> Any:
    """Decode one line made by `encode` to a `Message`.

    Raises:
        ValueError: the line is not such a message.
    """
    try:
        name, fields = orjson.loads(line)
        if name == "Delta":
            return _delta(**fields)
        if name == "Generate":
            fields["sampling"] = SamplingParams(**fields["sampling"])
            for key in ("prompt", "stop"):
                fields[key] = tuple(fields[key])
        elif name == "Ready":
            model = fields["model"]
            model["special_tokens"] = tuple(model["special_tokens"])
            model["fim_tokens"] = model["fim_tokens"] and tuple(model["fim_tokens"])
            fields["model"] = ModelInfo(**model)
        return _TYPES[name](**fields)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        # Without the line itself: text of clients does not belong into the log.
        raise ValueError(f"not a message, {len(line)} bytes: {error}") from error
