"""The tokens of a model folder that were added to its vocabulary, from whichever file has them."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from shared.errors import UsageError
from shared.model.gguf import TokenType
from worker.convert.config import Config
from worker.convert.source import ModelFolder

AddedToken: TypeAlias = tuple[int, bytes, TokenType]
"""Id, text and type of a token that is found in text as it is."""


def in_tokenizer(tokenizer: Config) -> list[AddedToken]:
    """Return the added tokens of a ``tokenizer.json``, by rising ids."""
    return sorted(_described(entry["id"], entry) for entry in tokenizer.get("added_tokens", []))


def in_folder(folder: ModelFolder) -> list[AddedToken]:
    """Return the added tokens of a folder, by rising ids.

    Older folders have no ``tokenizer.json``, but up to two other lists.

    Raises:
        UsageError: a list is damaged, or the two differ.
    """
    try:
        tokenizer = folder.optional("tokenizer.json")
        return in_tokenizer(tokenizer) if tokenizer.values else _in_older_lists(folder)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UsageError(f"{folder.path}: a list of added tokens is damaged") from error


def _in_older_lists(folder: ModelFolder) -> list[AddedToken]:
    plain = folder.optional("added_tokens.json")
    settings = folder.optional("tokenizer_config.json")
    special = {
        *_special_texts(settings),
        *_special_texts(folder.optional("special_tokens_map.json")),
    }
    found = {
        int(token): _described(token, {"content": text, "special": text in special})
        for text, token in plain.values.items()
    }
    for number, entry in settings.get("added_tokens_decoder", {}).items():
        token = _described(number, entry)
        if found.setdefault(token[0], token)[1] != token[1]:
            settings.fail(f"token {number} is {entry['content']!r:.60}, but not in {plain.path}")
        # This list tells what is special.
        found[token[0]] = token
    return sorted(found.values())


def _described(number: Any, entry: Mapping[str, Any]) -> AddedToken:
    kind = TokenType.CONTROL if entry.get("special") else TokenType.USER_DEFINED
    return int(number), str(entry["content"]).encode(), kind


def _special_texts(settings: Config) -> Iterator[str]:
    for key, value in settings.values.items():
        if key.endswith("_token") or key == "additional_special_tokens":
            for entry in value if isinstance(value, list) else [value]:
                text = entry.get("content") if isinstance(entry, dict) else entry
                if isinstance(text, str):
                    yield text
