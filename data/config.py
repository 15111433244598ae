"""Settings of data: which images to read, conditions, augmentation. No heavy imports: `--help` reads this."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import ConfigError
from ..options import option

DIGITS = "digits"
MAX_WORKERS = 8


@dataclass(frozen=True)
class DataConfig:
    """Which images to read: options of every command that opens a data set."""

    data: str = option(
        DIGITS,
        "Folder of images, parquet file, tar shards, URL, Hub id, or 'digits'.",
        group="data",
        common=True,
    )
    split: str | None = option(
        None, "Training split.", auto="'train' if present, else the only split", group="data"
    )
    held_out_split: str | None = option(
        None,
        "Held-out split.",
        auto="validation, val, valid or test if present, else --held-out",
        group="data",
    )
    held_out: float = option(
        0.1,
        "Fraction of the training split to hold out (at most 5,000 images).",
        minimum=0,
        maximum=0.9,
        group="data",
    )
    image_column: str | None = option(None, "Column of the images.", auto="found by its type", group="data")
    label_column: str | None = option(
        None, "Column of the class labels.", auto="found by its type", group="data"
    )
    text_column: str | None = option(None, "Column of the captions.", auto="found by its name", group="data")
    background: str = option(
        "white", "Colour behind transparent pixels: a colour name or #rrggbb.", group="data"
    )
    bad_images: str = option(
        "skip",
        "Unreadable images: skip up to 1 % of them, or fail at the first.",
        choices=("skip", "fail"),
        group="data",
    )
    streaming: bool = option(
        False, "Read parquet or tar shards as they come: no copy, no pass before training.", group="data"
    )
    shuffle_buffer: int = option(
        2000, "With --streaming: samples that are shuffled together.", minimum=1, maximum=10**6, group="data"
    )
    classes: str | None = option(
        None,
        "With --streaming: number of classes, file of their names, or names with commas.",
        auto="those of the features",
        group="data",
    )
    workers: int | None = option(
        None,
        "Processes that read images.",
        minimum=0,
        maximum=256,
        auto="half the cores, at most 8; 0 on two cores",
        group="data",
    )


@dataclass(frozen=True)
class ConditionDataConfig:
    """Which conditioning images a prior is trained on."""

    conditioning_column: str | None = option(
        None, "Column of the conditioning images (image-to-image).", auto="none", group="conditions"
    )
    conditioning_size: int | None = option(
        None,
        "Condition on the image reduced to this shorter side (super-resolution).",
        minimum=1,
        maximum=2**14,
        auto="none",
        group="conditions",
    )


@dataclass(frozen=True)
class AugmentationConfig:
    """How training images are varied from epoch to epoch."""

    crop: str = option(
        "centre",
        "Crop for training; shift moves the centre a little and mirrors the border.",
        choices=("centre", "random", "shift"),
        group="augmentation",
    )
    crop_scale: float = option(
        1.0,
        "Size of the smallest random crop, relative to the largest.",
        minimum=0.1,
        maximum=1,
        group="augmentation",
    )
    flip: bool | None = option(
        None, "Random left-right flips.", auto="on, off for digits", group="augmentation", common=True
    )

    def __post_init__(self) -> None:
        if self.crop_scale < 1 and self.crop != "random":
            raise ConfigError(f"crop_scale {self.crop_scale:g} is for random crops: add --crop random")


def flips(data: DataConfig, augmentation: AugmentationConfig) -> bool:
    """Return whether training flips images. Default: yes, but not digits, because a mirrored digit is wrong."""
    return data.data != DIGITS if augmentation.flip is None else augmentation.flip


def check_crops(augmentation: AugmentationConfig, crops: int) -> None:
    """Raise ConfigError if all crops of an image would be the same."""
    if crops > 1 and augmentation.crop == "centre":
        raise ConfigError(
            f"crops_per_image {crops} needs different crops: add --crop shift for images of the model's shape, "
            f"or --crop random --crop-scale 0.8 for larger ones"
        )


def worker_count(config: DataConfig) -> int:
    """Return the number of loader processes: as set, or chosen from the cores available to this process."""
    if config.workers is not None:
        return config.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # set by accelerate and torchrun
    # On two cores the training step keeps both busy, and passing batches between processes only costs time.
    return 0 if config.data == DIGITS or cores <= 2 else min(cores // 2, MAX_WORKERS)


def preprocessing(data: DataConfig, augmentation: AugmentationConfig, crops: int = 1) -> str:
    """Describe the preprocessing of an image besides resizing, as a part of the identity of a token cache."""
    scale = f" crop_scale={augmentation.crop_scale:g}" if augmentation.crop == "random" else ""
    others = f" others={augmentation.crop}{scale}" if crops > 1 else ""
    return f"crop=centre{others} background={data.background}"
