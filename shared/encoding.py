"""The one encoding of messages.

On the wire a message is one line of JSON. JSON holds no raw newline, so a reader that got half a
message keeps it and waits, and a worker that died in the middle of one cannot be misread.
"""

from typing import Any

import orjson

from shared.grammar import Grammar
from shared.logprobs import token_logprobs
from shared.messages import (
    Cancel,
    Delta,
    Detokenize,
    Ended,
    Failed,
    Finished,
    Fork,
    Forked,
    Generate,
    LoadFailed,
    Message,
    ModelInfo,
    Prefilled,
    Progress,
    Ready,
    SetThreads,
    Shutdown,
    Tokenize,
    Tokens,
    Warm,
    Warmed,
)
from shared.sampling import SamplingParams

_TYPES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        Generate, Tokenize, Detokenize, Cancel, SetThreads, Shutdown,
        Ready, LoadFailed, Progress, Prefilled, Delta, Finished, Failed, Tokens,
        Warm, Fork, Warmed, Forked, Ended,
    )
}  # fmt: skip

# Fields of a message that JSON makes lists of.
_TUPLES = {
    "Generate": ("prompt", "stop", "prompt_ids", "stop_ids"),
    "Tokenize": ("prompt",),
    "Detokenize": ("ids",),
    "Tokens": ("ids", "texts"),
}

# There is a `Delta` for each token and next to nothing else: what frozen dataclasses and orjson do
# for messages of any kind takes twice as long.
_DELTA = b'["Delta",{"request_id":%b,"text":%b,"tokens":%d,"logprobs":[]}]'
_new: Any = object.__new__
_set_request_id, _set_text, _set_tokens, _set_logprobs = (
    getattr(Delta, name).__set__ for name in Delta.__match_args__
)


def _delta(request_id: str, text: str, tokens: int, logprobs: Any = ()) -> Delta:
    delta: Delta = _new(Delta)
    _set_request_id(delta, request_id)
    _set_text(delta, text)
    _set_tokens(delta, tokens)
    _set_logprobs(delta, token_logprobs(logprobs) if logprobs else ())
    return delta


def encode(message: Message) -> bytes:
    r"""Encode a message as one line of JSON, without the ``\n`` that ends it on a pipe."""
    if type(message) is Delta and not message.logprobs:
        request_id, text = orjson.dumps(message.request_id), orjson.dumps(message.text)
        return _DELTA % (request_id, text, message.tokens)
    # It takes plain tuples only, and asks what to make of named ones.
    return orjson.dumps((type(message).__name__, message), tuple)


def decode(line: bytes) -> Any:
    """Decode one line made by `encode` to a `Message`.

    Raises:
        ValueError: the line is not such a message.
    """
    try:
        name, fields = orjson.loads(line)
        if name == "Delta":
            return _delta(**fields)
        for key in _TUPLES.get(name, ()):
            fields[key] = tuple(fields[key])
        if name == "Generate":
            sampling = fields["sampling"]
            sampling["logit_bias"] = tuple((token, bias) for token, bias in sampling["logit_bias"])
            fields["sampling"] = SamplingParams(**sampling)
            if fields["grammar"] is not None:
                fields["grammar"] = Grammar(**fields["grammar"])
        elif name == "Warm":
            fields["prompts"] = tuple(map(tuple, fields["prompts"]))
        elif name == "Prefilled":
            fields["echo_logprobs"] = token_logprobs(fields["echo_logprobs"])
        elif name == "Ready":
            model = fields["model"]
            model["special_tokens"] = tuple(model["special_tokens"])
            model["fim_tokens"] = model["fim_tokens"] and tuple(model["fim_tokens"])
            fields["model"] = ModelInfo(**model)
        return _TYPES[name](**fields)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        # Without the line itself: text of clients does not belong into the log.
        raise ValueError(f"not a message, {len(line)} bytes: {error}") from error
