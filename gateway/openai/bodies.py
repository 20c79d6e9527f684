"""What all request bodies have in common."""

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

MOST_LEVELS = 64
"""How deep the JSON of a client's own (a schema, arguments) may be nested."""
MOST_NODES = 100_000
"""And how many values it may hold."""


class Body(BaseModel):
    """A body, or a part of one: strict, immutable; fields that it does not have are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


def bounded(value: object) -> object:
    """Let JSON of a client's own pass if it is not too much to go through.

    Raises:
        PydanticCustomError: it is.
    """
    waiting: list[tuple[object, int]] = [(value, 1)]
    n_nodes = 0
    while waiting:
        item, level = waiting.pop()
        n_nodes += 1
        if level > MOST_LEVELS:
            raise PydanticCustomError(
                "invalid_value", f"should be nested at most {MOST_LEVELS} levels deep"
            )
        if n_nodes > MOST_NODES:
            raise PydanticCustomError(
                "invalid_value", f"should hold at most {MOST_NODES} values in all"
            )
        if isinstance(item, dict):
            waiting.extend((inner, level + 1) for inner in item.values())
        elif isinstance(item, list):
            waiting.extend((inner, level + 1) for inner in item)
    return value
