"""The networks that the preset `auto` chooses among, with their recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..options import MAX_INT


@dataclass(frozen=True)
class Candidate:
    """A preset, or a narrower or wider form of it."""

    preset: str
    least: int
    """Images that it must see in training, unless the user gives the image size."""
    changes: Mapping[str, Any] = field(default_factory=dict)


_FAST = {
    "width": 32, "stem": 2, "blocks": 1, "batch_size": 32, "lr": 1e-3, "optimizer": "muon", "l2_weight": 1.0,
    "lpips_weight": 0.5,
}  # fmt: skip
"""What makes the best pictures in minutes on a CPU (docs/quality.md): no level at full resolution, and Muon."""
_FAST_PRIOR = {"batch_size": 32, "lr": 1e-3, "optimizer": "muon", "cfg_scale": 1.5, "norm": "layer"}
"""The same for priors. On a CPU torch has a fused kernel for LayerNorm, and none for RMSNorm."""
CANDIDATES = {
    "tokenizer": (
        Candidate("tiny", 0),
        Candidate(
            "tiny", 8_000, {**_FAST, "multipliers": (2, 4), "middle_attention": True, "codebook_size": 1024}
        ),
        Candidate("small", 16_000, {**_FAST, "multipliers": (2, 2, 4)}),
        Candidate("small", 100_000),
        Candidate("medium", 32_000, {**_FAST, "multipliers": (2, 2, 4)}),
        Candidate("medium", 200_000),
        Candidate(
            "base",
            MAX_INT,
            {**_FAST, "multipliers": (1, 2, 2, 4), "attention_levels": (3,), "codebook_size": 4096},
        ),
        Candidate("base", 2_000_000),
    ),
    "prior": (
        Candidate("tiny", 0, _FAST_PRIOR),
        Candidate("tiny", 60_000, {**_FAST_PRIOR, "width": 192, "depth": 5, "heads": 6}),
        Candidate("tiny", 240_000, {**_FAST_PRIOR, "width": 256, "depth": 6, "heads": 8}),
        Candidate("small", 400_000),
        Candidate("medium", 2_000_000),
        Candidate("base", 10_000_000),
    ),
}
"""From small to large."""
