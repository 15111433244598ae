"""The convolutional networks on maps of any size, tile by tile, with the result of the whole map.

Group normalisation and attention look at the whole map, so a tile alone gives other pixels. Here a network is a row of
units (a residual block, a resampling). Each runs on overlapping tiles whose borders are cut off again; one more pass
over the tiles gathers the statistics of each norm; attention runs on the whole map. The maps between units are held
where they are small; else the next unit runs on the same tiles, from the last map that is held.

Shapes: C channels, H, W of a map, G groups of a norm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from math import isqrt
from typing import TypeVar

import torch
from torch import Tensor, nn

from .layers import PIXEL_WIDTH, Downsample, Level, ResidualBlock, SelfAttention, ToPixels, Upsample
from .network import Decoder, Encoder, to_autocast_dtype

TILE_FLOATS = 2**23
"""Numbers in the largest map of a tile, 32 MB."""
HELD_BYTES = 2**29
"""Largest map between units that is held. At most two are held at once."""

Tile = tuple[slice, slice]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Unit:
    """A part of a network that needs no more than `radius` pixels around a tile, norms and attention aside."""

    module: nn.Module
    radius: int
    width: int
    """Channels of its output."""
    scale: float = 1
    """Side of its output, relative to its input: 1, 2 or 1/2, at the stem s or 1/s."""
    float32: bool = False
    """Stays in float32 under autocast."""

    @property
    def is_attention(self) -> bool:
        return isinstance(self.module, SelfAttention)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.float32:
            return self.module(to_autocast_dtype(x))
        with torch.autocast(x.device.type, enabled=False):
            return self.module(x.float())


def encoder_units(encoder: Encoder, to_codebook: nn.Module) -> list[Unit]:
    """Return an encoder and its projection to the codebook as units. Precision is that of `Encoder.forward`."""
    network, last = _with_shared_norms(encoder), len(encoder.levels) - 1
    end = nn.Sequential(network.norm_out, nn.SiLU(), network.conv_out, to_codebook)
    stem = network.stem.downscale_factor if isinstance(network.stem, nn.PixelUnshuffle) else 1
    start = nn.Sequential(network.stem, network.conv_in)
    units = [Unit(start, stem, network.conv_in.out_channels, 1 / stem, float32=True)]
    for i, level in enumerate(network.levels):
        units += _level_units(level, float32=i == last)
    units += [_unit(module, float32=True) for module in _layers(network.middle)]
    return [*units, Unit(end, 1, units[-1].width, float32=True)]


def decoder_units(decoder: Decoder, from_codebook: nn.Module) -> list[Unit]:
    """Return a decoder and the projection in front of it as units."""
    network = _with_shared_norms(decoder)
    start = nn.Sequential(from_codebook, network.conv_in)
    end = nn.Sequential(network.norm_out, nn.SiLU())
    units = [Unit(start, 1, network.conv_in.out_channels)]
    units += [_unit(module) for module in _layers(network.middle)]
    for level in reversed(network.levels):
        units += _level_units(level)
    if isinstance(network.to_pixels, ToPixels):
        units.append(Unit(end.append(network.to_pixels), 1, PIXEL_WIDTH, network.to_pixels.scale))
        end = nn.Sequential()
    return [*units, Unit(end.append(network.conv_out), 1, units[-1].width)]


def run_units(units: Sequence[Unit], x: Tensor) -> Tensor:
    """Run units on a map (1, C, H, W) of which tiles are small, with the result of running them on the whole map."""
    for segment in _segments(units, x):
        x = segment[0](x) if segment[0].is_attention else _Segment(segment, x.shape)(x)
    return x


def fit_in_one_tile(units: Sequence[Unit], height: int, width: int) -> bool:
    """Return whether a tile holds the whole map (1, C, height, width) that the units run on."""
    return height * width * _widest(units) <= TILE_FLOATS


def _widest(units: Sequence[Unit]) -> float:
    """Return the numbers of the largest map, per pixel of the first unit's input."""
    return max(width * side**2 for width, side in _maps(units))


def _maps(units: Sequence[Unit]) -> Iterator[tuple[int, float]]:
    """Yield channels and side of each unit's output, the side relative to the first unit's input."""
    side = 1.0
    for unit in units:
        side *= unit.scale
        yield unit.width, side


def _segments(units: Sequence[Unit], x: Tensor) -> Iterator[list[Unit]]:
    """Yield the units that run together on a tile: no map between them is held."""
    pixels, segment = x.shape[2] * x.shape[3], []
    for i, (unit, (width, side)) in enumerate(zip(units, _maps(units), strict=True)):
        segment.append(unit)
        small = 4 * width * side**2 * pixels <= HELD_BYTES
        if small or i + 1 == len(units) or unit.is_attention or units[i + 1].is_attention:
            yield segment
            segment = []


