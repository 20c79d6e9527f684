"""``/v1/models``: the one model that is served."""

from fastapi import APIRouter, Request
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from gateway.openai.admission import check_model_name
from gateway.openai.schema import ERROR_RESPONSES
from gateway.serving import Serving, serving_of

router = APIRouter(tags=["models"])


class ModelEntry(TypedDict):
    """A model, as OpenAI lists it, with what local servers add."""

    id: str
    object: str
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int | None
    family: str | None
    chat_template: str | None
    n_ctx_train: int | None
    n_vocab: int | None
    n_embd: int | None
    quantisation: str | None


class ModelList(TypedDict):
    """All models."""

    object: str
    data: list[ModelEntry]


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """List the model that is served."""
    return {"object": "list", "data": [_entry(serving_of(request))]}


@router.get("/v1/models/{model_id:path}", responses=ERROR_RESPONSES)
async def retrieve_model(request: Request, model_id: str) -> ModelEntry:
    """Describe a model; its id may hold slashes."""
    serving = serving_of(request)
    check_model_name(model_id, serving.config)
    return _entry(serving)


def _entry(serving: Serving) -> ModelEntry:
    config, model = serving.config, serving.pool.load().model
    return {
        "id": config.model_id,
        "object": "model",
        "created": config.created,
        "owned_by": "ggml-fastapi",
        "root": config.model_id,
        "parent": None,
        "max_model_len": model.n_ctx if model else None,
        "family": model.family if model else None,
        "chat_template": model.chat_format if model else None,
        "n_ctx_train": (model.n_ctx_train or None) if model else None,
        "n_vocab": model.n_vocab if model else None,
        "n_embd": model.n_embd if model else None,
        "quantisation": (model.quantisation or None) if model else None,
    }
