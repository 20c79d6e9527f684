"""What OpenAI's published API description says of the answers, as JSON Schemas.

Only the parts that this server gives. Where that description leaves objects open only because it
says nothing, they are closed here: a field that it does not know is a mistake, but for what local
servers add to a model's entry. Where OpenAI's own server departs from its description (``null`` in
the streams and in the echoed prompts of ``/v1/completions``), the schemas follow the server.
"""

from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TOKEN_BYTE: Schema = {"type": "integer", "minimum": 0, "maximum": 255}


def one_of(*values: str) -> Schema:
    """One of some strings."""
    return {"type": "string", "enum": list(values)}


def nullable(schema: Schema) -> Schema:
    """That, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def items(schema: Schema, **more: Any) -> Schema:
    """An array."""
    return {"type": "array", "items": schema, **more}


def record(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


_TOP_LOGPROB = {"token": STRING, "logprob": NUMBER, "bytes": nullable(items(TOKEN_BYTE))}
_TOKEN_LOGPROB = record({**_TOP_LOGPROB, "top_logprobs": items(record(_TOP_LOGPROB))})
_CHAT_LOGPROBS = nullable(
    record({"content": nullable(items(_TOKEN_LOGPROB)), "refusal": nullable(items(_TOKEN_LOGPROB))})
)
_TOOL_CALL = record(
    {
        "id": STRING,
        "type": one_of("function"),
        "function": record({"name": STRING, "arguments": STRING}),
    }
)
_TOOL_CALL_CHUNK = record(
    {"index": COUNT},
    {
        "id": STRING,
        "type": one_of("function"),
        "function": record({}, {"name": STRING, "arguments": STRING}),
    },
)
_CHAT_FINISH_REASON = one_of("stop", "length", "tool_calls", "content_filter", "function_call")
_TEXT_FINISH_REASON = one_of("stop", "length", "content_filter")
_USAGE = record(
    {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT},
    {
        "prompt_tokens_details": record({}, {"audio_tokens": COUNT, "cached_tokens": COUNT}),
        "completion_tokens_details": record(
            {},
            {
                "accepted_prediction_tokens": COUNT,
                "audio_tokens": COUNT,
                "reasoning_tokens": COUNT,
                "rejected_prediction_tokens": COUNT,
            },
        ),
    },
)


def _answer(kind: str, choices: Schema, optional: dict[str, Schema]) -> Schema:
    return record(
        {
            "id": STRING,
            "object": one_of(kind),
            "created": COUNT,
            "model": STRING,
            "choices": choices,
        },
        {"system_fingerprint": STRING, **optional},
    )


_MESSAGE = record(
    {"role": one_of("assistant"), "content": nullable(STRING), "refusal": nullable(STRING)},
    {"tool_calls": items(_TOOL_CALL, minItems=1)},
)
_DELTA = record(
    {},
    {
        "role": one_of("assistant"),
        "content": nullable(STRING),
        "refusal": nullable(STRING),
        "tool_calls": items(_TOOL_CALL_CHUNK, minItems=1),
    },
)

CHAT_COMPLETION = _answer(
    "chat.completion",
    items(
        record(
            {
                "index": COUNT,
                "message": _MESSAGE,
                "logprobs": _CHAT_LOGPROBS,
                "finish_reason": _CHAT_FINISH_REASON,
            }
        ),
        minItems=1,
    ),
    {"usage": _USAGE},
)
"""``CreateChatCompletionResponse``."""

CHAT_CHUNK = _answer(
    "chat.completion.chunk",
    items(
        record(
            {"index": COUNT, "delta": _DELTA, "finish_reason": nullable(_CHAT_FINISH_REASON)},
            {"logprobs": _CHAT_LOGPROBS},
        )
    ),
    {"usage": nullable(_USAGE)},
)
"""``CreateChatCompletionStreamResponse``."""

_TEXT_LOGPROBS = nullable(
    record(
        {
            "tokens": items(STRING),
            "token_logprobs": items(nullable(NUMBER)),
            "top_logprobs": nullable(
                items(nullable({"type": "object", "additionalProperties": NUMBER}))
            ),
            "text_offset": items(COUNT),
        }
    )
)


def _text_choice(finish_reason: Schema) -> Schema:
    return record(
        {
            "index": COUNT,
            "text": STRING,
            "logprobs": _TEXT_LOGPROBS,
            "finish_reason": finish_reason,
        }
    )


COMPLETION = _answer(
    "text_completion", items(_text_choice(_TEXT_FINISH_REASON), minItems=1), {"usage": _USAGE}
)
"""``CreateCompletionResponse``, when it is the whole answer."""

COMPLETION_CHUNK = _answer(
    "text_completion",
    items(_text_choice(nullable(_TEXT_FINISH_REASON))),
    {"usage": nullable(_USAGE)},
)
"""``CreateCompletionResponse``, when it is an event of a stream."""


def embeddings(vector: Schema) -> Schema:
    """``CreateEmbeddingResponse``, in one of its encodings."""
    entry = record({"object": one_of("embedding"), "index": COUNT, "embedding": vector})
    return record(
        {
            "object": one_of("list"),
            "model": STRING,
            "data": items(entry, minItems=1),
            "usage": record({"prompt_tokens": COUNT, "total_tokens": COUNT}),
        }
    )


EMBEDDINGS = embeddings(items(NUMBER, minItems=1))
EMBEDDINGS_BASE64 = embeddings({"type": "string", "pattern": "^[A-Za-z0-9+/]+=*$"})

MODEL: Schema = {
    "type": "object",
    "properties": {
        "id": STRING,
        "object": one_of("model"),
        "created": COUNT,
        "owned_by": STRING,
    },
    "required": ["id", "object", "created", "owned_by"],
}
"""``Model``; local servers add to it."""

MODEL_LIST = record({"object": one_of("list"), "data": items(MODEL, minItems=1)})
"""``ListModelsResponse``."""

ERROR = record(
    {
        "error": record(
            {
                "message": {"type": "string", "minLength": 1},
                "type": STRING,
                "param": nullable(STRING),
                "code": nullable(STRING),
            }
        )
    }
)
"""``ErrorResponse``."""
