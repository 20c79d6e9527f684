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


def usable_schema(value: object) -> object:
    """Let a JSON schema pass that is not too much to go through, and that can be kept to.

    Of what it says, the compiler of grammars refuses what it lacks. But it lets names repeat that a
    schema does not list, and so could not promise that there are as many as ``minProperties``.

    Raises:
        PydanticCustomError: it is too much, or asks for that.
    """
    waiting: list[object] = [bounded(value)]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())
            least, listed = item.get("minProperties"), item.get("required")
            n_listed = len(listed) if isinstance(listed, list) else 0
            if isinstance(least, int) and least > max(1, n_listed):
                message = (
                    "should not ask for more 'minProperties' than there are 'required' ones:"
                    " names that it does not list may repeat"
                )
                raise PydanticCustomError("invalid_value", message)
    return value