class _Segment:
    """Units that run together, tile by tile of a map (1, C, H, W)."""

    def __init__(self, units: Sequence[Unit], shape: torch.Size) -> None:
        self.units, self.height, self.width = units, *shape[2:]
        maps = [*_maps(units)]
        self.scale = maps[-1][1]
        self.multiple = round(1 / min(1.0, *(side for _, side in maps)))
        """Tiles start at multiples of this, so that every downsampling starts at an even pixel."""
        sides = [1.0, *(side for _, side in maps)]
        margin = sum(unit.radius / side for unit, side in zip(units, sides, strict=False))
        self.margin = _rounded_up(margin, self.multiple)
        """Pixels around a tile that its result depends on."""
        self.side = _rounded_up(isqrt(int(TILE_FLOATS / max(shape[1], _widest(units)))), self.multiple)
        self.norms = [m for unit in units for m in unit.module.modules() if isinstance(m, SharedNorm)]

    def __call__(self, x: Tensor) -> Tensor:
        tiles = list(_tiles(self.height, self.width, self.side))
        for norm in self.norms:
            norm.start(whole=len(tiles) == 1)
        for norm in self.norms if len(tiles) > 1 else ():  # in the order in which they run
            for tile in tiles:
                with suppress(Gathered):
                    self._run(x, tile)
            norm.finish()
        y: Tensor | None = None
        for tile in tiles:
            part = self._run(x, tile)
            if y is None:
                y = part.new_empty(1, part.shape[1], self._scaled(self.height), self._scaled(self.width))
            rows, columns = (slice(self._scaled(s.start), self._scaled(s.stop)) for s in tile)
            _part(y, (rows, columns)).copy_(part)
        assert y is not None
        return y

    def _run(self, x: Tensor, tile: Tile) -> Tensor:
        """Return the output in a tile. Raises Gathered at the first norm without statistics."""
        rows, columns = (
            slice(max(0, s.start - self.margin), min(size, s.stop + self.margin))
            for s, size in zip(tile, (self.height, self.width), strict=True)
        )
        region, side = (rows, columns), 1.0
        x = _part(x, region)
        for unit in self.units:
            for module in unit.module.modules():
                if isinstance(module, SharedNorm):
                    module.inside = _inside(tile, region, side)
            x = unit(x)
            side *= unit.scale
        return _part(x, _inside(tile, region, side))

    def _scaled(self, pixels: int) -> int:
        return round(pixels * self.scale)


class Gathered(Exception):
    """A norm has read the tile: a message to the loop over tiles, not an error."""


class SharedNorm(nn.Module):
    """A group normalisation with the statistics of all tiles of a map."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.inside: Tile = (slice(None), slice(None))
        """The part of the input that belongs to the tile itself."""
        self.start(whole=True)

    def start(self, *, whole: bool) -> None:
        """Forget the statistics. `whole`: the next input is the whole map."""
        self.whole, self.ready, self.count = whole, False, 0
        self.mean = self.squares = torch.zeros(())  # squares: sum of squared distances from the mean

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (1, C, H, W), or gather its statistics and raise Gathered."""
        if self.whole:
            return self.norm(x)
        if not self.ready:
            self._gather(_part(x, self.inside))
            raise Gathered
        return torch.addcmul(self.shift, x, self.scale).to(x.dtype)

    def finish(self) -> None:
        """Normalise with the statistics gathered so far."""
        rstd = (self.squares / self.count + self.norm.eps).rsqrt()
        per_group = self.norm.num_channels // self.norm.num_groups
        mean, rstd = (t.repeat_interleave(per_group) for t in (self.mean, rstd))  # (C,)
        scale = self.norm.weight.double() * rstd
        shift = self.norm.bias.double() - mean * scale
        self.scale, self.shift = (t.float()[:, None, None] for t in (scale, shift))
        self.ready = True

    def _gather(self, x: Tensor) -> None:
        """Add the statistics of a tile to those of the tiles before (Chan et al. 1979)."""
        groups = x.float().reshape(self.norm.num_groups, -1)
        variance, mean = (t.double() for t in torch.var_mean(groups, 1, correction=0))  # (G,)
        n, count = groups.shape[1], self.count + groups.shape[1]
        difference = mean - self.mean
        self.squares = self.squares + variance * n + difference**2 * (self.count * n / count)
        self.mean, self.count = self.mean + difference * (n / count), count


def _unit(module: nn.Module, float32: bool = False) -> Unit:
    """Return a residual block or an attention as a unit."""
    if isinstance(module, ResidualBlock):
        return Unit(module, 2, module.conv2.out_channels, float32=float32)
    assert isinstance(module, SelfAttention)
    return Unit(module, 0, module.proj.out_channels, float32=float32)


def _layers(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return [module for module in modules if not isinstance(module, nn.Identity)]


def _level_units(level: nn.Module, float32: bool = False) -> list[Unit]:
    assert isinstance(level, Level)
    units: list[Unit] = []
    for pair in zip(level.blocks, level.attentions, strict=True):
        units += [_unit(module, float32) for module in _layers(pair)]
    if isinstance(level.resample, Downsample):
        units.append(Unit(level.resample, 1, units[-1].width, 0.5, float32))
    if isinstance(level.resample, Upsample):
        units.append(Unit(level.resample, 1, units[-1].width, 2, float32))
    return units


def _with_shared_norms(network: Network) -> Network:
    """Return a copy that shares all weights with the network, but whose norms wait for the statistics of all tiles."""
    copy = deepcopy(network, {id(p): p for p in network.parameters()})
    for parent in list(copy.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, SharedNorm(child))
    return copy


def _tiles(height: int, width: int, side: int) -> Iterator[Tile]:
    """Yield the tiles that cover a map without overlap."""
    for top, left in product(range(0, height, side), range(0, width, side)):
        yield slice(top, min(top + side, height)), slice(left, min(left + side, width))


def _inside(tile: Tile, region: Tile, side: float) -> Tile:
    """Return where a tile lies in its region, at another scale."""
    rows, columns = (
        slice(round((own.start - whole.start) * side), round((own.stop - whole.start) * side))
        for own, whole in zip(tile, region, strict=True)
    )
    return rows, columns


def _part(x: Tensor, tile: Tile) -> Tensor:
    """Return a tile of a map, a view."""
    return x[:, :, tile[0], tile[1]]


def _rounded_up(value: float, multiple: int) -> int:
    return max(1, -int(-value // multiple)) * multiple
