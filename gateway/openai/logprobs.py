"""Log probabilities as OpenAI's API has them. Pure."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from functools import lru_cache

from gateway.openai.responses import ChatLogprobs, TextLogprobs, TopLogprob
from shared.logprobs import Candidate, TokenLogprobs

# A prompt's first token has none; where the format wants a number, this says that it means nothing.
_NONE = -9999.0
# Of tokens whose texts are kept: the likely ones of an answer are few, and come again.
_KEPT = 4096


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
