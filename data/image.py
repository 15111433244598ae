"""One image: any Pillow mode -> (C, H, W) float in [-1, 1], and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps

from ..errors import ConfigError, DataError
from .decode import BadImage

if TYPE_CHECKING:
    from .source import ImageSource

GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})  # more than 8 bits
ORIENTATION = 0x0112  # the EXIF tag


def transform(
    image: Image.Image,
    size: int,
    channels: int,
    background: str = "white",
    crop: str = "centre",
    flip: bool = False,
    rng: np.random.Generator | None = None,
    crop_scale: float = 1.0,
) -> torch.Tensor:
    """The whole way from a decoded image to the network: upright, on a background, square, resized once.

    Args:
        crop: "centre" for the largest square in the middle, or "random" for one at a random place.
        flip: mirror it left to right half of the time.
        rng: needed for a random crop or flips; takes four numbers always, so that neither moves the other.
        crop_scale: the side of a random crop is between this share of the largest square's and all of it.

    Returns:
        (channels, size, size) float32 in [-1, 1].

    Raises:
        BadImage: pixels outside the range of their mode; its `where` is empty, the caller knows it.
        ConfigError: channels other than 1 or 3, or an unknown background colour.
    """
    across, mirror, down, shrink = (0.5, 1.0, 0.5, 0.0) if rng is None else rng.random(4)
    image = plain(image, channels, background)
    if crop == "random":
        image = square(image, size, (across, down), 1 - shrink * (1 - crop_scale))
    else:
        image = square(image, size)
    pixels = _array(image, channels)  # (H, W, C)
    if flip and mirror < 0.5:
        pixels = pixels[:, ::-1]
    chw = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    if chw.dtype == torch.uint8:
        return chw.float().div_(127.5).sub_(1)
    return chw.mul_(2).sub_(1).clamp_(-1, 1)  # bicubic overshoots a little in mode F


def to_pixels(image: Image.Image, channels: int, background: str = "white") -> np.ndarray:
    """(H, W, channels): uint8 in [0, 255], or float32 in [0, 1] for images of more than 8 bits."""
    return _array(plain(image, channels, background), channels)


def to_pil(image: torch.Tensor, bits: int = 8) -> Image.Image:
    """(1 or 3, H, W) in [-1, 1], clamped and rounded -> an image L or RGB, or I;16 where `bits` is 16 (grey only)."""
    if image.ndim != 3 or image.shape[0] not in ((1, 3) if bits == 8 else (1,)):
        raise ValueError(f"expected an image (1 or 3, H, W), grey for 16 bits, got {tuple(image.shape)}")
    scaled = (image.detach().cpu().double().clamp(-1, 1) + 1) / 2 * (2**bits - 1)
    kind = np.uint8 if bits == 8 else np.uint16
    pixels = scaled.round().permute(1, 2, 0).numpy().astype(kind)  # (H, W, C)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))


def plain(image: Image.Image, channels: int, background: str) -> Image.Image:
    """Upright and opaque, in mode L or RGB as `channels` asks; F in [0, 1] where it had more than 8 bits."""
    if channels not in (1, 3):
        raise ConfigError(f"images have 1 or 3 channels, not {channels}")
    image = upright(image)
    if is_deep(image):
        return _deep(image)
    image = _colour(_opaque(image, background))
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says it is to be looked at."""
    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # broken EXIF is common, and the pixels are fine without it
        return image


def square(
    image: Image.Image, size: int, place: tuple[float, float] = (0.5, 0.5), share: float = 1.0
) -> Image.Image:
    """A square at `place` (0 to 1 along each side), resized to `size` in the same go; its side is that `share` of the
    shorter one."""
    short = max(1, round(share * min(image.size)))
    left, top = (int(at * (side - short + (at != 0.5))) for at, side in zip(place, image.size, strict=True))
    box = (left, top, left + short, top + short)
    if short == size:
        return image.crop(box)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def count_channels(source: ImageSource, probes: int = 64) -> int:
    """1 if every image looked at (evenly spaced rows, broken ones left out) is grey by its mode, else 3."""
    return 1 if all(image.mode in GREY_MODES for image in _probe(source, probes)) else 3


def bit_depth(source: ImageSource, probes: int = 64) -> int:
    """16 if any image looked at (evenly spaced rows, broken ones left out) has more than 8 bits, else 8."""
    return 16 if any(is_deep(image) for image in _probe(source, probes)) else 8


def is_deep(image: Image.Image) -> bool:
    """Whether it has more than 8 bits a pixel; Pillow knows such images in grey only."""
    return image.mode in DEEP_MODES


def smallest_side(source: ImageSource, probes: int = 64) -> int:
    """The shortest side in pixels of the images looked at (evenly spaced rows, broken ones left out)."""
    return min(min(image.size) for image in _probe(source, probes))


def check_background(background: str) -> None:
    """ConfigError unless Pillow knows the colour."""
    try:
        ImageColor.getrgb(background)
    except ValueError:
        raise ConfigError(
            f"background {background!r} is no colour: use a name like white or #rrggbb"
        ) from None


def _probe(source: ImageSource, probes: int) -> list[Image.Image]:
    images, first = [], None
    for row in np.linspace(0, len(source) - 1, min(probes, len(source))).astype(int).tolist():
        try:
            images.append(source.header(row))
        except BadImage as error:
            first = first or error
    if not images:
        raise DataError(f"{source.name}: none of its images can be read" + (f" ({first})" if first else ""))
    return images


def _opaque(image: Image.Image, background: str) -> Image.Image:
    if not image.has_transparency_data:
        return image
    check_background(background)
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
    from PIL import ImageCms  # Pillow's own `convert` has no way out of LAB

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    assert converted is not None
    return converted


def _deep(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.float32)
    top = 1.0 if image.mode == "F" else 65535.0
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= top):  # also when NaN
        raise BadImage(
            "", f"pixels of mode {image.mode} from {low:g} to {high:g}; scale them to 0 to {top:g}"
        )
    return Image.fromarray(pixels / np.float32(top))


def _array(image: Image.Image, channels: int) -> np.ndarray:
    pixels = np.array(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return pixels if pixels.shape[2] == channels else np.repeat(pixels, channels, axis=2)
