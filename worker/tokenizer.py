"""Text to token ids and back, built from nothing but the vocabulary in the model file.

Byte-level BPE runs in the `tokenizers` package with the file's own merges and the pre-tokenizer
that the file names (``tokenizer.ggml.pre``, as defined by llama.cpp). SentencePiece vocabularies
are tokenized by the engine's library, which is right for them.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tokenizers import AddedToken, Regex, models, pre_tokenizers
from tokenizers import Tokenizer as BPETokenizer

from shared.byte_level import LETTERS
from shared.errors import ModelFileError
from shared.gguf import MERGES, TOKEN_TYPES, TOKENS, GGUFFile, TokenType

# Texts that end a generation where a vocabulary has them as control tokens, whatever its
# metadata names as end of sequence: the chat formats' end of turn, and the end of a document.
_EOG_TEXTS = frozenset(
    {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "</s>"}
)

# The split pattern of Llama 3, from its tokenizer.json.
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer(Protocol):
    """Turns a rendered prompt into ids."""

    def encode(self, text: str) -> list[int]:
        """Ids of the text, special tokens in it included."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The token table of a model file.

    Attributes:
        raw: each id's text as the file has it, in bytes.
        token_bytes: what each id adds to generated text; empty for control tokens.
        special: texts and ids of control and user-defined tokens.
        bos: id that begins a sequence, or None.
        eos: id that ends one, or None.
        eog: every id that ends a generation.
        add_bos: whether a prompt is to begin with ``bos``.
        max_token_bytes: length of the longest text in ``raw``.
    """

    raw: Sequence[bytes]
    token_bytes: Sequence[bytes]
    special: dict[str, int]
    bos: int | None
    eos: int | None
    eog: frozenset[int]
    add_bos: bool
    max_token_bytes: int

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "Vocabulary":
        """Read the table from a file that `shared.gguf_llama.check_llama` has passed."""
        metadata = file.metadata
        raw: list[bytes] = metadata[TOKENS]
        types: list[int] = metadata[TOKEN_TYPES]
        sentencepiece = file.tokenizer_model == "llama"
        special = {
            text.decode("utf-8", "replace"): token
            for token, (text, kind) in enumerate(zip(raw, types, strict=True))
            if kind in (TokenType.CONTROL, TokenType.USER_DEFINED) and text
        }
        bos = metadata.get("tokenizer.ggml.bos_token_id")
        eos = metadata.get("tokenizer.ggml.eos_token_id")
        eog = {token for text, token in special.items() if text in _EOG_TEXTS}
        return cls(
            raw=raw,
            token_bytes=[
                _text_of(text, kind, sentencepiece) for text, kind in zip(raw, types, strict=True)
            ],
            special=special,
            bos=bos,
            eos=eos,
            eog=frozenset(eog if eos is None else eog | {eos}),
            add_bos=bos is not None
            and bool(metadata.get("tokenizer.ggml.add_bos_token", sentencepiece)),
            max_token_bytes=max(map(len, raw)),
        )

    def text(self, token: int | None) -> str:
        """A token's text in the file; empty for None."""
        return "" if token is None else self.raw[token].decode("utf-8", "replace")


def _text_of(raw: bytes, kind: int, sentencepiece: bool) -> bytes:
    if kind in (TokenType.CONTROL, TokenType.UNKNOWN):
        return b""
    if not sentencepiece:
        return raw
    if kind == TokenType.BYTE:
        return bytes((int(raw[3:5], 16),))  # <0x0A>
    return raw.replace("\u2581".encode(), b" ")


def build_tokenizer(
    file: GGUFFile, vocabulary: Vocabulary, library_tokenize: Callable[[bytes], list[int]]
) -> Tokenizer:
    """Make the tokenizer that the file asks for.

    Args:
        file: a checked model file.
        vocabulary: its token table.
        library_tokenize: tokenizes SentencePiece text without special tokens.

    Raises:
        ModelFileError: the file names a pre-tokenizer that is not known here.
    """
    if file.tokenizer_model == "llama":
        return _SentencePiece(vocabulary, library_tokenize)
    return _ByteLevelBPE(file, vocabulary)


class _ByteLevelBPE:
    def __init__(self, file: GGUFFile, vocabulary: Vocabulary) -> None:
        pre = file.metadata.get("tokenizer.ggml.pre", "gpt-2")
        if pre not in _PRE_TOKENIZERS:
            raise ModelFileError(
                f"{file.path}: the pre-tokenizer {pre!r} is not supported;"
                f" supported are: {', '.join(sorted(_PRE_TOKENIZERS))}"
            )
        special = {token: text for text, token in vocabulary.special.items()}
        ids = {
            special.get(token) or "".join(LETTERS[byte] for byte in raw): token
            for token, raw in enumerate(vocabulary.raw)
        }
        merges = []
        for merge in file.metadata[MERGES]:
            left, _, right = merge.decode().partition(" ")
            merges.append((left, right))
        # Llama 3 takes a piece that is a token as it is, without running its merges.
        ignore_merges = pre in ("llama-bpe", "llama3", "llama-v3")
        self._tokenizer = BPETokenizer(
            models.BPE(vocab=ids, merges=merges, ignore_merges=ignore_merges)
        )
        self._tokenizer.pre_tokenizer = _PRE_TOKENIZERS[pre]()
        self._tokenizer.add_special_tokens(
            [AddedToken(text, special=True, normalized=False) for text in vocabulary.special]
        )
        self._bos = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else []

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return _with_bos(self._bos, ids)


class _SentencePiece:
    def __init__(
        self, vocabulary: Vocabulary, library_tokenize: Callable[[bytes], list[int]]
    ) -> None:
        self._special = dict(vocabulary.special)
        if b"<0x00>" in vocabulary.raw:
            # The library reads a C string, which a NUL would end.
            self._special["\0"] = vocabulary.raw.index(b"<0x00>")
        # Longest first, so that no special token hides behind its own prefix.
        texts = sorted(map(re.escape, self._special), key=len, reverse=True)
        self._splitter = re.compile(f"({'|'.join(texts)})") if texts else None
        self._library_tokenize = library_tokenize
        self._bos = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else []

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self._splitter.split(text) if self._splitter else [text]:
            special = self._special.get(part)
            if special is not None:
                ids.append(special)
            elif part:
                ids.extend(self._library_tokenize(part.encode()))
        return _with_bos(self._bos, ids)


def _with_bos(bos: list[int], ids: list[int]) -> list[int]:
    """Put the begin token in front, unless a chat template has done so already."""
    return ids if ids[:1] == bos else bos + ids


def _gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_then_gpt2() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _llama3() -> Any:
    split = pre_tokenizers.Split(Regex(_LLAMA3_PATTERN), behavior="isolated")
    return pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


_PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "gpt-2": _gpt2,
    "default": _gpt2,
    "smollm": _digits_then_gpt2,
    "starcoder": _digits_then_gpt2,
    "refact": _digits_then_gpt2,
    "command-r": _digits_then_gpt2,
    "llama-bpe": _llama3,
    "llama3": _llama3,
    "llama-v3": _llama3,
}
