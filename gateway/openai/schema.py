"""The OpenAPI document's part that FastAPI cannot see, since the bodies are parsed here."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.errors import ErrorBody
from gateway.openai.embeddings import EmbeddingRequest
from gateway.openai.requests import ChatRequest, CompletionRequest, ManyChatsRequest
from gateway.openai.tokens import DetokenizeRequest, TokenizeRequest

_REF = "#/components/schemas/{model}"

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is at fault."},
    "5XX": {"model": ErrorBody, "description": "The server is at fault, or not ready."},
}
"""For the ``responses`` of every route."""


def request_body(*models: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """The ``openapi_extra`` of a route whose body is one of ``models``."""
    refs = [{"$ref": _REF.format(model=model.__name__)} for model in models]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def stream_or(model: Any, description: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers with ``model`` or with a stream of chunks."""
    chunk = {"type": "string", "description": "A chunk as JSON; of the last event: [DONE]."}
    event = {"type": "object", "required": ["data"], "properties": {"data": chunk}}
    content = {"text/event-stream": {"itemSchema": event}}
    return {
        200: {"model": model, "description": description, "content": content},
        **ERROR_RESPONSES,
    }


def add_request_schemas(document: dict[str, Any]) -> None:
    """Put the schemas that `request_body` refers to into an OpenAPI document."""
    models: list[type[BaseModel]] = [
        CompletionRequest,
        ChatRequest,
        ManyChatsRequest,
        EmbeddingRequest,
        TokenizeRequest,
        DetokenizeRequest,
    ]
    _, schema = models_json_schema([(m, "validation") for m in models], ref_template=_REF)
    document["components"]["schemas"].update(schema["$defs"])
