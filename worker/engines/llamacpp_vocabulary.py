"""The vocabulary of a model that llama.cpp has loaded: the library's own tokenizer and pieces."""

import ctypes
from collections.abc import Iterator, Sequence

from worker.engines.llamacpp_library import Library
from worker.tokenizer.tokenizer import parts_of

# Bits of a token's attributes.
_UNKNOWN, _NORMAL, _CONTROL, _USER_DEFINED, _STRIPS_LEFT, _STRIPS_RIGHT = 1, 4, 8, 16, 128, 256
# What C's isspace takes for such.
_SPACE = " \t\n\v\f\r"
_SPECIAL = _UNKNOWN | _CONTROL | _USER_DEFINED
_PIECE_BYTES = 128


class Vocabulary:
    """Texts, kinds and ids of tokens."""

    def __init__(self, library: Library, model: int) -> None:
        self._c = library.c
        self._vocab = self._c.llama_model_get_vocab(model)
        self.n_vocab: int = self._c.llama_vocab_n_tokens(self._vocab)
        self._buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        # Each call of the library takes half a microsecond, and vocabularies have up to 262,144.
        call, vocab, tokens = self._c.llama_vocab_get_attr, self._vocab, range(self.n_vocab)
        attributes = {token: kind for token in tokens if (kind := call(vocab, token)) != _NORMAL}
        self.token_bytes = self._all_pieces()
        call = self._c.llama_vocab_is_eog
        self.eog = frozenset(token for token in tokens if call(vocab, token))
        self.special: dict[str, int] = {}
        for token, kind in attributes.items():
            if kind & _SPECIAL and not (text := self.name(token)).isspace():
                self.special.setdefault(text, token)
        self._strips_left = {token for token, kind in attributes.items() if kind & _STRIPS_LEFT}
        self._strips_right = {token for token, kind in attributes.items() if kind & _STRIPS_RIGHT}
        self.bos = self._text(self._c.llama_vocab_bos(self._vocab))
        self.eos = self._text(self._c.llama_vocab_eos(self._vocab))
        functions = ("llama_vocab_fim_pre", "llama_vocab_fim_suf", "llama_vocab_fim_mid")
        before, after, middle = (self._text(getattr(self._c, f)(self._vocab)) for f in functions)
        #: texts of the tokens before prefix, suffix and middle of a text to be filled in
        self.fim_tokens = (before, after, middle) if before and after and middle else None
        # What the model's prompts begin and end with: of BERT both, of most others one or none.
        around = self._tokenize("", is_whole=True)
        n_begin = int(bool(around) and around[0] == self._c.llama_vocab_bos(self._vocab))
        self._begin, self._end = around[:n_begin], around[n_begin:]

    def name(self, token: int) -> str:
        """A token's text, of a control token, too; not empty."""
        return self._piece(token, is_shown=True).decode("utf-8", "replace") or f"<{token}>"

    def tokenize(self, prompt: Sequence[str], *, begins: bool) -> list[int]:
        """Ids of plain text and texts of special tokens by turns, as `Engine.tokenize` has it."""
        ids: list[int] = []
        for part in self._stripped(list(parts_of(prompt, self.special))):
            ids += [part] if isinstance(part, int) else self._tokenize(part)
        if not begins:
            return ids
        # A chat template may have put the begin token there already.
        begin = [] if ids[: len(self._begin)] == self._begin else self._begin
        return begin + ids + self._end

    def _stripped(self, parts: list[int | str]) -> Iterator[int | str]:
        """Some special tokens take the white space beside them with them."""
        for place, part in enumerate(parts):
            if isinstance(part, str):
                if place and parts[place - 1] in self._strips_right:
                    part = part.lstrip(_SPACE)
                if place + 1 < len(parts) and parts[place + 1] in self._strips_left:
                    part = part.rstrip(_SPACE)
            if part != "":
                yield part

    def _tokenize(self, text: str, *, is_whole: bool = False) -> list[int]:
        """Ids of plain text; with ``is_whole`` of a prompt, with what is added to it."""
        raw = text.encode()
        most = len(raw) + 8
        while True:
            ids = (ctypes.c_int32 * most)()
            n = self._c.llama_tokenize(self._vocab, raw, len(raw), ids, most, is_whole, False)
            if n >= 0:
                return ids[:n]
            most = -n

    def _all_pieces(self) -> list[bytes]:
        call, vocab, buffer = self._c.llama_token_to_piece, self._vocab, self._buffer
        lengths = ((token, call(vocab, token, buffer, _PIECE_BYTES, 0, False))
                   for token in range(self.n_vocab))  # fmt: skip
        return [
            buffer.raw[:n] if n >= 0 else self._piece(token, is_shown=False) for token, n in lengths
        ]

    def _piece(self, token: int, *, is_shown: bool) -> bytes:
        """The bytes of a token; of a control token none unless ``is_shown``."""
        most = _PIECE_BYTES
        while True:
            piece = ctypes.create_string_buffer(most)
            n = self._c.llama_token_to_piece(self._vocab, token, piece, most, 0, is_shown)
            if n >= 0:
                return piece.raw[:n]
            most = -n

    def _text(self, token: int) -> str:
        """A special token's text; empty where there is none: files may name any number."""
        return self.name(token) if 0 <= token < self.n_vocab else ""
