"""Mutated image files for fuzz.py: truncated, changed, with other headers, and what becomes of them."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from imgtf.data.decode import BadImage, load_image, open_image
from imgtf.data.image import transform
from imgtf.data.image_bytes import PNG, without_text

MODES = {
    "png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "jpg": ["L", "RGB", "CMYK"],
    "gif": ["L", "P", "RGB"],
    "webp": ["RGB", "RGBA"],
    "bmp": ["1", "L", "P", "RGB", "RGBA"],
    "tif": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F"],
    "ppm": ["1", "L", "RGB"],
    "tga": ["L", "P", "RGB", "RGBA"],
    "ico": ["RGBA"],
    "jp2": ["L", "RGB", "RGBA"],
    "avif": ["RGB"],
    "pcx": ["1", "L", "P", "RGB"],
    "sgi": ["L", "RGB", "RGBA"],
    "qoi": ["RGB", "RGBA"],
}
"""Suffix -> modes that Pillow writes."""
SIDES = (24, 18)
FORMATS = {"jpg": "JPEG", "tif": "TIFF", "ppm": "PPM", "jp2": "JPEG2000"}


@cache
def original(suffix: str, mode: str, variant: int) -> bytes:
    """A sound image file of a suffix and mode; the variant chooses compression, animation and metadata."""
    stream = np.random.default_rng(variant)
    rgb = Image.fromarray(stream.integers(0, 256, (*SIDES, 3), np.uint8)).resize((48, 36))
    if mode in ("I;16", "I", "F"):
        wide = np.asarray(rgb.convert("L"))
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((wide / 255 * (1 if mode == "F" else 65535)).astype(kind))
    elif mode == "LAB":
        image = Image.merge("LAB", rgb.split())
    else:
        image = rgb.convert(mode)
    out = io.BytesIO()
    given: dict[str, object] = {}
    if suffix == "jpg":
        given = {
            "progressive": variant % 2 == 1,
            "exif": _exif(variant),
            "restart_marker_blocks": variant % 3,
        }
    if suffix == "tif":
        plain = mode in ("LA", "LAB", "I", "F", "I;16")
        given = {"compression": None if plain else [None, "tiff_lzw", "tiff_adobe_deflate"][variant % 3]}
    if suffix in ("gif", "webp", "png") and variant % 3 == 2 and mode in ("RGB", "P"):
        given = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    if suffix == "png" and variant % 3 == 1:
        given = {"icc_profile": b"garbage" * 9, "exif": _exif(variant)}
    if suffix == "webp":
        given["lossless"] = variant % 2 == 1
    image.save(out, FORMATS.get(suffix, suffix.upper()), **given)
    return out.getvalue()


def _exif(variant: int) -> bytes:
    if variant % 2:
        return b"Exif\0\0II*\0" + random.Random(variant).randbytes(40)
    exif = Image.Exif()
    exif[0x0112] = 1 + variant % 9
    return exif.tobytes()


def truncated(data: bytes, stream: random.Random) -> bytes:
    return data[: stream.randrange(len(data))]


def changed(data: bytes, stream: random.Random) -> bytes:
    """A few bytes replaced."""
    out = bytearray(data)
    for _ in range(stream.choice([1, 1, 2, 8, 64])):
        out[stream.randrange(len(out))] = stream.choice([0, 255, 1, 127, 128, stream.randrange(256)])
    return bytes(out)


def header(data: bytes, stream: random.Random) -> bytes:
    """Bytes of the first 64 replaced by extreme numbers."""
    at, size = stream.randrange(64), stream.choice([1, 2, 4, 8])
    value = stream.choice([0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), stream.randrange(2 ** (8 * size))])
    return data[:at] + value.to_bytes(size, stream.choice(["big", "little"])) + data[at + size :]


def moved(data: bytes, stream: random.Random) -> bytes:
    """A part removed, repeated, or set to zero."""
    a, b = sorted(stream.randrange(len(data) + 1) for _ in range(2))
    return data[:a] + stream.choice([b"", data[a:b] * 2, bytes(b - a)]) + data[b:]


def sized(data: bytes, stream: random.Random) -> bytes:
    """A PNG header with other sizes, depth and colour, and a right checksum."""
    sides = (1, 0, 7, 48, 65500, 100_000, 13_000, 2**31 - 1, 2**32 - 1)
    width, height = stream.choice(sides), stream.choice(sides)
    return with_header(data, width, height, stream.choice([1, 8, 16]), stream.choice([0, 2, 3, 4, 6]))


def with_header(data: bytes, width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG with the header of another image."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return PNG + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def appended(data: bytes, stream: random.Random) -> bytes:
    return data + stream.randbytes(stream.choice([1, 100, 10_000]))


def spliced(data: bytes, stream: random.Random) -> bytes:
    """The start of one file and the end of another."""
    other = stream.choice(sorted(MODES))
    tail = original(other, MODES[other][0], 0)
    return data[: stream.randrange(len(data))] + tail[stream.randrange(len(tail)) :]


def junk(data: bytes, stream: random.Random) -> bytes:
    return data[: stream.choice([0, 2, 8, 16])] + stream.randbytes(stream.choice([0, 1, 50, 5000]))


def untouched(data: bytes, stream: random.Random) -> bytes:
    return data


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    truncated, truncated, changed, changed, header, moved, sized, appended, spliced, junk, untouched
]  # fmt: skip


def case(seed: int, folder: Path) -> tuple[str, str, str]:
    """Mutate, read, judge one image; return its mutation, the outcome and a note.

    Outcomes: correct, error (one line that names the file), wrong. A success is wrong where the file was cut and the
    pixels are not those of the whole file, where Pillow itself refuses the same bytes, or where the tensor for the
    network has another shape or range than it should.
    """
    stream = random.Random(seed)
    suffix = stream.choice(sorted(MODES))
    mode, variant = stream.choice(MODES[suffix]), stream.randrange(12)
    whole = original(suffix, mode, variant)
    mutate = MUTATIONS[seed % len(MUTATIONS)]
    data = mutate(whole, stream)
    path = folder / f"{seed % 7}.{stream.choice([suffix, suffix, 'png', 'jpg'])}"
    path.write_bytes(data)
    label = f"{mutate.__name__} {suffix} {mode} {variant}"
    return (
        mutate.__name__,
        *judge(path, data, whole if mutate in (truncated, untouched) else None, stream, label),
    )


def judge(path: Path, data: bytes, whole: bytes | None, stream: random.Random, label: str) -> tuple[str, str]:
    """Return outcome and note of one file. `whole`: the file that it is the start of."""
    try:
        open_image(str(path), str(path))
        image = load_image(str(path), str(path), stream.choice([None, 1, 8, 16]))
        try:
            tensor = transform(image, 16, stream.choice([1, 3]))
        except BadImage as error:
            raise BadImage(str(path), error.why) from error
    except BadImage as error:
        if "\n" in str(error) or str(path) not in str(error):
            return "wrong", f"{label}: not one line with the file: {error!s:.200}"
        sound = whole == data and not label.startswith("truncated")
        return ("wrong", f"{label}: sound, but refused: {error}") if sound else ("error", "")
    if tensor.shape[1:] != (16, 16) or not (tensor.abs() <= 1).all():
        return "wrong", f"{label}: a tensor {tuple(tensor.shape)} {tensor.min()} to {tensor.max()}"
    full = load_image(str(path), str(path))
    if whole is not None and not _same(full, load_image(whole, "whole")):
        return "wrong", f"{label}: {len(data)} of {len(whole)} bytes are decoded as if they were whole"
    return ("correct", "") if _pillow_reads(data) else ("wrong", f"{label}: Pillow refuses it")


def _same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()


def _pillow_reads(data: bytes) -> bool:
    """Whether Pillow decodes the bytes, without the text that it limits and that is not used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Image.open(io.BytesIO(without_text(data))).load()
        except Exception:
            return False
    return True
