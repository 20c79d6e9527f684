"""The golden answers follow OpenAI's description and the types of its client.

So whatever gives the golden answers follows them, too.
"""

import json
from collections.abc import Iterable
from typing import Any

import jsonschema
import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests import openai_schemas as schemas
from tests.golden.answers import Golden, blocks, essence, folded, parsed

ANSWERS = {name: parsed(block) for name, block in blocks().items()}
# By the name that an answer has for itself: OpenAI's description, and the client's type.
WHOLE: dict[str, tuple[schemas.Schema, type[BaseModel]]] = {
    "chat.completion": (schemas.CHAT_COMPLETION, ChatCompletion),
    "text_completion": (schemas.COMPLETION, Completion),
    "model": (schemas.MODEL, Model),
}
STREAMED = {name: name.replace(", streamed:", ":") for name in ANSWERS if ", streamed:" in name}


_validators: dict[int, jsonschema.Draft202012Validator] = {}


def follows(value: object, schema: schemas.Schema) -> None:
    """Check a value; the schema itself is checked once."""
    if id(schema) not in _validators:
        jsonschema.Draft202012Validator.check_schema(schema)
        _validators[id(schema)] = jsonschema.Draft202012Validator(schema)
    _validators[id(schema)].validate(value)


def typed(value: object, kind: type[BaseModel]) -> None:
    """Check a value as the client itself never does."""
    kind.model_validate_json(json.dumps(value), strict=True)


def without_holes(choice: Any) -> Any:
    """Nothing comes before the first token, of which the client's types do not know."""
    logprobs = choice.get("logprobs") or {}
    filled = {"token_logprobs": 0.0, "top_logprobs": {}}
    more = {
        name: [filled[name] if value is None else value for value in logprobs[name]]
        for name in filled
        if logprobs.get(name)
    }
    return {**choice, "logprobs": {**logprobs, **more}} if more else choice


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer(name: str) -> None:
    answer = ANSWERS[name]
    if answer.is_stream:
        check_stream(answer.content)
    elif answer.status >= 400:
        follows(answer.content, schemas.ERROR)
    elif isinstance(answer.content, dict):
        check_whole(answer.content)


def check_whole(content: dict[str, Any]) -> None:
    name = content.get("object")
    if name == "list":
        first = content["data"][0]
        if first["object"] == "model":
            follows(content, schemas.MODEL_LIST)
        elif isinstance(first["embedding"], str):
            follows(content, schemas.EMBEDDINGS_BASE64)
        else:
            follows(content, schemas.EMBEDDINGS)
            typed(content, CreateEmbeddingResponse)
    elif name in WHOLE:
        schema, kind = WHOLE[name]
        follows(content, schema)
        if kind is Completion:
            content = {**content, "choices": [without_holes(c) for c in content["choices"]]}
        typed(content, kind)


def check_stream(chunks: list[Any]) -> None:
    """What holds of all streams."""
    is_chat = chunks[0]["object"] == "chat.completion.chunk"
    for chunk in chunks:
        follows(chunk, schemas.CHAT_CHUNK if is_chat else schemas.COMPLETION_CHUNK)
        if is_chat:  # the client's type of a chunk of a completion is the whole one's
            typed(chunk, ChatCompletionChunk)
    for name in ("id", "object", "created", "model", "system_fingerprint"):
        assert len({chunk[name] for chunk in chunks}) == 1, name
    if any("usage" in chunk for chunk in chunks):
        *chunks, last = chunks
        assert last["choices"] == [] and all(chunk["usage"] is None for chunk in chunks)
        counts = last["usage"]
        assert counts["total_tokens"] == counts["prompt_tokens"] + counts["completion_tokens"]
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    by_index: dict[int, list[Any]] = {}
    for chunk in chunks:
        by_index.setdefault(chunk["choices"][0]["index"], []).append(chunk["choices"][0])
    for choices in by_index.values():
        *before, last = [choice["finish_reason"] for choice in choices]
        assert last is not None and set(before) <= {None}
        if is_chat:
            roles = [choice["delta"].get("role") for choice in choices]
            assert roles == ["assistant", *[None] * (len(roles) - 1)]


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_is_the_whole_answer_in_pieces(name: str) -> None:
    *chunks, last = ANSWERS[name].content
    whole = ANSWERS[STREAMED[name]].content
    for choice in whole["choices"]:
        pieces = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert folded(pieces) == essence(choice)
    assert last["usage"] == whole["usage"]


def broken(value: Any, schema: schemas.Schema) -> Iterable[Any]:
    """What becomes of a value when a field that must be there is missing, or has another type."""
    for name in schema.get("required", ()):
        yield {key: item for key, item in value.items() if key != name}
        yield {**value, name: object}
    if isinstance(value, dict):
        yield {**value, "unheard_of": 1}
        for name, inner in schema["properties"].items():
            if isinstance(value.get(name), dict) and "properties" in inner:
                yield from ({**value, name: wrong} for wrong in broken(value[name], inner))
            elif isinstance(value.get(name), list) and "properties" in inner["items"]:
                first, *rest = value[name]
                for wrong in broken(first, inner["items"]):
                    yield {**value, name: [wrong, *rest]}


def test_the_schemas_see_what_is_wrong() -> None:
    whole: Golden = ANSWERS["chat: tools required"]
    wrong = list(broken(whole.content, schemas.CHAT_COMPLETION))
    assert len(wrong) > 20
    for each in wrong:
        with pytest.raises(jsonschema.ValidationError):
            follows(each, schemas.CHAT_COMPLETION)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        *WHOLE.values(),
        (schemas.CHAT_CHUNK, ChatCompletionChunk),
        (schemas.EMBEDDINGS, CreateEmbeddingResponse),
    ],
)
def test_the_schemas_name_what_the_client_has_types_for(
    schema: schemas.Schema, kind: type[BaseModel]
) -> None:
    assert set(schema["properties"]) <= set(kind.model_fields)
    needed = {name for name, field in kind.model_fields.items() if field.is_required()}
    assert needed <= set(schema["required"])
