"""Annotations in the JSON format of COCO -> rows of metadata."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError


def is_coco(content: Any) -> bool:
    """Return whether a JSON file is in the format of COCO: lists `images` and `annotations` of objects."""
    return isinstance(content, dict) and all(
        isinstance(content.get(key), list) and all(isinstance(one, dict) for one in content[key])
        for key in ("images", "annotations")
    )


def coco_rows(path: Path, content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield one row per caption; or per image, with its category, if all its objects are of one category.

    Raises:
        DataError: an image without `id` or `file_name`, or an annotation of an unknown image.
    """
    images = _images(path, content["images"])
    captions: dict[Any, list[str]] = {}
    kinds: dict[Any, set[Any]] = {}
    for number, one in enumerate(content["annotations"], start=1):
        if one.get("image_id") not in images:
            raise DataError(f"{path}: annotation {number} is of an unknown image ({one.get('image_id')!r})")
        if isinstance(one.get("caption"), str):
            captions.setdefault(one["image_id"], []).append(one["caption"])
        if "category_id" in one:
            kinds.setdefault(one["image_id"], set()).add(one["category_id"])
    labels = {} if captions else _labels(content, kinds)
    for key, name in images.items():
        for caption in captions.get(key, [None]):
            row = {"file_name": name, "text": caption, "label": labels.get(key)}
            yield f"image {key}", {k: v for k, v in row.items() if v is not None}


def _images(path: Path, images: list[dict[str, Any]]) -> dict[Any, str]:
    for number, image in enumerate(images, start=1):
        if "id" not in image or not isinstance(image.get("file_name"), str):
            raise DataError(f"{path}: image {number} has no id or no file_name")
    return {image["id"]: image["file_name"] for image in images}


def _labels(content: dict[str, Any], kinds: dict[Any, set[Any]]) -> dict[Any, Any]:
    """Image -> name of its category. {} if any image has objects of several categories."""
    if any(len(found) > 1 for found in kinds.values()):
        return {}
    categories = content.get("categories") or []
    names = {one.get("id"): one.get("name") for one in categories if isinstance(one, dict)}
    return {key: names.get(next(iter(found)), next(iter(found))) for key, found in kinds.items()}
