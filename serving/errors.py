"""Errors of requests, in the shape of OpenAI's API."""

from __future__ import annotations

from typing import Any

from ..errors import ImgtfError

TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
"""Status -> type of the error; the others are errors of the request."""


class ApiError(ImgtfError):
    """A request that is not answered with images.

    Args:
        message: one line.
        param: the field of the request that is wrong.
        code: the kind of error, for programs.
        retry_after: seconds after which the client may try again.
    """

    def __init__(
        self,
        message: object,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(" ".join(str(message).split()))
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def wrong(param: str, message: object, code: str = "invalid_value") -> ApiError:
    """Return the error of a field."""
    return ApiError(message, param=param, code=code)


def stopping() -> ApiError:
    """The answer of a server that drains."""
    return ApiError(
        "the server is stopping: send the request again later, or to another server",
        status=503, code="stopping", retry_after=5,
    )  # fmt: skip
