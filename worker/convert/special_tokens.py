"""Which tokens begin and end a sequence, and how a chat is written, as a model folder says it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import UsageError
from worker.convert.source import ModelFolder


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of tokens with a role; None where the model has none.

    Attributes:
        bos: begins a sequence.
        eos: ends one.
        add_bos: whether a prompt begins with ``bos``; None where the folder does not say.
        chat_template: in Jinja.
    """

    bos: int | None
    eos: int | None
    add_bos: bool | None
    chat_template: str | None


def read_special_tokens(folder: ModelFolder, tokens: Sequence[bytes]) -> SpecialTokens:
    """Read ``tokenizer_config.json``, and what it leaves open from the other files.

    Raises:
        UsageError: an id is outside the vocabulary.
    """
    bos, eos = (_token_id(folder, role, tokens) for role in ("bos", "eos"))
    return SpecialTokens(bos, eos, _add_bos(folder, bos, tokens), _chat_template(folder))


def _token_id(folder: ModelFolder, role: str, tokens: Sequence[bytes]) -> int | None:
    text = folder.optional("tokenizer_config.json").get(f"{role}_token")
    if isinstance(text, dict):
        text = text.get("content")
    if isinstance(text, str) and text.encode() in tokens:
        return tokens.index(text.encode())
    number = folder.config.get(f"{role}_token_id")
    if isinstance(number, list):
        number = number[0] if number else None
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(tokens):
        folder.config.fail(f"{role}_token_id is {number!r:.40}, which is no token")
    return number


def _add_bos(folder: ModelFolder, bos: int | None, tokens: Sequence[bytes]) -> bool | None:
    setting = folder.optional("tokenizer_config.json").get("add_bos_token")
    if isinstance(setting, bool) or bos is None:
        return setting if isinstance(setting, bool) else None
    processor = folder.optional("tokenizer.json").get("post_processor")
    if not isinstance(processor, dict):
        return None
    for step in processor.get("processors", [processor]):
        if step.get("type") == "TemplateProcessing":
            first = (step.get("single") or [{}])[0].get("SpecialToken", {})
            return bool(first.get("id") == tokens[bos].decode("utf-8", "replace"))
    return None


def _chat_template(folder: ModelFolder) -> str | None:
    path = folder.path / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
    setting: Any = folder.optional("tokenizer_config.json").get("chat_template")
    if isinstance(setting, list):
        named = {entry.get("name"): entry.get("template") for entry in setting}
        setting = named.get("default")
    return setting if isinstance(setting, str) else None
