"""The file of a compressed image: a header of 22 bytes or a few more, then the payload of the range coder.

bytes  content
4      magic
1      version
1      precision and kind of device that computed the probabilities
4 + 4  first bytes of the SHA-256 of the prior's and of the tokenizer's weights
1-5    height, and again for the width, as variable-length integers (7 bits a byte)
1-5    label + 1, 0 without one
1-5    bytes of the caption, then the caption in UTF-8
1-5    bytes of the payload
4      CRC-32 of all that is above and of the codes
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from torch import Tensor

from ...errors import DataError
from ...runtime.precision import DTYPES

MAGIC, VERSION = b"\x89img", 1
HASH_BYTES = 4
PRECISIONS, DEVICES = tuple(DTYPES), ("cpu", "cuda")
MAX_VARINT = 5


@dataclass(frozen=True)
class Compressed:
    """A compressed image."""

    precision: str
    device: str
    """Kind of device: cpu or cuda."""
    prior: bytes
    """First bytes of the SHA-256 of the weights."""
    tokenizer: bytes
    size: tuple[int, int]
    """Height and width in pixels."""
    label: int | None
    text: str | None
    payload: bytes = b""
    checksum: int = 0

    def to_bytes(self) -> bytes:
        """Return the file."""
        return self.header() + self.checksum.to_bytes(4) + self.payload

    def sealed(self, codes: Tensor) -> Compressed:
        """Return the file with the checksum of its codes (T,) in raster order."""
        return replace(self, checksum=self.checksum_of(codes))

    def header(self) -> bytes:
        """Return what precedes the checksum."""
        text = (self.text or "").encode()
        made_on = PRECISIONS.index(self.precision) + 16 * DEVICES.index(self.device)
        fixed = MAGIC + bytes([VERSION, made_on]) + self.prior + self.tokenizer
        label = 0 if self.label is None else self.label + 1
        numbers = b"".join(_varint(number) for number in (*self.size, label, len(text)))
        return fixed + numbers + text + _varint(len(self.payload))

    def checksum_of(self, codes: Tensor) -> int:
        """Return the checksum of the header and of the codes (T,)."""
        return zlib.crc32(codes.cpu().numpy().astype("<i8").tobytes(), zlib.crc32(self.header()))

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "data") -> Compressed:
        """Read a file.

        Raises:
            DataError: it is not one that `compress` wrote, of another version, or truncated.
        """
        try:
            return _read(data, where)
        except (IndexError, ValueError) as error:
            raise DataError(f"{where}: the file is damaged or truncated; compress the image again") from error


def _read(data: bytes, where: str) -> Compressed:
    if data[: len(MAGIC)] != MAGIC:
        raise DataError(f"{where}: not a file that imgtf compress wrote")
    at = len(MAGIC) + 2
    if data[at - 2] != VERSION:
        raise DataError(f"{where}: version {data[at - 2]} of the format; this imgtf reads version {VERSION}")
    device, precision = divmod(data[at - 1], 16)
    prior, tokenizer = data[at : at + HASH_BYTES], data[at + HASH_BYTES : at + 2 * HASH_BYTES]
    at += 2 * HASH_BYTES
    (height, width, label, characters), at = _varints(data, at, 4)
    text = data[at : at + characters].decode()
    (payload,), end = _varints(data, at + characters, 1)
    if len(data) != end + 4 + payload:
        raise DataError(
            f"{where}: {len(data)} bytes, not {end + 4 + payload}: truncated, or something was appended"
        )
    return Compressed(
        PRECISIONS[precision], DEVICES[device], prior, tokenizer, (height, width), label - 1 if label else None,
        text or None, data[end + 4 :], int.from_bytes(data[end : end + 4]),
    )  # fmt: skip


def _varint(number: int) -> bytes:
    """Return a whole number, 7 bits a byte, the lowest first; the top bit says that more follow."""
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _varints(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """Return some numbers from a position on, and the position after them. Raises IndexError at the end of the data."""
    numbers = []
    for _ in range(count):
        length = next((n for n in range(1, MAX_VARINT + 1) if data[at + n - 1] < 128), None)
        if length is None:
            raise ValueError("a number that does not end")
        numbers.append(sum((byte & 127) << 7 * i for i, byte in enumerate(data[at : at + length])))
        at += length
    return numbers, at
