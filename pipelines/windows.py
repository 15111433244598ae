"""Sampling of grids that are larger than the trained one, window by window.

A window has the trained grid, so learned positions work, and memory does not grow with the canvas. Each window is one
call of the sampler, given the codes that exist already (taming-transformers samples large images by such a window,
arXiv:2012.09841, section 3.3; it moves by one token, here by `STRIDES`).

Shapes: B images, h, w grid of the canvas, T = h*w tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError
from ..prior.conditions.condition import Condition
from ..prior.config import SamplingConfig
from ..prior.decoding.decoder import Decoder
from ..prior.decoding.request import Progress, Watch
from ..prior.decoding.sampler import sample
from .canvas import Window

STRIDES = {"raster": 4, "random": 2, "masked": 2}
"""Windows start every 1/N of their side, by objective. Mean absolute steps between pixels across the border of a window
and elsewhere (CIFAR-10, 32x128 px from 32x32, 48 images): raster 1.16 with N = 2, 1.05 with 4; random 1.07 with 2. With
4 the pictures of the random prior grow smoother from window to window."""
GOLDEN = 0.6180339887498949
"""Shift of the random numbers of positions beyond the canvas, which repeat those within it."""


def sample_windows(
    decoder: Decoder,
    condition_at: Callable[[Window], Condition],
    uniforms: Tensor,
    settings: SamplingConfig,
    codes: Tensor,
    progress: Progress | None = None,
    *,
    codes_per_latent: int = 1,
    watch: Watch | None = None,
) -> Tensor:
    """Return the codes (B, h, w) int64 of a canvas whose unknown codes are sampled.

    Steps, guidance and temperature run from start to end in each window. A canvas of the trained grid is one window,
    and its codes are those of `sample`.

    Args:
        condition_at: condition of the B images in a window. It reaches beyond a canvas smaller than the trained grid.
        uniforms: (B, 2, T) by position of the canvas, see `image_uniforms`.
        codes: (B, h, w), -1 where to sample; the same positions in every row.
        progress: called with the number of codes sampled since the last call, over all images.
        codes_per_latent: q; windows start at multiples of q columns.
        watch: called after every window with the codes (B, h, w) so far, for previews.

    Raises:
        DataError: for tensors of other shapes, or different known positions in the rows.
        ConfigError: see `sample`.
    """
    B, h, w = codes.shape
    if uniforms.shape != (B, 2, h * w):
        raise DataError(
            f"uniforms must be {(B, 2, h * w)} for a canvas of {(h, w)}, got {tuple(uniforms.shape)}"
        )
    if not ((codes >= 0) == (codes[:1] >= 0)).all():
        raise DataError("known codes must be at the same positions in every row")
    grid, raster = decoder.config.grid, decoder.config.objective == "raster"
    codes = _padded_codes(codes.clone(), grid, raster).to(decoder.device)
    uniforms = _padded_uniforms(uniforms.unflatten(2, (h, w)), grid).to(decoder.device)
    known = (codes[:1] >= 0).all(0).cpu().numpy()
    for window in plan_windows(known, grid, STRIDES[decoder.config.objective], codes_per_latent) if B else []:
        own = _part(codes, window)  # (B, *grid)
        report = _Progress(progress, int((_part(codes, window)[:, :h, :w] < 0).sum()))
        sampled = sample(
            decoder, condition_at(window), _part(uniforms, window).flatten(2), settings, report,
            known=own.flatten(1),
        )  # fmt: skip
        own.copy_(sampled.view_as(own))
        if watch is not None:
            watch(codes[:, :h, :w])
    return codes[:, :h, :w].contiguous()


def plan_windows(
    known: np.ndarray, grid: tuple[int, int], parts: int, codes_per_latent: int = 1
) -> list[Window]:
    """Return the windows that fill a canvas, in the order of sampling: next is the one with the most known codes.

    So windows grow from the known codes outwards, and a blank canvas is filled row by row.

    Args:
        known: (h, w) bool, at least as large as `grid`.
        parts: windows start every 1/parts of their side, and at the end.
    """
    rows = _starts(known.shape[0], grid[0], parts, 1)
    columns = _starts(known.shape[1], grid[1], parts, codes_per_latent)
    known, windows = known.copy(), []
    while not known.all():
        count = _known_counts(known, rows, columns, grid)  # (rows, columns)
        count[count == grid[0] * grid[1]] = -1  # nothing to sample
        row, column = np.unravel_index(count.argmax(), count.shape)  # the first of several
        window = Window(int(rows[row]), int(columns[column]), *grid)
        known[window.top : window.top + window.height, window.left : window.left + window.width] = True
        windows.append(window)
    return windows


def _part(grid: Tensor, window: Window) -> Tensor:
    """Return a window of a tensor (..., h, w), a view (..., height, width)."""
    return grid[..., window.top : window.top + window.height, window.left : window.left + window.width]


def _starts(length: int, size: int, parts: int, multiple: int) -> np.ndarray:
    """Return where windows of a size start along a side, see `plan_windows`."""
    stride = max(1, size // parts // multiple) * multiple
    return np.array([*range(0, length - size, stride), length - size])


def _known_counts(
    known: np.ndarray, rows: np.ndarray, columns: np.ndarray, grid: tuple[int, int]
) -> np.ndarray:
    """Return the number of known codes in the window of each row and column of starts."""
    total = np.pad(known, ((1, 0), (1, 0))).astype(np.int64).cumsum(0).cumsum(1)
    bands = total[rows + grid[0]] - total[rows]  # (rows, w + 1)
    count: np.ndarray = bands[:, columns + grid[1]] - bands[:, columns]
    return count


def _padded_codes(codes: Tensor, grid: tuple[int, int], raster: bool) -> Tensor:
    """Return the codes of a canvas that holds a window; the new ones are unknown.

    Rows below the canvas of a raster prior are not sampled, as nothing depends on them.
    """
    _, h, w = codes.shape
    codes = F.pad(codes, (0, max(0, grid[1] - w)), value=-1)
    return F.pad(codes, (0, 0, 0, max(0, grid[0] - h)), value=0 if raster else -1)


def _padded_uniforms(uniforms: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return uniform numbers (B, 2, h, w) for at least a window: those of the canvas again, shifted modulo 1."""
    rows, columns = (torch.arange(max(own, size)) for own, size in zip(uniforms.shape[2:], grid, strict=True))
    h, w = uniforms.shape[2:]
    across = columns // w
    repeat = (rows // h)[:, None] * (
        across[-1] + 1
    ) + across  # 0 within the canvas, different in each repetition
    return (uniforms[:, :, rows % h][..., columns % w] + GOLDEN * repeat).fmod(1)


class _Progress:
    """Progress of one window: never more than the codes that it adds to the canvas."""

    def __init__(self, progress: Progress | None, codes: int) -> None:
        self.progress, self.left = progress, codes

    def __call__(self, codes: int) -> None:
        counted = min(codes, self.left)
        self.left -= counted
        if self.progress is not None and counted:
            self.progress(counted)
