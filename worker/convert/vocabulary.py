"""The vocabulary of a byte-level BPE tokenizer, out of its ``tokenizer.json``."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shared.errors import UsageError
from shared.model.byte_level import bytes_of
from shared.model.gguf import TokenType
from worker.convert.added_tokens import in_tokenizer
from worker.convert.config import Config
from worker.convert.pre_tokenizer import NAMES, recognise
from worker.convert.source import ModelFolder

_MOST_TOKENS = 1 << 24


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What each id stands for.

    Attributes:
        tokens: each id's bytes; added tokens are UTF-8 text.
        types: each id's `shared.model.gguf.TokenType`.
        merges: in order of rank, in GPT-2's byte letters.
        scores: each id's, where the tokenizer is SentencePiece's.
        pre: llama.cpp's name of how text is split before merging; None if it has none.
        normalizer: what is done to text before that, e.g. ``NFC``.
        origin: the file, for messages.
    """

    tokens: tuple[bytes, ...]
    types: tuple[TokenType, ...]
    merges: tuple[tuple[str, str], ...]
    scores: tuple[float, ...]
    pre: str | None
    normalizer: str | None
    origin: str

    def fitted(self, n_rows: int) -> "Vocabulary":
        """The same with as many tokens as the embedding has rows; new ones are never used.

        Raises:
            UsageError: the tokenizer has more tokens than that.
        """
        missing = n_rows - len(self.tokens)
        if missing < 0:
            raise UsageError(
                f"{self.origin}: the tokenizer has {len(self.tokens)} tokens, but the model has "
                f"only {n_rows} embeddings; resize the model, or take the tokenizer it was made for"
            )
        known = set(self.tokens)
        fillers = []
        for token in range(len(self.tokens), n_rows):
            fillers.append(_filler(token, known))
        return replace(
            self,
            tokens=(*self.tokens, *fillers),
            types=(*self.types, *[TokenType.UNUSED] * missing),
            scores=(*self.scores, *[0.0] * missing),
        )

    @property
    def can_be_rebuilt(self) -> bool:
        """Whether the merges follow from the tokens: one for each, in the order of their ids."""
        ids = {token: number for number, token in reversed(list(enumerate(self.tokens)))}
        normal = [number for number, kind in enumerate(self.types) if kind is TokenType.NORMAL]
        if sum(len(self.tokens[number]) > 1 for number in normal) != len(self.merges):
            return False
        last = -1
        for left, right in self.merges:
            product = ids.get(bytes_of(left + right) or b"", -1)
            if product <= last:
                return False
            last = product
        return True


def read_byte_level(folder: ModelFolder) -> Vocabulary:
    """Read ``tokenizer.json``.

    Raises:
        UsageError: it is missing, damaged, or no byte-level BPE.
    """
    path = folder.path / "tokenizer.json"
    if not path.is_file():
        raise UsageError(
            f"{path}: is missing; save one with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    tokenizer = folder.optional(path.name)
    try:
        return _read(tokenizer, tokenizer.section("model"))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: is damaged, or no tokenizer") from error


def _read(tokenizer: Config, model: Config) -> Vocabulary:
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback", False):
        tokenizer.fail("its model is not byte-level BPE, which this family has")
    tokens, types = _tokens(tokenizer, model)
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=tuple(_merge(tokenizer, merge) for merge in model.get("merges", [])),
        scores=(0.0,) * len(tokens),
        pre=recognise(tokenizer.get("pre_tokenizer")),
        normalizer=tokenizer.section("normalizer").get("type"),
        origin=str(tokenizer.path),
    )


def require_pre_tokenizer(vocabulary: Vocabulary) -> str:
    """Return the name of how text is split before merging, for a layout that tells it.

    Raises:
        UsageError: it has no name, so that no server could do the same.
    """
    if vocabulary.pre is None or vocabulary.normalizer is not None:
        raise UsageError(
            f"{vocabulary.origin}: splits or normalises text in a way that is not known here; "
            f"known are: {', '.join(NAMES)}"
        )
    return vocabulary.pre


def _tokens(tokenizer: Config, model: Config) -> tuple[tuple[bytes, ...], tuple[TokenType, ...]]:
    known: dict[int, tuple[bytes, TokenType]] = {}
    added = {token: (raw, kind) for token, raw, kind in in_tokenizer(tokenizer)}
    vocabulary: Mapping[str, int] = model.get("vocab", {})
    twice = [token for token, n in Counter(vocabulary.values()).items() if n > 1]
    if twice or not vocabulary:
        tokenizer.fail(f"two tokens have the id {twice[0]}" if twice else "has no tokens")
    for text, token in vocabulary.items():
        if token in added:
            continue
        raw = bytes_of(text)
        if raw is None:
            tokenizer.fail(
                f"token {text!r} is not spelled in GPT-2's byte letters; only byte-level BPE is "
                "known for this family"
            )
        known[token] = (raw, TokenType.NORMAL)
    known.update(added)
    if not 0 <= min(known) <= max(known) < _MOST_TOKENS:
        tokenizer.fail(f"ids of tokens go from {min(known)} to {max(known)}")
    texts = {raw for raw, _ in known.values()}
    for token in range(max(known)):
        if token not in known:
            known[token] = (_filler(token, texts), TokenType.UNUSED)
    ordered = [known[token] for token in sorted(known)]
    return tuple(raw for raw, _ in ordered), tuple(kind for _, kind in ordered)


def _filler(token: int, known: set[bytes]) -> bytes:
    """A name that no other token has."""
    name = f"[PAD{token}]".encode()
    while name in known:
        name = b"[" + name + b"]"
    known.add(name)
    return name


def _merge(tokenizer: Config, merge: Any) -> tuple[str, str]:
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair)):
        tokenizer.fail(f"{merge!r:.60} is not a merge of two tokens")
    return pair[0], pair[1]
