"""The table of parameters, made from the request models and from what is checked beside them."""

import orjson
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.dialects.chat import ChatRequest
from gateway.dialects.completions import CompletionRequest
from gateway.dialects.openai_request import UNSUPPORTED_UNLESS
from shared.sampling import SamplingParams

_MODELS: dict[str, type[BaseModel]] = {"chats": ChatRequest, "completions": CompletionRequest}

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
"""Parameters of OpenAI's that say nothing about the text."""


def table() -> str:
    """The table: what becomes of each parameter in chats and in completions."""
    rows = [f"| parameter | {' | '.join(_MODELS)} | |", "|---|---|---|---|"]
    fields = {name for model in _MODELS.values() for name in model.model_fields}
    names = dict.fromkeys(name for model in _MODELS.values() for name in model.model_fields)
    for name in (*names, *sorted({*UNSUPPORTED_UNLESS, *INDIFFERENT} - fields)):
        statuses = " | ".join(_status(name, model) for model in _MODELS.values())
        rows.append(f"| `{name}` | {statuses} | {_explanation(name)} |")
    return "\n".join(rows) + "\n"


def _status(name: str, model: type[BaseModel]) -> str:
    if name in model.model_fields:
        return "honoured"
    if name in UNSUPPORTED_UNLESS:
        return "refused"
    return "neutral" if name in INDIFFERENT else ""


def _explanation(name: str) -> str:
    if name in INDIFFERENT:
        return "taken with any value: it says nothing about the text"
    told = {
        kind: _told(model.model_fields[name])
        for kind, model in _MODELS.items()
        if name in model.model_fields
    }
    if not told:
        neutral = [f"`{orjson.dumps(value).decode()}`" for value in UNSUPPORTED_UNLESS[name]]
        return f"refused unless it is {' or '.join(neutral)}" if neutral else ""
    if len(set(told.values())) > 1:
        parts = [f"{kind}: {text}" for kind, text in told.items()]
    else:
        parts = [next(iter(told.values()))]
    default = getattr(SamplingParams(), name, None)
    if isinstance(default, int | float):
        parts.append(f"default {default:g}")
    return "; ".join(parts).replace("|", r"\|")


def _told(field: FieldInfo) -> str:
    """The description, and the range of a number."""
    bounds = {
        kind: value
        for constraint in field.metadata
        for kind in ("ge", "gt", "le", "lt")
        if isinstance(value := getattr(constraint, kind, None), int | float)
    }
    text = (field.description or "").rstrip(".")
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le")
    if low is None or "lt" in bounds:
        return text
    least = f"above {low:g}" if "gt" in bounds else f"{low:g}"
    return f"{text}; {least} or more" if high is None else f"{text}; {least} to {high:g}"
