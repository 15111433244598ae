"""Conversion of one image: any Pillow mode -> (C, H, W) float in [-1, 1], and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps

from ..errors import ConfigError
from ..options import Size, sides_of
from .decode import BadImage, why

GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})  # more than 8 bits
ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True)
class Crop:
    """A crop of an image with the shape of the network's input. The default is the largest one, in the centre."""

    x: float = 0.5
    y: float = 0.5
    """Position in the space that the crop leaves, 0 (left, top) to 1 (right, bottom)."""
    scale: float = 1.0
    """Height and width of the crop, relative to the largest one."""
    flipped: bool = False
    """Mirrored left to right."""
    shift: tuple[float, float] = (0.0, 0.0)
    """How far the crop is then moved, down and to the right, as a fraction of its side. The border is mirrored."""


CENTRE = Crop()


def transform(
    image: Image.Image, size: Size, channels: int, background: str = "white", crop: Crop = CENTRE
) -> torch.Tensor:
    """Convert a decoded image to network input: EXIF orientation, background, crop, one resize.

    Args:
        size: side of a square, or (H, W); the crop has the same shape.

    Returns:
        (channels, H, W) float32 in [-1, 1].

    Raises:
        BadImage: pixels outside the range of their mode. Its `where` is empty; the caller knows the file.
        ConfigError: channels other than 1 or 3, or an unknown background colour.
    """
    pixels = _array(cropped(plain(image, channels, background), size, crop), channels)  # (H, W, C)
    pixels = shifted(pixels, crop.shift)
    if crop.flipped:
        pixels = pixels[:, ::-1]
    chw = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    if chw.dtype == torch.uint8:
        return chw.float().div_(127.5).sub_(1)
    return chw.mul_(2).sub_(1).clamp_(-1, 1)  # bicubic resizing overshoots a little in mode F


def to_pixels(image: Image.Image, channels: int, background: str = "white") -> np.ndarray:
    """Return (H, W, channels): uint8 in [0, 255], or float32 in [0, 1] for images of more than 8 bits."""
    return _array(plain(image, channels, background), channels)


def to_pil(image: torch.Tensor, bits: int = 8) -> Image.Image:
    """Convert (1 or 3, H, W) in [-1, 1], clamped and rounded, to an L or RGB image; I;16 for 16 bits (grey only)."""
    if image.ndim != 3 or image.shape[0] not in ((1, 3) if bits == 8 else (1,)):
        raise ValueError(f"expected an image (1 or 3, H, W), grey for 16 bits, got {tuple(image.shape)}")
    scaled = (image.detach().cpu().double().clamp(-1, 1) + 1) / 2 * (2**bits - 1)
    kind = np.uint8 if bits == 8 else np.uint16
    pixels = scaled.round().permute(1, 2, 0).numpy().astype(kind)  # (H, W, C)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))


def plain(image: Image.Image, channels: int, background: str) -> Image.Image:
    """Return the image upright and opaque: mode L for 1 channel, RGB for 3; mode F in [0, 1] for more than 8 bits."""
    if channels not in (1, 3):
        raise ConfigError(f"images have 1 or 3 channels, not {channels}")
    check_background(background)
    try:
        return _plain(image, channels, background)
    except (BadImage, OSError):
        raise
    except (
        Exception
    ) as error:  # Pillow raises many types, such as AssertionError for a palette that is missing
        raise BadImage("", why(error)) from error


def _plain(image: Image.Image, channels: int, background: str) -> Image.Image:
    image = upright(image)
    if is_deep(image):
        return _deep(image)
    image = _colour(_opaque(image, background))
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def upright(image: Image.Image) -> Image.Image:
    """Return the image with its EXIF orientation applied."""
    try:
        oriented = image.getexif().get(ORIENTATION, 1) == 1
        return image if oriented else ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF is common; the pixels are usable without it
        return image


def is_rotated(image: Image.Image) -> bool:
    """Return whether `upright` exchanges width and height."""
    try:
        return image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # as in `upright`
        return False


def cropped(image: Image.Image, size: Size, crop: Crop = CENTRE) -> Image.Image:
    """Return the crop resized to a size, in one step. Does not flip."""
    height, width = (max(1, round(crop.scale * side)) for side in largest_crop(image.size, size))
    # A random position in [0, 1) is spread over all whole offsets; 0.5 is exactly the centre.
    left, top = (
        int(at * (length - side + (at != 0.5)))
        for at, length, side in zip((crop.x, crop.y), image.size, (width, height), strict=True)
    )
    box = (left, top, left + width, top + height)
    H, W = sides_of(size)
    if (height, width) == (H, W):
        return image.crop(box)
    return image.resize((W, H), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def shifted(pixels: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """Move pixels (H, W, C) by fractions of H and W, down and to the right. What comes in is mirrored at the border."""
    moves = [round(part * side) for part, side in zip(shift, pixels.shape, strict=False)]
    if not any(moves):
        return pixels
    padded = np.pad(pixels, [(abs(move), abs(move)) for move in moves] + [(0, 0)], mode="reflect")
    H, W = pixels.shape[:2]
    top, left = (abs(move) - move for move in moves)
    return padded[top : top + H, left : left + W]


def largest_crop(available: tuple[int, int], size: Size) -> tuple[float, float]:
    """Return height and width of the largest crop with the shape of `size`, in pixels.

    Args:
        available: width and height of the image, as Pillow gives them.
    """
    (width, height), (H, W) = available, sides_of(size)
    if width * H <= height * W:
        return width * H / W, float(width)
    return float(height), height * W / H


def is_deep(image: Image.Image) -> bool:
    """Whether the image has more than 8 bits per channel. Pillow has such modes for grey images only."""
    return image.mode in DEEP_MODES


def check_background(background: str) -> None:
    """Raise ConfigError unless Pillow knows the colour."""
    try:
        ImageColor.getrgb(background)
    except ValueError:
        raise ConfigError(
            f"background {background!r} is not a colour: use a name such as white, or #rrggbb"
        ) from None


def _opaque(image: Image.Image, background: str) -> Image.Image:
    if not image.has_transparency_data:
        return image
    grey = image.mode in GREY_MODES
    front = image.convert("RGBA")
    red, green, blue = ImageColor.getrgb(background)[:3]
    back = Image.new("RGBA", image.size, (red, green, blue, 255))
    flat = Image.alpha_composite(back, front).convert("RGB")
    return flat.convert("L") if grey and red == green == blue else flat


def _colour(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    return _from_lab(image) if image.mode == "LAB" else image.convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # Pillow's `convert` cannot convert from LAB

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    assert converted is not None
    return converted


def _deep(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.float32)
    top = 1.0 if image.mode == "F" else 65535.0
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= top):  # also for NaN
        raise BadImage(
            "", f"pixels of mode {image.mode} from {low:g} to {high:g}; scale them to [0, {top:g}]"
        )
    return Image.fromarray(pixels / np.float32(top))


def _array(image: Image.Image, channels: int) -> np.ndarray:
    pixels = np.array(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return pixels if pixels.shape[2] == channels else np.repeat(pixels, channels, axis=2)
