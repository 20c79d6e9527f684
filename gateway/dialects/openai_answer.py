"""What answers of OpenAI's API have in common: usage, log probabilities, how streams end."""

from abc import ABC, abstractmethod
from codecs import getincrementaldecoder
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import orjson

from gateway.answer.pieces import Choice, Piece, Text, Usage
from gateway.ask import Ask
from gateway.dialects import EVENT_STREAM, Header, event
from gateway.errors import ApiError, error_body
from shared.logprobs import Candidate, TokenLogprobs

Json: TypeAlias = dict[str, Any]
"""An object, or a part of one. tests/golden holds them all against OpenAI's schemas."""
DONE = b"data: [DONE]\n\n"
"""The event that ends every complete stream."""
_HOLE = "\0"  # stands for the text of a chunk
# A prompt's first token has none; where the format wants a number, this says that it means nothing.
_NONE = -9999.0
# Of tokens whose texts are kept: the likely ones of an answer are few, and come again.
_KEPT = 4096


def usage_object(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def chat_logprobs(tokens: Sequence[TokenLogprobs]) -> Json:
    """Those of a chat's answer, or of a piece of it."""
    return {
        "content": [
            {**_top(token.chosen), "top_logprobs": [_top(other) for other in token.top]}
            for token in tokens
        ],
        "refusal": None,
    }


def _top(candidate: Candidate) -> Json:
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

    def feed(self, tokens: Sequence[TokenLogprobs]) -> Json:
        """Those of the next tokens; control tokens are no text."""
        return _columns(tokens, self._offsets(tokens, shows_control=False))

    def feed_echo(self, text: str, tokens: Sequence[TokenLogprobs]) -> Json:
        """Those of the prompt, where control tokens are text by their names."""
        offsets = self._offsets(tokens, shows_control=True)
        # A character that it breaks off is not gone on with. And some tokenizers put a space in
        # front that is not in the text.
        self._n_letters += len(self._decoder.decode(b"", True))
        surplus, self._n_letters = self._n_letters - len(text), len(text)
        return _columns(tokens, [max(0, offset - surplus) for offset in offsets])

    def _offsets(self, tokens: Sequence[TokenLogprobs], *, shows_control: bool) -> list[int]:
        offsets = []
        for token in tokens:
            offsets.append(self._n_letters)
            if shows_control or not token.chosen.is_control:
                self._n_letters += len(self._decoder.decode(token.chosen.bytes))
        return offsets


def _columns(tokens: Sequence[TokenLogprobs], offsets: list[int]) -> Json:
    return {
        "tokens": [_name(token.chosen.raw) for token in tokens],
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [_alternatives(token) for token in tokens],
        "text_offset": offsets,
    }


def joined(pieces: Sequence[Json]) -> Json:
    """Columns of pieces one after another."""
    return {name: [each for piece in pieces for each in piece[name]] for name in pieces[0]}


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


class OpenAiWriter(ABC):
    """The part of a writer that chats and completions share."""

    media_type = EVENT_STREAM
    chunk_kind: str
    """``object`` of the chunks."""

    def __init__(self, ask: Ask, header: Header) -> None:
        self.tells_logprobs = ask.logprobs is not None
        self.choices = [Choice() for _ in range(len(ask.prompts) * ask.candidates)]
        self._header = header
        self._include_usage = ask.include_usage
        self._begun: set[int] = set()
        # For each choice that has text, what comes before and after a piece of it: an envelope is
        # made once, and a token costs no more than its own text.
        self._envelopes: dict[int, tuple[bytes, bytes]] = {}

    def beginning(self, index: int) -> bytes:
        """What comes before the first chunk of a choice."""
        return b""

    @abstractmethod
    def choice(self, index: int, piece: Piece) -> Json | None:
        """The choice of the chunk that a piece becomes; None if it becomes none."""

    def piece(self, index: int, piece: Piece) -> bytes:
        if type(piece) is Text and not self.tells_logprobs:
            before, after = self._envelopes.get(index) or self._envelope(index)
            return before + orjson.dumps(piece.text) + after
        choice = self.choice(index, piece)
        return b"" if choice is None else self.beginning(index) + self.chunk(choice)

    def collect(self, index: int, piece: Piece) -> None:
        self.choices[index].add(piece)

    def end(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return DONE
        return event(self.object(self.chunk_kind, [], usage)) + DONE

    def failed(self, error: ApiError) -> bytes:
        return event(error_body(error))

    def chunk(self, choice: Json) -> bytes:
        """The event with a piece of a choice."""
        chunk = self.object(self.chunk_kind, [choice])
        if self._include_usage:
            chunk["usage"] = None
        return event(chunk)

    def object(self, kind: str, choices: list[Json], usage: Usage | None = None) -> Json:
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

    def _envelope(self, index: int) -> tuple[bytes, bytes]:
        """What comes around the first piece of text; keeps what comes around all others."""
        choice = self.choice(index, Text(_HOLE))
        assert choice is not None
        # The last of them: a model may have such a name.
        before, _, after = self.chunk(choice).rpartition(orjson.dumps(_HOLE))
        self._envelopes[index] = before, after
        return self.beginning(index) + before, after
