"""Which chat format a model gets: what was asked for, else the file's own, else by the name."""

from functools import lru_cache
from pathlib import Path

from gateway.chat.formats import FORMATS, ChatFormat, recognised
from gateway.chat.sandbox import MAX_SOURCE, ChatTemplate
from gateway.chat.special import SpecialTokens
from gateway.models import ServingConfig
from shared.errors import UsageError
from shared.messages import ModelInfo

PLAIN_ORIGIN = "nothing better is known of this model"
"""Where the format comes from when there was nothing to choose it by."""


def load_chat_template(setting: str | None) -> ChatFormat | None:
    """The format that the setting ``CHAT_TEMPLATE`` asks for, if it does.

    Args:
        setting: a name of the table, or the path of a Jinja file.

    Raises:
        UsageError: it is neither, or the file holds no template.
    """
    if setting is None:
        return None
    if known := FORMATS.get(setting.lower()):
        return known.as_format("CHAT_TEMPLATE")
    path = Path(setting).expanduser()
    if not path.is_file():
        names = ", ".join(FORMATS)
        raise UsageError(
            f"CHAT_TEMPLATE={setting!r} is not allowed; it must be a Jinja file or one of: {names}"
        )
    try:
        with path.open(encoding="utf-8", newline="") as file:
            source = file.read(MAX_SOURCE + 1)
        ChatTemplate(source, SpecialTokens(()))
    except OSError as error:
        raise UsageError(f"CHAT_TEMPLATE={setting}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"CHAT_TEMPLATE={setting}: it is not UTF-8 text") from error
    except ValueError as error:
        raise UsageError(f"CHAT_TEMPLATE={setting}: {error}") from error
    return ChatFormat(path.name, source, origin="CHAT_TEMPLATE")


@lru_cache(maxsize=8)
def choose_template(config: ServingConfig, model: ModelInfo) -> ChatFormat:
    """The format of the conversations with ``model``; its ``origin`` says why this one."""
    if config.chat_template is not None:
        return config.chat_template
    if model.chat_template:
        return ChatFormat("own", model.chat_template, origin="the model's file")
    for name in (Path(config.model_file).name, config.model_id):
        if known := recognised(name):
            return known.as_format(f"the name {name}")
    return FORMATS["plain"].as_format(PLAIN_ORIGIN)
