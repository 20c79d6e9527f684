"""What answers of OpenAI's API have in common: usage, log probabilities, how streams end."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from gateway.answer.pieces import Choice, Piece, Usage
from gateway.ask import Ask
from gateway.dialects import EVENT_STREAM, Header, event
from gateway.errors import ApiError, error_body
from shared.logprobs import Candidate, TokenLogprobs

DONE = b"data: [DONE]\n\n"
"""The event that ends every complete stream."""
HOLE = b"\0"
"""Where the text of a chunk belongs. No string in JSON holds a zero byte."""
# A prompt's first token has none; where the format wants a number, this says that it means nothing.
_NONE = -9999.0
# Of tokens whose texts are kept: the likely ones of an answer are few, and come again.
_KEPT = 4096


class PromptTokensDetails(TypedDict):
    """Where prompt tokens came from."""

    cached_tokens: int


class UsageObject(TypedDict):
    """What an answer cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


def usage_object(usage: Usage) -> UsageObject:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


class TopLogprob(TypedDict):
    """A token that might have come, and how likely it was."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token that has come."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """How likely the tokens of an answer, or of a piece of it, were."""

    content: list[TokenLogprob]
    refusal: None


class TextLogprobs(TypedDict):
    """The same of a completion; the places in the lists are the tokens'."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


def chat_logprobs(tokens: Sequence[TokenLogprobs]) -> ChatLogprobs:
    """Those of a chat's answer, or of a piece of it."""
    return {
        "content": [
            {**_top(token.chosen), "top_logprobs": [_top(other) for other in token.top]}
            for token in tokens
        ],
        "refusal": None,
    }


def _top(candidate: Candidate) -> TopLogprob:
    text, numbers = _shown(candidate.raw)
    return {
        "token": text,
        "logprob": _NONE if candidate.logprob is None else candidate.logprob,
        "bytes": None if candidate.is_control else numbers,
    }


@lru_cache(_KEPT)
def _shown(raw: str) -> tuple[str, list[int]]:
    """The text and the bytes of a `Candidate`."""
    content = raw.encode("latin-1")
    return content.decode("utf-8", "replace"), list(content)


class TextLogprobsFold:
    """Those of a completion, piece by piece: where a token begins depends on all before it."""

    def __init__(self) -> None:
        """Begin at the beginning of the text."""
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._n_letters = 0

    def feed(self, tokens: Sequence[TokenLogprobs]) -> TextLogprobs:
        """Those of the next tokens; control tokens are no text."""
        offsets = []
        for token in tokens:
            offsets.append(self._n_letters)
            if not token.chosen.is_control:
                self._n_letters += len(self._decoder.decode(token.chosen.bytes))
        return _columns(tokens, offsets)

    def feed_echo(self, text: str, tokens: Sequence[TokenLogprobs]) -> TextLogprobs:
        """Those of the prompt, where control tokens are text by their names."""
        offsets = []
        for token in tokens:
            offsets.append(self._n_letters)
            self._n_letters += len(self._decoder.decode(token.chosen.bytes))
        # A character that it breaks off is not gone on with. And some tokenizers put a space in
        # front that is not in the text.
        self._n_letters += len(self._decoder.decode(b"", True))
        surplus, self._n_letters = self._n_letters - len(text), len(text)
        return _columns(tokens, [max(0, offset - surplus) for offset in offsets])


def _columns(tokens: Sequence[TokenLogprobs], offsets: list[int]) -> TextLogprobs:
    return {
        "tokens": [_name(token.chosen.raw) for token in tokens],
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [_alternatives(token) for token in tokens],
        "text_offset": offsets,
    }


def joined(pieces: Sequence[TextLogprobs]) -> TextLogprobs:
    """Pieces one after another."""
    return {
        "tokens": [each for piece in pieces for each in piece["tokens"]],
        "token_logprobs": [each for piece in pieces for each in piece["token_logprobs"]],
        "top_logprobs": [each for piece in pieces for each in piece["top_logprobs"]],
        "text_offset": [each for piece in pieces for each in piece["text_offset"]],
    }


def _alternatives(token: TokenLogprobs) -> dict[str, float] | None:
    """The likeliest tokens and the one that has come; None where nothing is known."""
    candidates = (*token.top, token.chosen)
    return {_name(raw): logprob for raw, logprob, _ in candidates if logprob is not None} or None


@lru_cache(_KEPT)
def _name(raw: str) -> str:
    """The text of a `Candidate`; if it is no text, its bytes, as OpenAI writes them."""
    content = raw.encode("latin-1")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


class OpenAiWriter:
    """The part of a writer that chats and completions share."""

    media_type = EVENT_STREAM
    kind: str
    """``object`` of the chunks."""

    def __init__(self, ask: Ask, header: Header) -> None:
        self.tells_logprobs = ask.logprobs is not None
        self.choices = [Choice() for _ in range(len(ask.prompts) * ask.candidates)]
        # For each choice that has begun, what comes before and after a piece of its text: an
        # envelope is made once, and a token costs no more than its own text.
        self.envelopes: dict[int, tuple[bytes, bytes]] = {}
        self._header = header
        self._include_usage = ask.include_usage

    def collect(self, index: int, piece: Piece) -> None:
        self.choices[index].add(piece)

    def end(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return DONE
        return event(self.object(self.kind, [], usage)) + DONE

    def failed(self, error: ApiError) -> bytes:
        return event(error_body(error))

    def chunk(self, choice: Any) -> bytes:
        """The event with a piece of a choice."""
        chunk = self.object(self.kind, [choice])
        if self._include_usage:
            chunk["usage"] = None
        return event(chunk)

    def object(self, kind: str, choices: list[Any], usage: Usage | None = None) -> dict[str, Any]:
        """A chunk, or the whole answer."""
        made = {
            "id": self._header.id,
            "object": kind,
            "created": self._header.created,
            "model": self._header.model,
            "system_fingerprint": self._header.system_fingerprint,
            "choices": choices,
        }
        return made if usage is None else {**made, "usage": usage_object(usage)}
