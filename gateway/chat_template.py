"""Renders a conversation to one prompt with the model's own Jinja template, in a sandbox."""

import json
import logging
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn, TypedDict

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.errors import ApiError
from shared.errors import ErrorCode
from shared.messages import ModelInfo

logger = logging.getLogger(__name__)

PLAIN_TEMPLATE = """\
{% for message in messages %}
{{ message.role }}: {{ message.content }}
{% endfor %}
assistant:"""
"""For a model whose file carries no template: one ``role: content`` line for each message."""


class ChatMessage(TypedDict):
    """One message, as a template sees it."""

    role: str
    content: str


def render(model: ModelInfo, messages: Sequence[ChatMessage]) -> str:
    """The prompt that asks ``model`` for the next message of a conversation.

    Raises:
        ApiError: the template refuses these messages, or it is itself broken.
    """
    try:
        template = _compile(model.chat_template or PLAIN_TEMPLATE)
    except jinja2.TemplateError as error:
        logger.error("the model's chat template does not compile: %s", error)
        raise ApiError(
            ErrorCode.MODEL_UNAVAILABLE,
            "This model's chat template is broken; /v1/completions works without it.",
        ) from error
    try:
        return template.render(
            messages=messages,
            add_generation_prompt=True,
            bos_token=model.bos_token,
            eos_token=model.eos_token,
            tools=None,
            documents=None,
        )
    except Exception as error:  # a template is a program: it can fail in any way
        message = f"The model's chat template does not take these messages: {error}"
        raise ApiError(ErrorCode.INVALID_VALUE, message, "messages") from error


@lru_cache(maxsize=8)
def _compile(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes HTML, which a prompt is not.
    return json.dumps(value, ensure_ascii=False, indent=indent)
