"""The one encoding of messages.

On the wire a message is one line of JSON. JSON holds no raw newline, so a reader that got half a
message keeps it and waits, and a worker that died in the middle of one cannot be misread.
"""

import base64
from array import array
from collections.abc import Sequence
from typing import Any

import orjson

from shared.grammar import Grammar
from shared.logprobs import token_logprobs
from shared.messages import (
    Cancel,
    Chat,
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
    Prepare,
    Prepared,
    Progress,
    Ready,
    Save,
    Saved,
    SetThreads,
    Shutdown,
    Text,
    Warm,
    Warmed,
)
from shared.sampling import SamplingParams
from shared.saved_prefix import Region, SavedPrefix

_TYPES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        Prepare, Detokenize, Generate, Save, Cancel, SetThreads, Shutdown,
        Ready, LoadFailed, Progress, Prepared, Prefilled, Delta, Finished, Failed, Saved,
        Warm, Fork, Warmed, Forked, Ended,
    )
}  # fmt: skip

# Messages with token ids: on the wire Base64 of 32-bit integers, little-endian, which for a long
# prompt takes a third of the time and of the bytes that a list of numbers does.
_WITH_IDS = {"Detokenize", "Generate", "Prepared", "Finished", "Warmed"}
# Other fields that JSON makes lists of.
_TUPLES = {"Generate": ("stop", "stop_ids"), "Prepared": ("pieces", "stop")}

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


def pack(ids: Sequence[int]) -> str:
    """Token ids as text."""
    return base64.b64encode(array("i", ids).tobytes()).decode("ascii")


def unpack(text: str) -> tuple[int, ...]:
    """The ids that `pack` has made text of."""
    return tuple(array("i", base64.b64decode(text)))


def _prompt(fields: dict[str, Any] | None) -> Chat | Text | None:
    if fields is None:
        return None
    if "messages" in fields:
        return Chat(tuple(fields["messages"]), tuple(fields["tools"]))
    return Text(**fields)


def encode(message: Message) -> bytes:
    r"""Encode a message as one line of JSON, without the ``\n`` that ends it on a pipe."""
    if type(message) is Delta and not message.logprobs:
        request_id, text = orjson.dumps(message.request_id), orjson.dumps(message.text)
        return _DELTA % (request_id, text, message.tokens)
    name = type(message).__name__
    if name in _WITH_IDS:
        # Only what is no dataclass can be changed before it is encoded.
        fields = {key: getattr(message, key) for key in message.__match_args__}
        fields["ids"] = pack(fields["ids"])
        return orjson.dumps((name, fields), tuple)
    # It takes plain tuples only, and asks what to make of named ones.
    return orjson.dumps((name, message), tuple)


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
        if name in _WITH_IDS:
            fields["ids"] = unpack(fields["ids"])
        if name in ("Generate", "Prepare") and fields["grammar"] is not None:
            fields["grammar"] = Grammar(**fields["grammar"])
        if name in ("Save", "Saved"):
            fields["region"] = Region(**fields["region"])
        elif name == "Generate":
            if (saved := fields["saved"]) is not None:
                fields["saved"] = SavedPrefix(Region(**saved["region"]), saved["n_tokens"])
            sampling = fields["sampling"]
            sampling["logit_bias"] = tuple((token, bias) for token, bias in sampling["logit_bias"])
            fields["sampling"] = SamplingParams(**sampling)
        elif name == "Prepare":
            fields["prompt"] = _prompt(fields["prompt"])
        elif name == "Prefilled":
            fields["echo_logprobs"] = token_logprobs(fields["echo_logprobs"])
        elif name == "Ready":
            model = fields["model"]
            model["fim_tokens"] = model["fim_tokens"] and tuple(model["fim_tokens"])
            fields["model"] = ModelInfo(**model)
        return _TYPES[name](**fields)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        # Without the line itself: text of clients does not belong into the log.
        raise ValueError(f"not a message, {len(line)} bytes: {error}") from error
