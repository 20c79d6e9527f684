"""From the prompts of a request to those that a worker takes."""

from collections.abc import Mapping
from typing import Any

from gateway.answer.plan import most_tokens
from gateway.ask import ChatPrompt, Function, IdsPrompt, Prompt, TextPrompt, ToolUse
from gateway.chat.conversation import prompt_of
from gateway.chat.formats import ChatFormat
from gateway.chat.special import special_tokens
from gateway.errors import ApiError
from shared.errors import ErrorCode
from shared.messages import ModelInfo


def rendered(
    prompt: Prompt, tools: ToolUse, chat_format: ChatFormat, model: ModelInfo
) -> tuple[str, ...] | list[int]:
    """Plain text and special tokens by turns, or token ids.

    Raises:
        ApiError: the chat format does not take it, or it is too long.
    """
    match prompt:
        case IdsPrompt():
            return list(prompt.ids)
        case ChatPrompt():
            if len(prompt.messages) > model.n_ctx:
                message = (
                    f"{most_tokens(model)}; {len(prompt.messages)} messages do not fit into that."
                )
                raise ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, prompt.param)
            described = [_described(function) for function in tools.functions]
            messages: Any = prompt.messages
            parts = prompt_of(chat_format, model, messages, described)
        case TextPrompt():
            parts = text_parts(prompt, model)
    _check_length(parts, prompt.param, model)
    return parts


def text_parts(prompt: TextPrompt, model: ModelInfo) -> tuple[str, ...]:
    """With a suffix, the order (prefix, suffix, middle) is the one that StarCoder has learned."""
    if not prompt.suffix:
        if not prompt.has_specials:
            return (prompt.text,)
        return special_tokens(model.special_tokens).split(prompt.text)
    if model.fim_tokens is None:
        message = f"This model's family ({model.family}) has not learned to fill in the middle."
        raise ApiError(ErrorCode.UNSUPPORTED_PARAMETER, message, "suffix")
    before, after, middle = model.fim_tokens
    return ("", before, prompt.text, after, prompt.suffix, middle, "")


def _check_length(parts: tuple[str, ...], param: str, model: ModelInfo) -> None:
    size, most = sum(len(part.encode()) for part in parts), model.n_ctx * model.max_token_bytes
    if size > most:
        message = f"{most_tokens(model)}, which hold {most} bytes at most; the prompt has {size}."
        raise ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, param)


def _described(function: Function) -> Mapping[str, Any]:
    described: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        described["description"] = function.description
    described["parameters"] = function.schema
    return {"type": "function", "function": described}
