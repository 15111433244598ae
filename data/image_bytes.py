"""Bytes of image files: PNGs without their text, and files that end too early. No pixels are decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
ORIENTATION_KEYS = (b"XML:com.adobe.xmp", b"Raw profile type exif")
"""Text in which Pillow looks for the orientation."""
SMALL = 2**15
"""Bytes of text that stay: enough for an orientation."""


def without_text(data: bytes) -> bytes:
    """Return a PNG without text and colour profile, which are not used and which Pillow limits to 1 MiB.

    Image tools write prompts and workflows of megabytes there. Other formats are returned as they are.
    """
    if not data.startswith(PNG) or not any(name in data for name in TEXT_CHUNKS):
        return data
    kept = [data[start:end] for name, start, end in _chunks(data) if not _is_dropped(data, name, start, end)]
    return PNG + b"".join(kept)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of every chunk; the last one may be cut."""
    start = len(PNG)
    while start < len(data):
        (length,) = struct.unpack(">I", data[start : start + 4].rjust(4, b"\0"))
        end = start + 12 + length
        yield data[start + 4 : start + 8], start, min(end, len(data))
        start = end


def _is_dropped(data: bytes, name: bytes, start: int, end: int) -> bool:
    if name not in TEXT_CHUNKS:
        return False
    return end - start > SMALL or not data.startswith(ORIENTATION_KEYS, start + 8)


def pcx_is_truncated(data: bytes) -> bool:
    """Return whether a PCX file ends before its last row or its palette, which Pillow does not notice."""
    version, bits, planes = data[1], data[3], data[65]
    top, bottom, stride = (struct.unpack_from("<H", data, at)[0] for at in (6, 10, 66))
    missing, at = stride * planes * (bottom - top + 1), 128
    while missing > 0 and at < len(data):
        repeated = data[at] >= 192
        missing -= data[at] & 63 if repeated else 1
        at += 1 + repeated
    palette = 769 if (version, bits, planes) == (5, 8, 1) else 0
    return missing > 0 or len(data) < at + palette


def looks_truncated(kind: str | None, size: int, head: bytes, tail: bytes) -> bool:
    """Return whether the end of a file lacks the marker of its format, as after a broken download.

    Some sound files lack it too: decode the file to be sure.

    Args:
        kind: Pillow's name of the format.
        size: bytes of the file.
        head, tail: its first bytes (12 or more) and its last ones (`TAIL`).
    """
    if kind == "JPEG":
        return b"\xff\xd9" not in tail
    if kind == "PNG":
        return b"IEND" not in tail
    if kind == "GIF":
        return not tail.rstrip(b"\0").endswith(b";")
    if kind == "WEBP":
        return size < struct.unpack("<I", head[4:8])[0] + 8
    return False
