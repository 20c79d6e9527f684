"""The part of the OpenAPI document that FastAPI cannot see, since bodies are parsed here."""

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from gateway.dialects import Endpoint

_REF = "#/components/schemas/{model}"
_TEXT = {"type": "string"}
_ERROR = {
    "type": "object",
    "required": ["message", "type", "param", "code"],
    "properties": {
        "message": _TEXT,
        "type": _TEXT,
        "param": {"type": ["string", "null"]},
        "code": _TEXT,
    },
}
_ERROR_CONTENT = {
    "application/json": {
        "schema": {"type": "object", "required": ["error"], "properties": {"error": _ERROR}}
    }
}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request is at fault.", "content": _ERROR_CONTENT},
    "5XX": {"description": "The server is at fault, or not ready.", "content": _ERROR_CONTENT},
}
"""For the ``responses`` of every route."""
_CHUNK = {"type": "string", "description": "A chunk as JSON; of the last event: [DONE]."}
_EVENT = {"type": "object", "required": ["data"], "properties": {"data": _CHUNK}}


def add_endpoints(document: dict[str, Any], endpoints: Iterable[Endpoint]) -> None:
    """Put endpoints, and what bodies of requests to them may be, into an OpenAPI document."""
    bodies = dict.fromkeys(body for endpoint in endpoints for body in endpoint.bodies)
    _, schema = models_json_schema([(each, "validation") for each in bodies], ref_template=_REF)
    document.setdefault("components", {}).setdefault("schemas", {}).update(schema["$defs"])
    for endpoint in endpoints:
        document["paths"][endpoint.path] = {"post": _operation(endpoint)}


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    refs = [{"$ref": _REF.format(model=body.__name__)} for body in endpoint.bodies]
    body = {"schema": {"anyOf": refs}, "example": endpoint.example}
    content: dict[str, Any] = {"application/json": {}}
    if endpoint.streams:
        content["text/event-stream"] = {"itemSchema": _EVENT}
    return {
        "tags": [endpoint.tag],
        "summary": endpoint.path,
        "description": endpoint.description,
        "operationId": endpoint.path.strip("/").replace("/", "_"),
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {"200": {"description": endpoint.answer, "content": content}}
        | ERROR_RESPONSES,
    }
