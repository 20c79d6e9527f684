"""Text to token ids, by a tokenizer made from nothing but the vocabulary in the model file.

Byte-level BPE runs in the `tokenizers` package, with the file's own merges or those that its
vocabulary tells, and the family's pre-tokenizer. SentencePiece vocabularies are tokenized by the
engine's library, which is right for them. A ``tokenizer.json`` replaces either.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from tokenizers import AddedToken, models, normalizers
from tokenizers import Tokenizer as Pipeline

from shared.errors import ModelFileError
from shared.model.byte_level import LETTERS
from shared.model.description import ModelFile, TokenizerKind
from worker.tokenizer.file import TokenizerFile
from worker.tokenizer.merges import rebuild_merges
from worker.tokenizer.pre_tokenizers import Preparation, preparation_of
from worker.tokenizer.vocabulary import Vocabulary

# A file's merges may speak of a few tokens that it lacks or that are special.
_MOST_MERGES = 0.9
_LONG_NUMBER = re.compile("([0-9]{32,})")


class Tokenizer(Protocol):
    """Turns a prompt into ids."""

    def encode(self, prompt: Sequence[str], *, begins: bool = True) -> list[int]:
        """Ids of plain text and texts of special tokens by turns, plain text first.

        With ``begins``, the token that the model's prompts begin with, if any, is put in front.
        """


def build_tokenizer(
    file: ModelFile,
    vocabulary: Vocabulary,
    library_tokenize: Callable[[bytes], list[int]],
    override: TokenizerFile | None = None,
) -> Tokenizer:
    """Make the tokenizer of a model; ``override`` is its ``tokenizer.json``.

    Raises:
        ModelFileError: the file names a pre-tokenizer that is not known here, or its merges are
            not those of its vocabulary.
    """
    if override is not None:
        return _PipelineTokenizer(override.pipeline, override.continuing, vocabulary, {})
    if file.tokenizer is TokenizerKind.SENTENCEPIECE:
        return _SentencePiece(vocabulary, library_tokenize)
    preparation = preparation_of(file)
    pipeline = _byte_level_bpe(file, vocabulary, preparation)
    digits = _digit_ids(pipeline) if preparation.single_digits else {}
    return _PipelineTokenizer(pipeline, pipeline, vocabulary, digits)


class _PipelineTokenizer:
    """Runs a `tokenizers` pipeline that knows no special tokens on the plain text."""

    def __init__(
        self,
        pipeline: Pipeline,
        continuing: Pipeline,
        vocabulary: Vocabulary,
        digits: dict[str, int],
    ) -> None:
        self._pipeline = pipeline  # for plain text at the beginning of a prompt
        self._continuing = continuing  # for plain text behind a special token
        self._special = vocabulary.special
        self._digits = digits  # ids of all digits, if the pipeline tokenizes each by itself
        self._bos = _bos(vocabulary)

    def encode(self, prompt: Sequence[str], *, begins: bool = True) -> list[int]:
        ids: list[int] = []
        for part in self._without_long_numbers(parts_of(prompt, self._special)):
            if isinstance(part, int):
                ids.append(part)
            else:
                # The batch form leaves out the offsets, which take a fifth of the time.
                pipeline = self._continuing if ids else self._pipeline
                ids += pipeline.encode_batch_fast([part], add_special_tokens=False)[0].ids
        return with_bos(self._bos, ids) if begins else ids

    def _without_long_numbers(self, parts: Iterable[str | int]) -> Iterator[str | int]:
        """Look digits up here where there are many, for the pipeline is slow with them."""
        for part in parts:
            if isinstance(part, int) or not self._digits:
                yield part
                continue
            for place, piece in enumerate(_LONG_NUMBER.split(part)):
                if place % 2:
                    yield from [self._digits[digit] for digit in piece]
                elif piece:
                    yield piece


class _SentencePiece:
    """Runs the engine's library on the plain text."""

    def __init__(
        self, vocabulary: Vocabulary, library_tokenize: Callable[[bytes], list[int]]
    ) -> None:
        self._special = vocabulary.special
        self._added = dict(vocabulary.added)
        if b"<0x00>" in vocabulary.raw:
            # The library reads a C string, which a NUL would end.
            self._added["\0"] = vocabulary.raw.index(b"<0x00>")
        # Longest first, so that none hides behind its own prefix.
        texts = sorted(map(re.escape, self._added), key=len, reverse=True)
        self._splitter = re.compile(f"({'|'.join(texts)})") if texts else None
        self._library_tokenize = library_tokenize
        self._bos = _bos(vocabulary)

    def encode(self, prompt: Sequence[str], *, begins: bool = True) -> list[int]:
        ids: list[int] = []
        for part in parts_of(prompt, self._special):
            if isinstance(part, int):
                ids.append(part)
                continue
            for piece in self._splitter.split(part) if self._splitter else [part]:
                if piece in self._added:
                    ids.append(self._added[piece])
                elif piece:
                    ids += self._library_tokenize(piece.encode())
        return with_bos(self._bos, ids) if begins else ids


