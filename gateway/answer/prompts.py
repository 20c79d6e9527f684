"""What preparers are asked about the prompts of a request, and what fits behind them. Pure."""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.answer.plan import most_tokens
from gateway.ask import Ask, ChatPrompt, Function, IdsPrompt, Limit, Prompt, TextPrompt, ToolUse
from gateway.errors import ApiError
from shared.errors import ErrorCode
from shared.grammar import Grammar
from shared.messages import Chat, Detokenize, ModelInfo, Prepare, Prepared, Question, Text

MOST_BYTES = 512 << 10
"""Of a text that is tokenized, whatever the context length."""


def question_name() -> str:
    return f"prompt-{uuid.uuid4().hex}"


def questions_of(
    ask: Ask, model: ModelInfo, grammar: Grammar | None, *, wants_text: bool
) -> list[Question | Prepared]:
    """What to ask about the prompts of a request; ids of which no text is wanted need no question.

    A grammar is tried once, with the first prompt or in a last question of its own.

    Raises:
        ApiError: a prompt cannot fit.
    """
    questions: list[Question | Prepared] = []
    for prompt in ask.prompts:
        if isinstance(prompt, IdsPrompt):
            ids = tuple(prompt.ids)
            if wants_text:
                questions.append(Detokenize(question_name(), ids))
            else:
                questions.append(Prepared("", ids))
        else:
            _check_length(prompt, model)
            questions.append(question_of(prompt, ask.tools, wants_text=wants_text))
    if grammar is not None:
        if isinstance(questions[0], Prepare):
            questions[0] = replace(questions[0], grammar=grammar)
        else:
            questions.append(Prepare(question_name(), grammar=grammar))
    return questions


def question_of(
    prompt: ChatPrompt | TextPrompt,
    tools: ToolUse,
    *,
    begins: bool = True,
    wants_text: bool = False,
    wants_pieces: bool = False,
) -> Prepare:
    """What to ask about one prompt; see `shared.messages.Prepare`."""
    asked: Chat | Text
    if isinstance(prompt, ChatPrompt):
        asked = Chat(tuple(prompt.messages), tuple(map(_described, tools.functions)))
    else:
        asked = Text(prompt.text, prompt.suffix, prompt.has_specials)
    return Prepare(
        question_name(),
        asked,
        prompt.param,
        begins=begins,
        wants_text=wants_text,
        wants_pieces=wants_pieces,
    )


def check_messages(prompt: Prompt | None, model: ModelInfo) -> None:
    """Refuse a conversation of more messages than tokens.

    Raises:
        ApiError: `CONTEXT_LENGTH_EXCEEDED`, with both numbers.
    """
    if isinstance(prompt, ChatPrompt) and len(prompt.messages) > model.n_ctx:
        message = f"{most_tokens(model)}; {len(prompt.messages)} messages do not fit into that."
        raise ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, prompt.param)


def check_size(prompt: Prompt | None) -> None:
    """Refuse a text that is too long to be tokenized in a moment.

    Raises:
        ApiError: `BODY_TOO_LARGE`, with both numbers.
    """
    if isinstance(prompt, TextPrompt):
        n_bytes = len(prompt.text.encode())
        if n_bytes > MOST_BYTES:
            message = f"this is {n_bytes} bytes long; at most {MOST_BYTES} bytes are taken at once"
            raise ApiError(ErrorCode.BODY_TOO_LARGE, message)


def room_for(prompt: Prepared, limit: Limit, model: ModelInfo, param: str) -> int:
    """How many tokens can be generated behind a prompt, at most as many as are wanted.

    Raises:
        ApiError: they do not fit into the context, or there is no prompt.
    """
    n_prompt, wanted = len(prompt.ids), limit.tokens
    if n_prompt == 0:
        message = "the prompt is empty; this model needs at least one token to continue from"
        raise ApiError(ErrorCode.INVALID_PROMPT, message, param)
    room = model.n_ctx - n_prompt
    least = 0 if wanted == 0 else 1
    if room < least or (wanted is not None and wanted > room and not limit.is_clamped):
        completion = f" and {wanted} for the completion" if wanted else ""
        advice = "" if least == 0 else " or lower max_tokens"
        message = (
            f"{most_tokens(model)}, prompt and completion together; this request has {n_prompt} in"
            f" the prompt{completion}. Shorten the prompt{advice}."
        )
        at_fault = param if room < least else "max_tokens"
        raise ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, at_fault)
    return room if wanted is None else min(wanted, room)


def _check_length(prompt: ChatPrompt | TextPrompt, model: ModelInfo) -> None:
    """Refuse what cannot fit before it crosses; a preparer measures what a chat becomes."""
    if isinstance(prompt, ChatPrompt):
        check_messages(prompt, model)
        return
    size = len(prompt.text.encode()) + len(prompt.suffix.encode())
    most = model.n_ctx * model.max_token_bytes
    if size > most:
        message = f"{most_tokens(model)}, which hold {most} bytes at most; the prompt has {size}."
        raise ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, prompt.param)


def _described(function: Function) -> Mapping[str, Any]:
    described: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        described["description"] = function.description
    described["parameters"] = function.schema
    return {"type": "function", "function": described}
