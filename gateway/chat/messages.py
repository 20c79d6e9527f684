"""A conversation as chat templates know it."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import NotRequired, TypedDict


class CalledFunction(TypedDict):
    """The function of a call; arguments are a value, or text that is no JSON."""

    name: str
    arguments: Any


class CalledTool(TypedDict):
    """A call that the model has made."""

    id: NotRequired[str]
    type: str
    function: CalledFunction


class ChatMessage(TypedDict):
    """One message, as a template sees it."""

    role: str
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[Sequence[CalledTool]]
    tool_call_id: NotRequired[str]
