"""Data sets as tests open them, and their captions and labels by row."""

from __future__ import annotations

from imgtf.data.config import DataConfig
from imgtf.data.source import ImageSource, open_source


def opened(data: object, **options: object) -> tuple[ImageSource, ImageSource]:
    """The training and the held-out images; without options no images are held out."""
    return open_source(DataConfig(data=str(data), **{"held_out": 0, **options}))


def texts(source: ImageSource) -> list[str | None]:
    """The caption of each row."""
    return [source.text(i) for i in range(len(source))]


def named(source: ImageSource) -> list[str | None]:
    """The class of each row by name."""
    labels = (source.label(i) for i in range(len(source)))
    return [None if label is None else source.class_names[label] for label in labels]
