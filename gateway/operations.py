"""The other HTTP routes: what is served, is it alive, is it ready, and ``/admin``."""

import hmac
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from gateway.answer.plan import loaded_model
from gateway.auth.keys import is_stranger
from gateway.errors import DEFAULT_RETRY_AFTER, ApiError, excerpt
from gateway.models import VERSION, Admin, Served, models_of
from gateway.observe.metrics import CONTENT_TYPE
from gateway.openapi import ERROR_RESPONSES
from shared.errors import ErrorCode
from shared.sampling import SamplingParams

router = APIRouter()

INDEX = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{model} - ggml-fastapi</title>
<h1>{model}</h1>
<p>An OpenAI-style API is served here. <a href="/docs">All endpoints</a>. Try:</p>
<pre>curl -N http://{host}/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{{"messages": [{{"role": "user", "content": "Tell me a story."}}]}}'</pre>
</html>
"""


@router.head("/health", include_in_schema=False)
@router.get("/health", tags=["operations"])
async def health() -> dict[str, str]:
    """Say that the gateway is alive, whatever its workers do."""
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready", tags=["operations"], responses={503: {"description": "Nothing is taken at present."}}
)
async def ready(request: Request) -> Response:
    """Say whether a generation could start, and what each worker is doing."""
    status = models_of(request).default.pool.status()
    content: dict[str, Any] = {
        "state": status.state,
        "reason": status.reason,
        "waiting": status.waiting,
        "running": status.running,
        "slots": status.max_running,
        "workers": [asdict(worker) for worker in status.workers],
        "zygote": asdict(status.zygote),
        "prefix_cache": asdict(status.prefix_cache),
        "evictions": status.totals.evictions,
    }
    if is_stranger(request.scope):
        content = {"state": content["state"]}
    if status.state == "ready" and status.reason is None:
        return JSONResponse(content)
    return JSONResponse(content, 503, {"retry-after": str(DEFAULT_RETRY_AFTER)})


@router.get("/metrics", tags=["operations"], response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Say the same in numbers, for Prometheus."""
    return Response(models_of(request).metrics.text(), media_type=CONTENT_TYPE)


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def index(request: Request) -> HTMLResponse:
    """A page that says what is served here."""
    return HTMLResponse(
        INDEX.format(
            model=escape(models_of(request).default.config.model_id),
            host=escape(excerpt(request.headers.get("host", "localhost:8000"))),
        )
    )


@router.get("/v1/models", tags=["models"])
async def list_models(request: Request) -> dict[str, Any]:
    """List the model that is served."""
    return {"object": "list", "data": [_entry(models_of(request).default)]}


@router.get("/v1/models/{model_id:path}", tags=["models"], responses=ERROR_RESPONSES)
async def retrieve_model(request: Request, model_id: str) -> dict[str, Any]:
    """Describe a model; its id may hold slashes."""
    return _entry(models_of(request).find(model_id))


def _entry(served: Served) -> dict[str, Any]:
    """OpenAI's `Model`, with what local servers add."""
    config, model = served.config, served.pool.status().model
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
        **config.measured(),
    }


@router.get("/props", tags=["models"], responses=ERROR_RESPONSES)
async def props(request: Request) -> dict[str, Any]:
    """Describe the model and what a request gets that says nothing else, as llama-server does."""
    served = models_of(request).default
    config, model = served.config, loaded_model(served.pool)
    defaults = asdict(SamplingParams())
    return {
        "default_generation_settings": {
            "n_ctx": model.n_ctx,
            "params": {k: v for k, v in defaults.items() if isinstance(v, int | float)},
        },
        "total_slots": served.pool.status().max_running,
        "model_alias": config.model_id,
        "model_path": Path(config.model_file).name,  # its folders are nobody's business
        "chat_template": model.chat_template or "",
        **({"chat_template_tool_use": model.tool_template} if model.tool_template else {}),
        "bos_token": model.bos_token,
        "eos_token": model.eos_token,
        "build_info": f"ggml-fastapi {VERSION}",
        "modalities": {"vision": False, "audio": False},
        **config.measured(),
    }


@router.post("/admin/reload", include_in_schema=False)
async def reload(request: Request) -> JSONResponse:
    """Load the model again, or what has taken its place; the answer comes when it serves."""
    reloaded = await _admin(request).reload()
    return JSONResponse(
        {
            "model": reloaded.model_id,
            "workers": reloaded.workers,
            "seconds": round(reloaded.seconds, 3),
        }
    )


def _admin(request: Request) -> Admin:
    """What the key that came with the request opens.

    Raises:
        HTTPException: 404, there is no such key.
        ApiError: `INVALID_API_KEY`.
    """
    admin = models_of(request).admin
    if admin is None:
        raise HTTPException(404)
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    is_right = hmac.compare_digest(key.strip().encode(), admin.key.encode())
    if scheme.lower() != "bearer" or not is_right:
        raise ApiError(
            ErrorCode.INVALID_API_KEY,
            "This takes the key for /admin: send the header 'Authorization: Bearer ADMIN_KEY'.",
            headers={"www-authenticate": "Bearer"},
        )
    return admin
