"""The part of the OpenAPI document that FastAPI cannot see, since bodies are parsed here."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.errors import ErrorBody

_REF = "#/components/schemas/{model}"

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is at fault."},
    "5XX": {"model": ErrorBody, "description": "The server is at fault, or not ready."},
}
"""For the ``responses`` of every route."""


def request_body(models: Iterable[type[BaseModel]], example: Mapping[str, Any]) -> dict[str, Any]:
    """The ``openapi_extra`` of a route whose body is one of ``models``."""
    refs = [{"$ref": _REF.format(model=model.__name__)} for model in models]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def stream_or(model: Any) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers with ``model`` or with a stream of chunks."""
    chunk = {"type": "string", "description": "A chunk as JSON; of the last event: [DONE]."}
    event = {"type": "object", "required": ["data"], "properties": {"data": chunk}}
    content = {"text/event-stream": {"itemSchema": event}}
    description = "The answer, in the form that was asked for."
    return {
        200: {"model": model, "description": description, "content": content},
        **ERROR_RESPONSES,
    }


def add_request_schemas(document: dict[str, Any], models: Iterable[type[BaseModel]]) -> None:
    """Put the schemas that `request_body` refers to into an OpenAPI document."""
    _, schema = models_json_schema([(m, "validation") for m in models], ref_template=_REF)
    document["components"]["schemas"].update(schema["$defs"])
