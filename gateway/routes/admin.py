"""``/admin``: for whoever runs the server and has the key for it."""

import hmac

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gateway.errors import ApiError
from gateway.serving import Admin, serving_of
from shared.errors import ErrorCode

router = APIRouter(tags=["operations"], include_in_schema=False)


@router.post("/admin/reload")
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
    admin = serving_of(request).admin
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
