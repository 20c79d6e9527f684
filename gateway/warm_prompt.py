"""The prompt that all workers are born with (``WARM_PROMPT``)."""

import os
from pathlib import Path

from shared.errors import UsageError, reason_of

_SUFFIXES = (".txt", ".md", ".prompt")


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
    try:
        if setting.startswith("@") or _looks_like_a_file(setting, path):
            # Editors end a file with a newline that is no part of the prompt.
            text = path.read_text("utf-8").removesuffix("\n")
        text.encode()
    except UnicodeError as error:
        raise UsageError(f"WARM_PROMPT={setting!r}: it is not UTF-8 text") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"WARM_PROMPT={setting}: {reason_of(error)}; name a text file") from error
    if not text.strip():
        raise UsageError(f"WARM_PROMPT={setting}: there is no text in it")
    return text


def _looks_like_a_file(setting: str, path: Path) -> bool:
    if "\n" in setting:
        return False
    is_named_so = "/" in setting or path.suffix.lower() in _SUFFIXES
    return os.path.isfile(path) or (is_named_so and len(setting.split()) == 1)
