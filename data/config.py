"""Where images come from and how they are prepared. No heavy import: --help reads this."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import ConfigError
from ..options import option

DIGITS = "digits"
MOST_WORKERS = 8


@dataclass(frozen=True)
class DataConfig:
    """The data options of every command."""

    data: str = option(
        DIGITS,
        "Images: a folder (class sub-folders become labels; metadata.jsonl or metadata.csv is honoured), a "
        "parquet or arrow file or folder, a Hub id name[:config], or 'digits' (built in).",
    )
    split: str | None = option(
        None, "Split to train on.", auto="'train' where the source has it, else its only split"
    )
    held_out_split: str | None = option(
        None,
        "Split to measure on.",
        auto="'validation', 'val', 'valid', or 'test' where there is one; else a share of the training split",
    )
    held_out: float = option(
        0.1,
        "Share of the images held out where the source has no split for it (at most 5,000 images).",
        minimum=0,
        maximum=0.9,
    )
    image_column: str | None = option(None, "Column of the images.", auto="found by its type")
    label_column: str | None = option(None, "Column of the class labels.", auto="found by its type")
    text_column: str | None = option(None, "Column of the captions.", auto="found by its type")
    conditioning_column: str | None = option(
        None,
        "Column of the source pictures that the images are made from (translation).",
        auto="no source pictures",
    )
    conditioning_size: int | None = option(
        None,
        "The source pictures are the images themselves, reduced to this many pixels (super-resolution).",
        minimum=1,
        auto="no source pictures",
    )
    background: str = option(
        "white", "Colour that transparent pixels are laid on: any Pillow colour name or #rrggbb."
    )
    crop: str = option("centre", "Square cut out of an image in training.", choices=("centre", "random"))
    crop_scale: float = option(
        1.0,
        "Smallest side of a random crop, as a share of the largest square's; at 1 only oblong images have several.",
        minimum=0.1,
        maximum=1,
    )
    flip: bool | None = option(None, "Random left-right flips in training.", auto="on, off for digits")
    bad_images: str = option(
        "skip",
        "An image that cannot be read: skip it (up to 1 % of them) or fail at once.",
        choices=("skip", "fail"),
    )
    workers: int | None = option(
        None,
        "Processes that read images.",
        minimum=0,
        maximum=256,
        auto="0 for digits or on two cores, else half the cores, at most 8",
    )

    def __post_init__(self) -> None:
        if self.crop_scale < 1 and self.crop != "random":
            raise ConfigError(f"crop_scale {self.crop_scale:g} is of random crops: add --crop random")


def flips(config: DataConfig) -> bool:
    """Whether training flips images; a mirrored digit is no digit."""
    return config.data != DIGITS if config.flip is None else config.flip


def check_views(config: DataConfig, views: int) -> None:
    """ConfigError where several views of an image would all be the same."""
    if views > 1 and config.crop != "random":
        raise ConfigError(
            f"views {views} are crops at random places: add --crop random, and --crop-scale 0.8 for square images"
        )


def worker_count(config: DataConfig) -> int:
    """Loader processes of this process: as set, or chosen from the cores this process may use."""
    if config.workers is not None:
        return config.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # set by accelerate and torchrun
    # With two cores the training step keeps both busy, and passing batches between processes only costs.
    return 0 if config.data == DIGITS or cores <= 2 else min(cores // 2, MOST_WORKERS)


def preprocessing(config: DataConfig, views: int = 1) -> str:
    """What becomes of an image besides resizing, in words: part of the identity of a token cache."""
    others = f" others=random crop_scale={config.crop_scale:g}" if views > 1 else ""
    return f"crop=centre{others} background={config.background}"
