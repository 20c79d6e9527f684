"""``/v1/embeddings``: texts in, what they mean to the model as vectors out.

Text is somebody's document here: what looks like a special token in it stays plain text.
"""

import base64
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, PlainValidator

from gateway.answer.pieces import Ended, Piece, Usage
from gateway.ask import Ask, IdsPrompt, Limit, Prompt, text_prompt
from gateway.dialects import Dialect, Header
from gateway.dialects.fields import MOST_INPUTS, Body, check_count, checked, wrong
from gateway.errors import ApiError, refused


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is to be embedded; the items are not checked."""

    items: list[Any]
    is_list: bool  #: whether they came as a list, and not as the one that there is


def _inputs(value: object) -> Inputs:
    if isinstance(value, str):
        return Inputs([value], False)
    if not isinstance(value, list) or not value:
        raise wrong("should be a string, a list of token ids, or a list of either, and not empty")
    if not isinstance(value[0], str | list):
        return Inputs([value], False)
    check_count(value, MOST_INPUTS)
    return Inputs(value, True)


class EmbeddingRequest(Body):
    """The body of ``/v1/embeddings``."""

    model: str | None = None
    input: Annotated[
        Inputs,
        PlainValidator(
            _inputs, json_schema_input_type=str | list[str] | list[int] | list[list[int]]
        ),
    ] = Field(description=f"Text, token ids, or a list of up to {MOST_INPUTS} of either.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="A list of numbers, or 32-bit floats, little-endian, in Base64."
    )
    dimensions: int | None = Field(
        None, ge=1, description="Only so many of the numbers, scaled to length 1 again."
    )


class EmbeddingWriter:
    """Writes OpenAI's `CreateEmbeddingResponse`.

    Encodes each embedding as it comes: all at once would hold up everybody else.
    """

    media_type = ""

    def __init__(self, ask: Ask, header: Header) -> None:
        self._model = header.model
        self._dimensions = ask.dimensions
        self._is_base64 = ask.options == "base64"
        self._entries = [b""] * len(ask.prompts)

    def piece(self, index: int, piece: Piece) -> bytes:
        raise AssertionError("embeddings are not streamed")

    def end(self, usage: Usage) -> bytes:
        raise AssertionError("embeddings are not streamed")

    def failed(self, error: ApiError) -> bytes:
        raise AssertionError("embeddings are not streamed")

    def collect(self, index: int, piece: Piece) -> None:
        if not isinstance(piece, Ended):
            return
        numbers: str | list[float] = piece.embedding
        if not self._is_base64 or self._dimensions is not None:
            vector = _shortened(array("f", base64.b64decode(piece.embedding)), self._dimensions)
            packed = base64.b64encode(vector.tobytes()).decode("ascii")
            numbers = packed if self._is_base64 else vector.tolist()
        entry = {"object": "embedding", "index": index, "embedding": numbers}
        self._entries[index] = orjson.dumps(entry)

    def whole(self, usage: Usage) -> bytes:
        tokens = usage.prompt_tokens
        return orjson.dumps(
            {
                "object": "list",
                "data": [orjson.Fragment(entry) for entry in self._entries],
                "model": self._model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )


def _shortened(vector: "array[float]", dimensions: int | None) -> "array[float]":
    """The first numbers of a vector, scaled to length 1 again; all of them are as they are."""
    if dimensions is None or dimensions == len(vector):
        return vector
    first = vector[:dimensions]
    length = math.hypot(*first)
    return array("f", [number / length for number in first]) if length else first


def _read(body: Mapping[str, Any]) -> Ask:
    request = checked(EmbeddingRequest, body)
    return Ask(
        model=request.model,
        prompts=tuple(_prompts(request.input)),
        limit=Limit(0, is_clamped=False),
        embeds=True,
        dimensions=request.dimensions,
        options=request.encoding_format,
    )


def _prompts(inputs: Inputs) -> Sequence[Prompt]:
    prompts: list[Prompt] = []
    for place, item in enumerate(inputs.items):
        param = f"input[{place}]" if inputs.is_list else "input"
        if not isinstance(item, str | list):
            raise refused(param, "should be a string or a list of token ids")
        if not item:
            raise refused(param, "should not be empty")
        if isinstance(item, str):
            prompts.append(text_prompt(item, param, parses_special=False))
        else:
            prompts.append(IdsPrompt(item, param))
    return prompts


EMBEDDINGS = Dialect(
    path="/v1/embeddings",
    tag="embeddings",
    description=(
        "Say what texts mean to the model: each becomes a vector of length 1.\n\n"
        "It is the hidden state behind the last token, which some families of models do not"
        " give."
    ),
    bodies=(EmbeddingRequest,),
    example={"input": "The food was delicious."},
    answer="OpenAI's `CreateEmbeddingResponse`.",
    id_prefix="embd",
    read=_read,
    writer=EmbeddingWriter,
)