def parts_of(prompt: Sequence[str], special: Mapping[str, int]) -> Iterator[str | int]:
    """Plain texts, each as long as it can be, and ids of special tokens."""
    plain: list[str] = []
    for place, text in enumerate(prompt):
        token = special.get(text) if place % 2 else None
        if token is None:
            plain.append(text)
            continue
        if any(plain):
            yield "".join(plain)
        plain.clear()
        yield token
    if any(plain):
        yield "".join(plain)


def _bos(vocabulary: Vocabulary) -> list[int]:
    return [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else []


def with_bos(bos: list[int], ids: list[int]) -> list[int]:
    """Put the begin token in front, unless a chat template has done so already."""
    return ids if ids[:1] == bos else bos + ids


def _byte_level_bpe(file: ModelFile, vocabulary: Vocabulary, preparation: Preparation) -> Pipeline:
    outside = _outside(vocabulary)
    ids: dict[str, int] = {}
    for token, raw in enumerate(vocabulary.raw):
        if raw and token not in outside:
            # Where several ids have the same bytes, the first is the one that was trained.
            ids.setdefault("".join([LETTERS[byte] for byte in raw]), token)
    if file.merges is None:
        merges = rebuild_merges(vocabulary.raw, outside)
    else:
        merges = _own_merges(file, file.merges, ids)
    # Written with real spaces, which no piece has: only the matching of added tokens finds them.
    ids.update(vocabulary.added)
    model = models.BPE(vocab=ids, merges=merges, ignore_merges=preparation.ignore_merges)
    pipeline = Pipeline(model)
    if preparation.nfc:
        pipeline.normalizer = normalizers.NFC()
    pipeline.pre_tokenizer = preparation.pre_tokenizer()
    pipeline.add_tokens([AddedToken(text, normalized=True) for text in vocabulary.added])
    return pipeline


def _digit_ids(pipeline: Pipeline) -> dict[str, int]:
    """The ids of the digits; none if not each is a token."""
    found = {digit: pipeline.token_to_id(digit) for digit in "0123456789"}
    ids = {digit: token for digit, token in found.items() if token is not None}
    return ids if len(ids) == len(found) else {}


def _outside(vocabulary: Vocabulary) -> set[int]:
    """The tokens that BPE does not make, and the copies with which converters fill up.

    Single bytes stay, whatever the file calls them: text with them would lose them.
    """
    special = {text.encode() for text in vocabulary.special}
    added = {text.encode(): token for text, token in vocabulary.added.items()}
    return {
        token
        for token, raw in enumerate(vocabulary.raw)
        if len(raw) > 1 and (raw in special or (raw in added and token >= added[raw]))
    }


def _own_merges(
    file: ModelFile, own: Sequence[bytes], ids: dict[str, int]
) -> list[tuple[str, str]]:
    """The file's merges, without any that would make a special token of plain text."""
    pairs = (merge.decode("utf-8", "replace").partition(" ") for merge in own)
    merges = [
        (left, right)
        for left, _, right in pairs
        if left in ids and right in ids and left + right in ids
    ]
    if len(merges) < _MOST_MERGES * len(own):
        raise ModelFileError(
            f"{file.path}: only {len(merges)} of its {len(own)} merges are of tokens that its"
            " vocabulary has"
        )
    return merges
