"""For whoever runs the server: is it alive, is it ready, what is it."""

from dataclasses import asdict
from html import escape
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from gateway.auth.keys import is_stranger
from gateway.errors import DEFAULT_RETRY_AFTER, excerpt
from gateway.observe.metrics import CONTENT_TYPE
from gateway.serving import serving_of

router = APIRouter(tags=["operations"])

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
@router.get("/health")
async def health() -> dict[str, str]:
    """Say that the gateway is alive, whatever its workers do."""
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)
@router.get("/ready", responses={503: {"description": "Nothing is taken at present."}})
async def ready(request: Request) -> Response:
    """Say whether a generation could start, and what each worker is doing."""
    status = serving_of(request).pool.status()
    content: dict[str, Any] = {
        "state": status.state,
        "reason": status.reason,
        "waiting": status.waiting,
        "running": status.running,
        "slots": status.slots,
        "workers": [asdict(worker) for worker in status.workers],
        "zygote": asdict(status.zygote),
        "evictions": status.totals.evictions,
    }
    if is_stranger(request.scope):
        content = {"state": content["state"]}
    if status.state == "ready" and status.reason is None:
        return JSONResponse(content)
    return JSONResponse(content, 503, {"retry-after": str(DEFAULT_RETRY_AFTER)})


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Say the same in numbers, for Prometheus."""
    return Response(serving_of(request).metrics.text(), media_type=CONTENT_TYPE)


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def index(request: Request) -> HTMLResponse:
    """A page that says what is served here."""
    return HTMLResponse(
        INDEX.format(
            model=escape(serving_of(request).config.model_id),
            host=escape(excerpt(request.headers.get("host", "localhost:8000"))),
        )
    )
