"""What preparers are asked about the prompts of a request, and what their answers mean. Pure."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.errors import ApiError
from gateway.openai.admission import check_length, check_message_count, check_prompt_ids
from gateway.openai.conversation import Message
from gateway.openai.requests import ChatRequest, CompletionRequest, ManyChatsRequest
from gateway.openai.tool_choice import ToolUse
from gateway.openai.tools import FunctionDefinition
from shared.errors import ErrorCode
from shared.messages import Chat, Detokenize, ModelInfo, Prepare, Prepared, Question, Text


def question_id() -> str:
    """A fresh name for a question."""
    return f"prompt-{uuid.uuid4().hex}"


def chat_questions(
    request: ChatRequest | ManyChatsRequest,
    model: ModelInfo,
    use: ToolUse,
    *,
    wants_text: bool = False,
) -> list[Prepare]:
    """What to ask about the conversations of a request.

    Raises:
        ApiError: one of them cannot fit.
    """
    tools = tuple(_described(function) for function in use.tools)
    questions = []
    for conversation in request.conversations:
        check_message_count(len(conversation), model)
        chat = Chat(tuple(template_messages(conversation)), tools)
        questions.append(Prepare(question_id(), chat, "messages", wants_text=wants_text))
    return questions


def completion_questions(
    request: CompletionRequest, model: ModelInfo, *, wants_text: bool
) -> list[Question | Prepared]:
    """What to ask about the prompts of a request; ids of which no text is wanted need no question.

    Raises:
        ApiError: one of them cannot fit, or has no meaning.
    """
    questions: list[Question | Prepared] = []
    for place, prompt in enumerate(request.prompt):
        param = "prompt" if len(request.prompt) == 1 else f"prompt[{place}]"
        if isinstance(prompt, str):
            check_length((prompt, request.suffix or ""), param, model)
            text = Text(prompt, request.suffix or "")
            questions.append(Prepare(question_id(), text, param, wants_text=wants_text))
            continue
        check_prompt_ids(prompt, param, model)
        if request.suffix:
            message = "'suffix' is for prompts of text, not of token ids."
            raise ApiError(ErrorCode.INVALID_VALUE, message, "suffix")
        if request.echo:
            questions.append(Detokenize(question_id(), tuple(prompt)))
        else:
            questions.append(Prepared("", tuple(prompt), f"token ids {prompt}"))
    return questions


def room_for(
    prompt: Prepared,
    wanted: int | None,
    model: ModelInfo,
    *,
    param: str,
    is_default: bool = False,
) -> int:
    """How many tokens can be generated behind a prompt, at most as many as are wanted.

    Args:
        prompt: the prompt.
        wanted: the most tokens to generate; None for as many as there is room for.
        model: which is to run it.
        param: what the prompt is called in the request.
        is_default: the client did not choose ``wanted``, so it is cut instead of refused.

    Raises:
        ApiError: they do not fit into the context, or there is no prompt.
    """
    n_prompt = len(prompt.ids)
    if n_prompt == 0:
        message = "the prompt is empty; this model needs at least one token to continue from"
        raise ApiError(ErrorCode.INVALID_PROMPT, message, param)
    room = model.n_ctx - n_prompt
    least = 0 if wanted == 0 else 1
    if room < least or (wanted is not None and wanted > room and not is_default):
        completion = f" and {wanted} for the completion" if wanted else ""
        advice = "" if least == 0 else " or lower max_tokens"
        message = (
            f"This model's maximum context length is {model.n_ctx} tokens,"
            f" prompt and completion together; this request has {n_prompt} in the prompt"
            f"{completion}. Shorten the prompt{advice}."
        )
        at_fault = param if room < least else "max_tokens"
        raise ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, at_fault)
    return room if wanted is None else min(wanted, room)


def template_messages(conversation: Sequence[Message]) -> list[Mapping[str, Any]]:
    """A conversation as chat templates know it, which have never heard of ``developer``."""
    return [_template_message(message) for message in conversation]


def _template_message(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    seen: dict[str, Any] = {"role": role, "content": message.text}
    if message.name is not None:
        seen["name"] = message.name
    if message.tool_call_id is not None:
        seen["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        calls: list[dict[str, Any]] = []
        for call in message.tool_calls:
            called: dict[str, Any] = {
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.parsed},
            }
            if call.id is not None:
                called["id"] = call.id
            calls.append(called)
        seen["tool_calls"] = calls
    return seen


def _described(function: FunctionDefinition) -> Mapping[str, Any]:
    described: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        described["description"] = function.description
    described["parameters"] = function.arguments
    return {"type": "function", "function": described}
