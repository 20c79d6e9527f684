"""From a JSON object to a checked request: what cannot be honoured is refused, never ignored.

Fields that neither OpenAI nor this server defines are ignored, but for `OTHER_NAMES`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.errors import ApiError
from gateway.openai.bodies import Body
from gateway.openai.requests import ChatRequest, CompletionRequest, ManyChatsRequest
from shared.errors import ErrorCode

BodyT = TypeVar("BodyT", bound=Body)

UNSUPPORTED_UNLESS: dict[str, Sequence[object]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Parameters of OpenAI's that this server lacks, with the values that ask for nothing.

One that a body defines is not lacking there.
"""

OTHER_NAMES = {
    "grammar": "guided_grammar",
    "json_schema": "guided_json",
    "structured_outputs": "guided_json, guided_regex, guided_choice or guided_grammar",
}
"""What other servers call what an answer is bound to, and its name here.

Of what OpenAI does not define, only this is refused: whoever sends it relies on it.
"""

INDIFFERENT = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "user",
    }
)
"""Parameters of OpenAI's that say nothing about the text: accepted with any value, unused."""

_OUR_TYPES = {code.value for code in ErrorCode}  # of errors raised in `requests`


def completion_request(body: Mapping[str, Any]) -> CompletionRequest:
    """Check the body of ``/v1/completions``.

    Raises:
        ApiError: it names the field at fault.
    """
    return _generation(CompletionRequest, body)


def chat_request(body: Mapping[str, Any]) -> ChatRequest:
    """Check the body of ``/v1/chat/completions``.

    Raises:
        ApiError: it names the field at fault.
    """
    return _generation(ChatRequest, body)


def chats_request(body: Mapping[str, Any]) -> ChatRequest | ManyChatsRequest:
    """Check the body of ``/v2/chat/completions``: one conversation, or a list of them.

    Raises:
        ApiError: it names the field at fault.
    """
    match body.get("messages"):
        case [list(), *_]:
            return _generation(ManyChatsRequest, body)
        case _:
            return _generation(ChatRequest, body)


def checked(model: type[BodyT], body: Mapping[str, Any]) -> BodyT:
    """A body that has been checked.

    Raises:
        ApiError: it names the field at fault.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _as_api_error(error.errors(include_url=False)[0]) from error


def _generation(model: type[BodyT], body: Mapping[str, Any]) -> BodyT:
    for name, neutral in UNSUPPORTED_UNLESS.items():
        value = None if name in model.model_fields else body.get(name)
        # 0 == False, but to ask for a number is not to ask for nothing.
        if value is not None and not any(type(value) is type(v) and value == v for v in neutral):
            message = f"'{name}' is not supported here; leave it out."
            raise ApiError(ErrorCode.UNSUPPORTED_PARAMETER, message, name)
    for name, here in OTHER_NAMES.items():
        if body.get(name):  # clients of those servers send it empty, too
            message = f"'{name}' is called {here} here."
            raise ApiError(ErrorCode.UNSUPPORTED_PARAMETER, message, name)
    return checked(model, body)


def _as_api_error(error: ErrorDetails) -> ApiError:
    param = path_of(error["loc"])
    if error["type"] == "missing":
        code, sentence = ErrorCode.MISSING_PARAMETER, "is required"
    elif error["type"] in _OUR_TYPES:
        code, sentence = ErrorCode(error["type"]), error["msg"]
    else:
        # pydantic's "Input should be ...", "List should have ..."
        sentence = error["msg"].partition(" ")[2].replace(" after validation", "")
        code = ErrorCode.INVALID_VALUE
    return ApiError(code, f"'{param}' {sentence}.", param)


def path_of(location: Sequence[str | int]) -> str:
    """A place in the body as clients write it, e.g. ``messages[0].role``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(steps).removeprefix(".")
