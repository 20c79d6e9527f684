"""Renders a conversation to the parts of a prompt."""

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2.exceptions import SecurityError

from gateway.chat.choice import PLAIN_ORIGIN
from gateway.chat.formats import ChatFormat
from gateway.chat.messages import ChatMessage
from gateway.chat.meter import OutOfWork, TooLong
from gateway.chat.sandbox import ChatTemplate
from gateway.chat.special import END_MARK, has_marks, special_tokens
from gateway.errors import ApiError
from shared.errors import ErrorCode
from shared.messages import ModelInfo

logger = logging.getLogger(__name__)

# Templates pass over some of what they are given.
_SLACK = 64 << 10
_LONGEST_REASON = 1000
_ADVICE = "CHAT_TEMPLATE can name another"
# What no conversation is to blame for; a template may run out of Python's stack, too.
_TEMPLATES_FAULTS = (OutOfWork, SecurityError, RecursionError, MemoryError)


_TRIAL = (ChatMessage(role="user", content="Hi"),)


def render(
    chat_format: ChatFormat,
    model: ModelInfo,
    messages: Sequence[ChatMessage],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    continues: bool = False,
) -> tuple[str, ...]:
    """The prompt that asks ``model`` for the next message of a conversation.

    Args:
        chat_format: the format.
        model: the model.
        messages: the conversation.
        tools: what the model may call, each as OpenAI's API has it, for formats that describe it.
        continues: the last message is not to be answered, but to be gone on with.

    Returns:
        Plain text and special tokens by turns, as `shared.messages.Generate` has them. Only the
        format writes special tokens; what looks like one in a message stays plain text.

    Raises:
        ApiError: the format does not take these messages, they are too long, or it is broken.
    """
    template = tried(chat_format, model)
    if template is None:
        raise _broken()
    if any(has_marks(message["content"]) for message in messages):
        raise ApiError(ErrorCode.INVALID_VALUE, "'messages' holds half a character.", "messages")
    try:
        return _rendered(template, model, messages, tools, continues)
    except TooLong as error:
        most = model.n_ctx * model.max_token_bytes
        message = (
            f"This model's maximum context length is {model.n_ctx} tokens, which hold {most} bytes"
            " at most; the conversation is longer."
        )
        raise ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, "messages") from error
    except _TEMPLATES_FAULTS as error:
        reason = _reason(error, model)
        logger.error("the chat template %r was stopped: %s", chat_format.name, reason)
        raise _broken() from error
    except Exception as error:  # a template is a program: it can fail in any way
        message = f"The chat template does not take these messages: {_reason(error, model)}"
        raise ApiError(ErrorCode.INVALID_VALUE, message, "messages") from error


@lru_cache(maxsize=8)
def tried(chat_format: ChatFormat, model: ModelInfo) -> ChatTemplate | None:
    """The compiled format; None if it is broken.

    The first call tries it with a short conversation, and logs what there is to say about it: so
    it should be made as soon as there is a model, not by the first request.
    """
    what = f"the chat template {chat_format.name!r} ({chat_format.origin})"
    if chat_format.origin == PLAIN_ORIGIN:
        logger.warning("chats get the format 'plain', for %s; %s", PLAIN_ORIGIN, _ADVICE)
    try:
        template = ChatTemplate(chat_format.source, special_tokens(model.special_tokens))
    except ValueError as error:
        logger.error("%s does not compile: %s; %s", what, error, _ADVICE)
        return None
    try:
        _rendered(template, model, _TRIAL)
    except (TooLong, *_TEMPLATES_FAULTS) as error:
        logger.error("%s is not usable: %s; %s", what, _reason(error, model), _ADVICE)
        return None
    except Exception as error:  # it may want another conversation than this one
        logger.warning("%s does not take a chat of one message: %s", what, _reason(error, model))
    return template


def _rendered(
    template: ChatTemplate,
    model: ModelInfo,
    messages: Sequence[ChatMessage],
    tools: Sequence[Mapping[str, Any]] = (),
    continues: bool = False,
) -> tuple[str, ...]:
    special = special_tokens(model.special_tokens)
    seen = [{**message, "role": special.mark(message["role"])} for message in messages]
    if continues:
        seen[-1]["content"] = messages[-1]["content"] + END_MARK
    variables = {
        "messages": seen,
        "add_generation_prompt": not continues,
        "bos_token": special.mark(model.bos_token),
        "eos_token": special.mark(model.eos_token),
        "tools": list(tools) or None,
        "documents": None,
    }
    longest = model.n_ctx * model.max_token_bytes + _SLACK
    text = template.render(variables, longest)
    if continues:
        text, mark, _ = text.rpartition(END_MARK)
        if not mark:
            raise ValueError("it leaves out the last one, which is to be gone on with")
        text = text.replace(END_MARK, "")  # it may have told of it before
    return special.split_marked(text)


def _broken() -> ApiError:
    message = "This model's chat template is broken; /v1/completions works without it."
    return ApiError(ErrorCode.INTERNAL_ERROR, message)


def _reason(error: Exception, model: ModelInfo) -> str:
    reason = str(error)[:_LONGEST_REASON].replace(END_MARK, "")
    return special_tokens(model.special_tokens).plain(reason) or type(error).__name__
