"""The fields of a request: those of OpenAI's images API, and the sampling settings of imgtf."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ApiError

MAX_PROMPT = 4000
"""Longest prompt in characters, as in OpenAI's API."""
SAMPLING = (
    "temperature", "final_temperature", "top_k", "top_p", "min_p", "cfg_scale", "cfg_schedule", "cfg_power", "order",
    "sampling_steps", "step_schedule", "confidence_noise",
)  # fmt: skip
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "response_format": ("b64_json",),
    "output_format": ("png",),
    "quality": ("auto", "standard"),
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "stream": (False, "false"),
    "partial_images": (0, "0"),
}
"""Fields of OpenAI's API that this server knows one value of."""
REASONS = {
    "response_format": "this server answers with b64_json only, as it keeps no images that an url could point to",
    "stream": "this server does not stream",
}
Fields = TypeVar("Fields", bound="RequestFields")


class RequestFields(BaseModel):
    """What generations and edits share. None takes the default; sampling settings have those of the model."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    prompt: str | None = Field(None, max_length=MAX_PROMPT)
    """A caption; for models with classes only, the name of a class. Empty: none."""
    label: str | int | None = None
    """Name or number of a class."""
    n: int | None = None
    size: str | None = None
    """WIDTHxHEIGHT, or auto."""
    seed: int | None = None
    """None: a random one."""
    model: str | None = None
    user: str | None = None
    """For the client's own records; not read."""
    response_format: str | None = None
    output_format: str | None = None
    quality: str | None = None
    background: str | None = None
    moderation: str | None = None
    stream: bool | str | None = None
    partial_images: int | str | None = None
    temperature: float | None = None
    final_temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    cfg_scale: float | None = None
    cfg_schedule: str | None = None
    cfg_power: float | None = None
    order: str | None = None
    sampling_steps: int | None = None
    step_schedule: str | None = None
    confidence_noise: float | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling settings that are given."""
        given = {name: getattr(self, name) for name in SAMPLING}
        return {name: value for name, value in given.items() if value is not None}

    def check_neutral(self) -> None:
        """Raise ApiError for values of OpenAI's fields that this server does not have."""
        for name, known in NEUTRAL.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                reason = REASONS.get(name, f"this server has {name} {' or '.join(map(repr, known))} only")
                raise ApiError(
                    f"{name} {value!r:.60} is not possible: {reason}",
                    param=name,
                    code=f"unsupported_{name}",
                )


class GenerationFields(RequestFields):
    """The body of /v1/images/generations."""


class EditFields(RequestFields):
    """The text fields of /v1/images/edits."""


def read_json(body: bytes, fields: type[Fields]) -> Fields:
    """Return the fields of a JSON body. Raises ApiError."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are no UTF-8
        raise ApiError(f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(given, dict):
        raise ApiError('the body must be a JSON object, such as {"n": 1}', code="invalid_json")
    return _checked(fields, given, strict=True)


def read_form(given: Mapping[str, str], fields: type[Fields]) -> Fields:
    """Return the fields of a form, whose values are text; empty ones are not given. Raises ApiError."""
    return _checked(fields, {name: text for name, text in given.items() if text}, strict=False)


def _checked(fields: type[Fields], given: Mapping[str, Any], *, strict: bool) -> Fields:
    try:
        checked = fields.model_validate(given, strict=strict)
    except ValidationError as error:
        raise _api_error(error.errors(include_url=False), given, fields) from error
    checked.check_neutral()
    return checked


def _api_error(errors: Sequence[Any], given: Mapping[str, Any], fields: type[RequestFields]) -> ApiError:
    """Return the first error as one line."""
    first = errors[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, fields.model_fields, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return ApiError(f"unknown field {name!r:.60}{hint}", param=name[:60], code="unknown_field")
    wanted = " or ".join(dict.fromkeys(error["msg"] for error in errors if error["loc"][0] == name))
    shown = given.get(name)
    return ApiError(f"{name}: {wanted}, got {shown!r:.60}", param=name, code="invalid_value")
