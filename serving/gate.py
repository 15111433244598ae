"""What every request passes before its route: metrics, the end of the server, the limit of its size."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, stopping
from .service import Service

logger = logging.getLogger("imgtf.serving")

IMAGES = ("/v1/images/generations", "/v1/images/edits")
ROUTES = (*IMAGES, "/v1/models", "/health", "/metrics", "/openapi.json")
"""Routes that the metrics name; the others are one."""
BODY_SECONDS = 60.0
"""Time that a client has to send its request."""


class Gate:
    """ASGI middleware around the routes of a service."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, observed)
        finally:
            self._report(scope, status, time.perf_counter() - start)

    def _report(self, scope: Scope, status: int, seconds: float) -> None:
        path = scope["path"]
        self.service.metrics.request(path if path in ROUTES else "other", status, seconds)
        if self.service.config.access_log:
            logger.info("%s %.200r %d %.3f s", scope["method"], path, status, seconds)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in IMAGES or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if self.service.draining:
            await _refuse(stopping(), scope, receive, send)
            return
        self.service.active += 1
        try:
            body = await read_body(Headers(scope=scope), receive, self.service.config.max_upload * 2**20)
            if body is not None:
                await self.app(scope, _replayed(body, receive), send)
        except ApiError as error:
            await _refuse(error, scope, receive, send)
        finally:
            self.service.active -= 1


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes | None:
    """Return the body of a request; None when the client has gone.

    A body beyond the limit is read to its end and dropped: most clients read an answer only after they have sent all.
    One that waits with its body (`Expect: 100-continue`, as curl does) is answered at once.

    Raises:
        ApiError: it has more bytes than the limit, or does not arrive in time.
    """
    too_large = ApiError(
        f"the request is larger than {limit // 2**20} MB: send smaller images", code="request_too_large"
    )
    length = headers.get("content-length", "")
    if "expect" in headers and length.isdecimal() and int(length) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part = message.get("body", b"")
                size += len(part)
                parts.append(part)
                if size > limit:
                    parts.clear()
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise ApiError(
            f"the request did not arrive within {BODY_SECONDS:.0f} s", status=408, code="timeout"
        ) from None
    if size > limit:
        raise too_large
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body again, and then what the connection gives."""
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without the routes, and close the connection, which may still be sending."""
    headers = error.headers | {"Connection": "close"}
    await JSONResponse(error.body, error.status, headers)(scope, receive, send)
