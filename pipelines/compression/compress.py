"""Images to compressed files and back: the codes of the tokenizer, range coded under the prior.

Shapes: h, w grid, T = h*w tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...data.image import check_background
from ...errors import CheckpointError, DataError
from ...prior.decoding.decoder import Decoder
from ...prior.decoding.stepwise import Stepwise, coding_order, stepwise
from ...tokenizer.images import ImageLike
from ..condition_loader import to_condition
from ..models import Models
from ..prepare import changed_text, fixed_values, prepare
from ..request import Progress
from .coder import NotDecodable, decode_codes, encode_codes
from .file import HASH_BYTES, Compressed

logger = logging.getLogger("imgtf")


def compress(
    models: Models,
    image: ImageLike,
    *,
    label: str | int | None = None,
    text: str | None = None,
    background: str = "white",
    progress: Progress | None = None,
) -> bytes:
    """Return an image at the tokenizer's size as a compressed file, from which `decompress` gives its codes back.

    Args:
        label, text: class and caption of the image, for priors that are conditioned on them. They make the file
            smaller, and are stored in it. Without them the prior is unconditional.
        background: colour behind transparent pixels.
        progress: called after every code with 1.

    Raises:
        DataError: the image is missing or unreadable.
        ConfigError: a condition that the prior does not have.
        ImgtfError: the package constriction is missing.
    """
    check_background(background)
    values = fixed_values(models.loaders, label=label, text=text)
    config = models.tokenizer.config
    prepared = prepare(image, config, background)
    if prepared.changed:
        name = image if isinstance(image, (str, PathLike)) else "the image"
        logger.info("%s", changed_text(f"{name} was", config))
    with torch.no_grad():
        codes = models.tokenizer.encode(prepared.pixels[None].to(models.tokenizer.device))[0]
    return compress_codes(models, codes, values, progress)


def decompress(
    models: Models, data: bytes, *, where: str = "data", progress: Progress | None = None
) -> Image.Image:
    """Return the decoded image of a file that `compress` wrote.

    Args:
        where: name of the file, for errors.
        progress: called after every code with 1.

    Raises:
        DataError: `compress` did not write it; it is damaged or truncated; or its probabilities were computed on
            another kind of machine.
        CheckpointError: it was compressed with another model, precision or device.
    """
    return models.decode(decompress_codes(models, data, where=where, progress=progress)[None])[0]


def compress_codes(
    models: Models, codes: Tensor, values: Mapping[str, list[Any]], progress: Progress | None = None
) -> bytes:
    """Return the codes (h, w) of an image as a compressed file.

    Args:
        values: one value for each condition that is given, see `fixed_values`.
    """
    order = coding_order(models.prior.config)
    flat = codes.flatten().cpu()
    payload = encode_codes(_start(models, values), flat[order], progress or _silent)
    label, text = values.get("label", [None])[0], values.get("text", values.get("features", [None]))[0]
    return Compressed(*_made_with(models), label, text, payload).sealed(flat).to_bytes()


def decompress_codes(
    models: Models, data: bytes, *, where: str = "data", progress: Progress | None = None
) -> Tensor:
    """Return the codes (h, w) of a file that `compress` wrote. Arguments and errors are those of `decompress`."""
    compressed = Compressed.from_bytes(data, where)
    _check_model(models, compressed, where)
    order = coding_order(models.prior.config)
    try:
        start = _start(models, _stored_values(models, compressed))
        ordered = decode_codes(start, compressed.payload, progress or _silent)
    except NotDecodable:
        raise _wrong_codes(where) from None
    codes = torch.empty_like(ordered).scatter(0, order, ordered)
    if compressed.checksum != compressed.checksum_of(codes):
        raise _wrong_codes(where)
    return codes.unflatten(0, models.prior.config.grid)


def _start(models: Models, values: Mapping[str, list[Any]]) -> Callable[[], Stepwise]:
    """Return what starts the steps of one image.

    With a decoder of its own: the layout of packed weights may depend on the number of threads at the time of packing.
    """
    order = coding_order(models.prior.config)
    return lambda: stepwise(Decoder(models.prior), to_condition(models.loaders, values), order)


def _made_with(models: Models) -> tuple[str, str, bytes, bytes, tuple[int, int]]:
    """Return what must be the same to decompress: precision, device, prior, tokenizer, image size."""
    hashes = (models.prior_sha256(), models.tokenizer.weights_sha256())
    prior, tokenizer = (bytes.fromhex(sha256)[:HASH_BYTES] for sha256 in hashes)
    return models.precision, models.prior.device.type, prior, tokenizer, models.tokenizer.config.size


def _check_model(models: Models, compressed: Compressed, where: str) -> None:
    """Raise CheckpointError unless the file was compressed with these models, in this precision, on this device."""
    names = ("precision", "device", "prior", "tokenizer", "size")
    for name, own in zip(names, _made_with(models), strict=True):
        needed = getattr(compressed, name)
        if own != needed:
            raise CheckpointError(
                f"{where}: compressed with {name} {_text(needed)}, this model has {_text(own)}; load the model that "
                f"compressed it in the same way"
            )


def _stored_values(models: Models, compressed: Compressed) -> dict[str, list[Any]]:
    caption = "features" if any(loader.kind == "features" for loader in models.loaders) else "text"
    stored = {"label": compressed.label, caption: compressed.text}
    return {kind: [value] for kind, value in stored.items() if value is not None}


def _wrong_codes(where: str) -> DataError:
    return DataError(
        f"{where}: the codes do not have the checksum of the file: it is damaged, or was compressed on another kind of "
        f"machine or with another version of torch; decompress it where it was compressed"
    )


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _silent(codes: int) -> None:
    """No progress."""
