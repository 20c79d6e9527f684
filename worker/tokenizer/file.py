"""A ``tokenizer.json``, which replaces the tokenizer that is built from a model file."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import orjson
from tokenizers import Tokenizer

from shared.errors import ModelFileError
from shared.model.byte_level import bytes_of
from shared.model.description import ModelFile, TokenizerKind
from worker.tokenizer.special_tokens import find_special

_MAX_BYTES = 64 << 20
# A converter may have lost the bytes of some tokens; another model's tokenizer shares hardly any.
_MAX_DIFFERENT = 0.05
_RIGHT = "a tokenizer.json of the model, as the package 'tokenizers' saves it, is needed"


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A ``tokenizer.json`` that belongs to a model."""

    #: texts and ids of the special tokens, those that only the model file knows included
    special: dict[str, int]
    token_bytes: Mapping[int, bytes]
    #: tokenizes plain text at the beginning of a prompt; no special token comes of it
    pipeline: Tokenizer
    continuing: Tokenizer  #: tokenizes plain text behind a special token

    @classmethod
    def read(cls, path: Path | str, file: ModelFile) -> "TokenizerFile":
        """Read one and check that it is the one of a model.

        Raises:
            ModelFileError: it is not; the text says what is wrong and what would be right.
        """
        return _Reader(Path(path), file).read()


class _Reader:
    """The parts of `TokenizerFile.read`."""

    def __init__(self, path: Path, file: ModelFile) -> None:
        self.path, self.file = path, file

    def fail(self, problem: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {problem}")

    def read(self) -> TokenizerFile:
        definition = self.load()
        vocab, added = self.check_form(definition)
        self.check_ids({**vocab, **{token["content"]: token["id"] for token in added}})
        as_bytes = _letters_to_bytes if self.file.tokenizer is TokenizerKind.BPE else str.encode
        token_bytes = {token: as_bytes(text) for text, token in vocab.items()}
        self.check_agreement(token_bytes)
        token_bytes.update((token["id"], token["content"].encode()) for token in added)
        special = find_special(self.file)
        special.update((token["content"], token["id"]) for token in added if token["special"])
        definition = _without(definition, special)
        pipeline = continuing = self.build(definition)
        later = _continuing(definition["pre_tokenizer"])
        if later != definition["pre_tokenizer"]:
            continuing = self.build({**definition, "pre_tokenizer": later})
        return TokenizerFile(special, token_bytes, pipeline, continuing)

    def build(self, definition: dict[str, Any]) -> Tokenizer:
        try:
            return Tokenizer.from_str(orjson.dumps(definition).decode())
        except Exception as error:  # the package raises nothing more telling
            self.fail(f"the package 'tokenizers' cannot use it ({error}); {_RIGHT}")

    def load(self) -> dict[str, Any]:
        try:
            n_bytes = self.path.stat().st_size
            if n_bytes > _MAX_BYTES:
                self.fail(f"it has {n_bytes} bytes, more than {_MAX_BYTES}; {_RIGHT}")
            definition = orjson.loads(self.path.read_bytes())
        except OSError as error:
            self.fail(f"cannot be read: {error.strerror}; {_RIGHT}")
        except orjson.JSONDecodeError as error:
            self.fail(f"it is no JSON ({error}); {_RIGHT}")
        if not isinstance(definition, dict) or not isinstance(definition.get("model"), dict):
            self.fail(f"it describes no tokenizer; {_RIGHT}")
        return definition

    def check_form(self, definition: dict[str, Any]) -> tuple[dict[str, int], list[dict[str, Any]]]:
        model = definition["model"]
        kind = model.get("type", "BPE")
        if kind != "BPE":
            self.fail(f"its model is of the type {kind!r:.40}; the engine's models have BPE ones")
        vocab, merges = model.get("vocab"), model.get("merges")
        added = definition.setdefault("added_tokens", [])
        if not (
            isinstance(vocab, dict)
            and vocab
            and all(type(token) is int for token in vocab.values())
            and isinstance(merges, list)
            and all(_is_merge(merge) for merge in merges)
            and isinstance(added, list)
            and all(_is_added(token) for token in added)
        ):
            self.fail(f"its vocabulary, merges or added tokens have not the usual form; {_RIGHT}")
        return vocab, added

    def check_ids(self, ids: Mapping[str, int]) -> None:
        n_vocab = self.file.n_vocab
        text, token = max(ids.items(), key=lambda item: item[1])
        if token >= n_vocab or min(ids.values()) < 0:
            self.fail(
                f"its token {text!r:.60} has the id {token}, but the model {self.file.path} has "
                f"{n_vocab} tokens; it belongs to another model"
            )

    def check_agreement(self, token_bytes: Mapping[int, bytes]) -> None:
        common = [
            (text, self.file.tokens[token])
            for token, text in token_bytes.items()
            if self.file.tokens[token]
        ]
        different = sum(_readable(ours) != _readable(theirs) for ours, theirs in common)
        if different > _MAX_DIFFERENT * len(common) or 2 * len(common) < len(token_bytes):
            self.fail(
                f"of its {len(token_bytes)} tokens only {len(common) - different} are those of "
                f"the model {self.file.path}; it belongs to another model"
            )


def _without(definition: dict[str, Any], special: Collection[str]) -> dict[str, Any]:
    """The definition for plain text only: no special token can come of it."""
    model, texts = definition["model"], frozenset(special)
    added = [token for token in definition["added_tokens"] if token["content"] not in texts]
    vocab = dict(model["vocab"])
    if model.get("ignore_merges"):
        for text in texts:
            vocab.pop(text, None)
    # An added token that the vocabulary lacks would get the next free id instead of its own.
    vocab.update((token["content"], token["id"]) for token in added)
    merges = [_pair(merge) for merge in model["merges"]]
    return {
        **definition,
        "pre_tokenizer": definition.get("pre_tokenizer"),
        "added_tokens": added,
        "post_processor": None,
        "truncation": None,
        "padding": None,
        "model": {
            **model,
            "vocab": vocab,
            "merges": [pair for pair in merges if texts.isdisjoint((*pair, pair[0] + pair[1]))],
        },
    }


def _continuing(stage: Any) -> Any:
    """A pre-tokenizer that does not put a space in front of its text, if only the first has one."""
    if isinstance(stage, list):
        return [_continuing(part) for part in stage]
    if not isinstance(stage, dict):
        return stage
    changed = {key: _continuing(value) for key, value in stage.items()}
    if stage.get("type") == "Metaspace" and stage.get("prepend_scheme") == "first":
        changed["prepend_scheme"] = "never"
    return changed


def _is_merge(merge: object) -> bool:
    if isinstance(merge, str):
        return len(merge.split(" ")) == 2
    return isinstance(merge, list) and len(merge) == 2 and all(type(part) is str for part in merge)


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _is_added(token: object) -> bool:
    return (
        isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and type(token.get("id")) is int
        and type(token.get("special")) is bool
    )


def _letters_to_bytes(text: str) -> bytes:
    raw = bytes_of(text)
    return text.encode() if raw is None else raw


def _readable(text: bytes) -> str:
    # Converters that wrote what each token decodes to lost bytes that are no whole characters,
    # and some of the spaces.
    return text.decode("utf-8", "replace").lstrip(" ")
