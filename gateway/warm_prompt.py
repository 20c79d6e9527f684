"""The prompt that all workers are born with (``WARM_PROMPT``)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.answer.prompts import text_parts
from gateway.ask import TextPrompt
from gateway.chat.choice import PLAIN_ORIGIN, choose_template
from gateway.chat.messages import ChatMessage
from gateway.chat.rendering import render
from gateway.errors import ApiError
from gateway.serving import ServingConfig
from shared.errors import UsageError
from shared.messages import ModelInfo

_SUFFIXES = (".txt", ".md", ".prompt")
# What these two conversations have in common ends where a user begins to speak.
_QUESTIONS = ("A", "0")


def load_warm_prompt(setting: str | None) -> str | None:
    """The text that the setting ``WARM_PROMPT`` asks for.

    Args:
        setting: text; or the path of a text file, known as one if it begins with ``@``, if it
            exists, or if it is one word with a slash or the ending of a text file.

    Raises:
        UsageError: it is a file that is not there, or cannot be read, or holds nothing.
    """
    if setting is None:
        return None
    path = Path(setting.removeprefix("@")).expanduser()
    text = setting
    if setting.startswith("@") or _looks_like_a_file(setting, path):
        try:
            # Editors end a file with a newline that is no part of the prompt.
            text = path.read_text("utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise UsageError(f"WARM_PROMPT={setting}: it is not UTF-8 text") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"WARM_PROMPT={setting}: {reason}; name a text file") from error
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"WARM_PROMPT={setting!r}: it is not UTF-8 text") from error
    if not text.strip():
        raise UsageError(f"WARM_PROMPT={setting}: there is no text in it")
    return text


def _looks_like_a_file(setting: str, path: Path) -> bool:
    if "\n" in setting:
        return False
    try:
        if path.is_file():
            return True
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        return False
    is_a_word = len(setting.split()) == 1
    return is_a_word and ("/" in setting or path.suffix.lower() in _SUFFIXES)


def warm_prompts(
    text: str | None, config: ServingConfig
) -> Callable[[ModelInfo], Sequence[tuple[str, ...]]] | None:
    """What gives prompts whose common beginning is ``text`` as a model's chats have it.

    That is up to the end of the system message; for a model of which no chat format is known it is
    the text itself. It raises `ValueError` if the chat format has no place for it.
    """
    if text is None:
        return None

    def prompts(model: ModelInfo) -> Sequence[tuple[str, ...]]:
        chat_format = choose_template(config, model)
        if chat_format.origin == PLAIN_ORIGIN:
            return [text_parts(TextPrompt(text), model)]
        system = ChatMessage(role="system", content=text)
        try:
            rendered = [
                render(chat_format, model, [system, ChatMessage(role="user", content=question)])
                for question in _QUESTIONS
            ]
        except ApiError as error:
            raise ValueError(f"a system message of it cannot be used: {error.message}") from error
        if text.strip() not in "".join(rendered[0]):
            raise ValueError(f"the chat template {chat_format.name!r} leaves out system messages")
        return rendered

    return prompts
