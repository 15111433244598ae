"""Multipart forms, held in memory: nothing of a request is written to the disk."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from .errors import ApiError

MOST_FILES, MOST_FIELDS = 4, 64


class _MemoryParser(MultiPartParser):
    """The body is limited before this, so files of any size may stay in memory."""

    spool_max_size = max_file_size = 2**40


@dataclass(frozen=True)
class Form:
    """The fields of a form, each given once."""

    texts: dict[str, str]
    files: dict[str, bytes]


async def read_form(request: Request) -> Form:
    """Return the fields of a multipart request. `image[]` is `image`. Raises ApiError."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        raise ApiError(
            "send a form of type multipart/form-data with an image and a mask", code="invalid_content_type"
        )
    parser = _MemoryParser(request.headers, request.stream(), max_files=MOST_FILES, max_fields=MOST_FIELDS)
    try:
        data = await parser.parse()
    except MultiPartException as error:
        raise ApiError(f"the form cannot be read: {error.message}", code="invalid_form") from error
    form = Form({}, {})
    try:
        for key, value in data.multi_items():
            name = key.removesuffix("[]")
            if name in form.texts or name in form.files:
                raise ApiError(f"{name} is given twice: send one", param=name, code="invalid_form")
            if isinstance(value, UploadFile):
                form.files[name] = await value.read()
            else:
                form.texts[name] = value
    finally:
        await data.close()
    return form
