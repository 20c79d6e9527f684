"""``/props``: what is served and how, in llama-server's words."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from gateway.openai.admission import loaded_model
from gateway.openai.schema import ERROR_RESPONSES
from gateway.serving import VERSION, serving_of
from shared.sampling import SamplingParams

router = APIRouter(tags=["models"])


class GenerationSettings(TypedDict):
    """What a generation gets whose request says nothing else."""

    n_ctx: int
    params: dict[str, Any]


class Props(TypedDict):
    """The model and the server, as llama-server describes itself."""

    default_generation_settings: GenerationSettings
    total_slots: int
    model_alias: str
    model_path: str
    chat_template: str
    bos_token: str
    eos_token: str
    build_info: str
    modalities: dict[str, bool]


@router.get("/props", responses=ERROR_RESPONSES)
async def props(request: Request) -> Props:
    """Describe the model and what a request gets that says nothing else."""
    serving = serving_of(request)
    config, model = serving.config, loaded_model(serving.pool.load())
    defaults = asdict(SamplingParams())
    return {
        "default_generation_settings": {
            "n_ctx": model.n_ctx,
            "params": {k: v for k, v in defaults.items() if isinstance(v, int | float)},
        },
        "total_slots": config.workers,
        "model_alias": config.model_id,
        "model_path": Path(config.model_file).name,  # its folders are nobody's business
        "chat_template": model.chat_template or "",
        "bos_token": model.bos_token,
        "eos_token": model.eos_token,
        "build_info": f"ggml-fastapi {VERSION}",
        "modalities": {"vision": False, "audio": False},
    }
