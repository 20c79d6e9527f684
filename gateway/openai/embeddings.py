"""Embeddings on the wire: from a checked request to generations, and from their ends to the answer.

Text is somebody's document here: what looks like a special token in it stays plain text.
"""

import base64
import math
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from gateway.errors import ApiError
from gateway.openai.admission import check_length, check_prompt_ids
from gateway.openai.bodies import Body
from gateway.openai.prompts import question_id
from shared.errors import ErrorCode
from shared.messages import ModelInfo, Prepare, Prepared, Text

MOST_INPUTS = 2048
"""The most texts of a request."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is to be embedded; not checked any further, since that takes the model.

    Attributes:
        items: the texts, or their token ids.
        is_list: whether they came as a list, and not as the one that there is.
    """

    items: list[Any]
    is_list: bool

    @property
    def params(self) -> tuple[str, ...]:
        """What each of them is called in the request."""
        return tuple(f"input[{i}]" for i in range(len(self.items))) if self.is_list else ("input",)


def _inputs(value: object) -> Inputs:
    if isinstance(value, str):
        return Inputs([value], False)
    if not isinstance(value, list) or not value:
        message = "should be a string, a list of token ids, or a list of either, and not empty"
        raise PydanticCustomError("invalid_value", message)
    if not isinstance(value[0], str | list):
        return Inputs([value], False)
    if len(value) > MOST_INPUTS:
        message = f"should have at most {MOST_INPUTS} items, not {len(value)}"
        raise PydanticCustomError("invalid_value", message)
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


class Embedding(TypedDict):
    """What a text means to the model."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """What it has cost."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """The answer of ``/v1/embeddings``."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@dataclass(frozen=True, slots=True)
class EmbeddingPlan:
    """What a request comes to.

    Attributes:
        inputs: what to ask about each text, in order; ids need no question.
        texts: what they are, for the log.
        params: what each of the texts is called in the request.
        dimensions: how many numbers are wanted; None for all.
        is_base64: whether they are given as Base64.
    """

    inputs: tuple[Prepare | Prepared, ...]
    texts: tuple[str, ...]
    params: tuple[str, ...]
    dimensions: int | None
    is_base64: bool


def plan_embeddings(request: EmbeddingRequest, model: ModelInfo) -> EmbeddingPlan:
    """Lay out the answer to ``request``.

    Raises:
        ApiError: the model gives none, or not so long ones, or not of this.
    """
    if not model.n_embd:
        message = (
            f"This model's family ({model.family}) gives no embeddings here: LLaMA and Falcon do;"
            " StarCoder, MPT, GPT-2 and GPT-NeoX do not."
        )
        raise ApiError(ErrorCode.UNSUPPORTED_PARAMETER, message, "model")
    if request.dimensions is not None and request.dimensions > model.n_embd:
        message = f"'dimensions' should be at most {model.n_embd}, which this model has."
        raise ApiError(ErrorCode.INVALID_VALUE, message, "dimensions")
    params = request.input.params
    items, inputs = request.input.items, list[Prepare | Prepared]()
    for item, param in zip(items, params, strict=True):
        _check(item, param, model)
        if isinstance(item, str):
            inputs.append(Prepare(question_id(), Text(item, parses_special=False), param))
        else:
            inputs.append(Prepared("", tuple(item)))
    return EmbeddingPlan(
        tuple(inputs),
        tuple(item if isinstance(item, str) else f"token ids {item}" for item in items),
        params,
        request.dimensions,
        request.encoding_format == "base64",
    )


def _check(item: object, param: str, model: ModelInfo) -> None:
    if not isinstance(item, str | list):
        message = f"'{param}' should be a string or a list of token ids."
        raise ApiError(ErrorCode.INVALID_VALUE, message, param)
    if not item:
        raise ApiError(ErrorCode.INVALID_VALUE, f"'{param}' should not be empty.", param)
    if isinstance(item, str):
        check_length((item,), param, model)
        return
    check_prompt_ids(item, param, model)


def entry(index: int, embedding: str, plan: EmbeddingPlan) -> bytes:
    """An embedding of the answer, as JSON.

    Args:
        index: its place.
        embedding: as in `shared.messages.Finished`.
        plan: how it was asked for.
    """
    numbers: str | list[float] = embedding
    if not plan.is_base64 or plan.dimensions is not None:
        vector = _shortened(_floats(base64.b64decode(embedding)), plan.dimensions)
        packed = base64.b64encode(_bytes(vector)).decode("ascii")
        numbers = packed if plan.is_base64 else vector.tolist()
    return orjson.dumps(Embedding(object="embedding", index=index, embedding=numbers))


def embedding_list(entries: Sequence[bytes], model_id: str, prompt_tokens: int) -> bytes:
    """The whole answer, as JSON; ``entries`` are made by `entry`."""
    return orjson.dumps(
        {
            "object": "list",
            "data": [orjson.Fragment(each) for each in entries],
            "model": model_id,
            "usage": EmbeddingUsage(prompt_tokens=prompt_tokens, total_tokens=prompt_tokens),
        }
    )


def _shortened(vector: "array[float]", dimensions: int | None) -> "array[float]":
    """The first numbers of a vector, scaled to length 1 again; all of them are as they are."""
    if dimensions is None or dimensions == len(vector):
        return vector
    first = vector[:dimensions]
    length = math.hypot(*first)
    return array("f", [number / length for number in first]) if length else first


def _floats(content: bytes) -> "array[float]":
    floats = array("f", content)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats


def _bytes(floats: "array[float]") -> bytes:
    if sys.byteorder == "big":
        floats = array("f", floats)
        floats.byteswap()
    return floats.tobytes()
