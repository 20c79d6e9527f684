"""The token table of a model: what each id adds to text, and which ids mean something else."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shared.model.description import Family, ModelFile, TokenizerKind
from shared.model.gguf import TokenType
from worker.tokenizer.file import TokenizerFile
from worker.tokenizer.merges import count_lost, restore_bytes
from worker.tokenizer.pre_tokenizers import named_pre_tokenizer
from worker.tokenizer.special_tokens import SANTACODER_FIM, STARCODER_FIM, find_added, find_special

logger = logging.getLogger(__name__)

# Texts that end a generation where a vocabulary has them as special tokens, whatever its file
# names as end of sequence: the chat formats' end of turn, and the end of a document.
_END_TEXTS = (
    "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "</s>", "### End",
)  # fmt: skip

# Pre-tokenizers of models whose prompts begin with their begin token, though few files say so.
_WITH_BOS = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"})

_SILENT_TYPES = frozenset({TokenType.UNKNOWN, TokenType.UNUSED})


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The token table of a model."""

    raw: Sequence[bytes]  #: each id's text; for SentencePiece the piece as the file has it
    token_bytes: Sequence[bytes]  #: what each adds to generated text; empty for control tokens
    special: dict[str, int]  #: texts and ids of tokens that plain text never yields
    added: dict[str, int]  #: the same of those that plain text yields before its BPE is run
    bos: int | None
    eos: int | None
    eog: frozenset[int]  #: every id that ends a generation
    add_bos: bool  #: whether a prompt is to begin with ``bos``
    #: texts of the tokens before prefix, suffix and middle of a text to be filled in
    fim_tokens: tuple[str, str, str] | None
    max_token_bytes: int

    @classmethod
    def from_model(cls, file: ModelFile, override: TokenizerFile | None = None) -> "Vocabulary":
        """Read the table of a checked model file.

        ``override``, its ``tokenizer.json``, knows the special tokens, and the bytes that some
        converters have lost.
        """
        special = find_special(file) if override is None else override.special
        raw = list(file.tokens)
        if file.tokenizer is TokenizerKind.BPE:
            if override is None:
                raw = _restored(file)
            else:
                for token, text in override.token_bytes.items():
                    raw[token] = text
        eos = file.eos
        if eos is None and file.tokenizer is TokenizerKind.BPE:
            eos = special.get("<|endoftext|>")
        eog = {special[text] for text in _END_TEXTS if text in special}
        return cls(
            raw=raw,
            token_bytes=_token_bytes(file, raw, special),
            special=special,
            added=find_added(file),
            bos=file.bos,
            eos=eos,
            eog=frozenset(eog if eos is None else eog | {eos}),
            add_bos=file.bos is not None and _adds_bos(file),
            fim_tokens=_fim_tokens(special) if file.family is Family.STARCODER else None,
            max_token_bytes=max(map(len, raw)),
        )

    def text(self, token: int | None) -> str:
        """A token's text; empty for None."""
        return "" if token is None else self.raw[token].decode("utf-8", "replace")


def _restored(file: ModelFile) -> list[bytes]:
    lost = count_lost(file.tokens)
    if lost > 1:
        logger.warning(
            "%s: the bytes of %d tokens or more were lost when it was made, so that text other than"
            " English suffers; the model's tokenizer.json beside it would restore them",
            file.path,
            lost,
        )
    return list(restore_bytes(file.tokens))


def _adds_bos(file: ModelFile) -> bool:
    if file.add_bos is not None:
        return file.add_bos
    return file.tokenizer is TokenizerKind.SENTENCEPIECE or named_pre_tokenizer(file) in _WITH_BOS


def _fim_tokens(special: Collection[str]) -> tuple[str, str, str] | None:
    for texts in (STARCODER_FIM, SANTACODER_FIM):
        if all(text in special for text in texts):
            return texts
    return None


def _token_bytes(file: ModelFile, raw: Sequence[bytes], special: dict[str, int]) -> list[bytes]:
    if file.tokenizer is TokenizerKind.SENTENCEPIECE:
        types = file.token_types or [TokenType.NORMAL] * len(raw)
        return [_piece_bytes(text, kind) for text, kind in zip(raw, types, strict=True)]
    # Text that a model is meant to show, such as a tool call's mark, is USER_DEFINED in GGUF.
    types = file.token_types or [TokenType.CONTROL] * len(raw)
    silent = {
        text.encode() for text, token in special.items() if types[token] != TokenType.USER_DEFINED
    }
    return [
        b"" if text in silent or kind in _SILENT_TYPES else text
        for text, kind in zip(raw, types, strict=True)
    ]


def _piece_bytes(piece: bytes, kind: int) -> bytes:
    if kind == TokenType.CONTROL or kind in _SILENT_TYPES:
        return b""
    if kind == TokenType.BYTE:
        return bytes((int(piece[3:5], 16),))  # <0x0A>
    return piece.replace("\u2581".encode(), b" ")
