"""What a model folder holds, in figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..prior.model import Prior
from ..tokenizer.model import Tokenizer
from .conditions import describe_conditions


def describe_model(folder: Path) -> dict[str, Any]:
    """Sizes, classes and parameters of the parts that are there.

    Raises:
        CheckpointError: when there is neither a tokenizer nor a prior, or one cannot be read.
    """
    parts: dict[str, Any] = {}
    if (folder / "tokenizer" / "config.json").exists():
        tokenizer = Tokenizer.from_pretrained(folder / "tokenizer")
        config, (h, w) = tokenizer.config, tokenizer.config.grid
        parts["tokenizer"] = {
            "image": f"{config.image_size}x{config.image_size}x{config.channels}",
            "grid": f"{h}x{w}",
            "codes": config.codebook_size,
            "parameters": tokenizer.parameter_count(),
            "sha256": tokenizer.weights_sha256(),
        }
    if (folder / "prior" / "config.json").exists():
        prior = Prior.from_pretrained(folder / "prior")
        shape = prior.config
        parts["prior"] = {
            "objective": shape.objective,
            "told": describe_conditions(shape),
            "shape": f"{shape.depth} layers, {shape.heads} heads, width {shape.width}",
            "tokens": shape.tokens,
            "classes": ", ".join(shape.class_names) or "none",
            "parameters": prior.parameter_count(),
            "tokenizer_sha256": shape.tokenizer_sha256,
        }
    if not parts:
        raise CheckpointError(f"{folder}: holds neither tokenizer/ nor prior/; is this a model folder?")
    return parts
