"""Figures of trained models on a data source, and pictures of what the tokenizer keeps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.codes import CodesDataset, open_codes
from ..data.config import DataConfig, worker_count
from ..data.decode import load_image
from ..data.grid import draw_grid
from ..data.image import is_deep, to_pil, transform
from ..data.images import BadImages, ImageDataset
from ..data.loader import eval_batches
from ..data.source import ImageSource
from ..errors import DataError
from ..prior.model import Prior
from ..prior.objectives import log_likelihood
from ..prior.train import condition_of
from ..runtime.optional import import_with_torchvision
from ..tokenizer.codec import Codec
from ..tokenizer.inception import Inception
from ..tokenizer.metrics import frechet_distance
from ..tokenizer.model import Tokenizer
from ..tokenizer.perceptual import Perceptual
from ..tokenizer.train import evaluate as evaluate_images
from .conditions import beside_of
from .encode import describe, encode, find_codes

BATCH = 64


def evaluate_tokenizer(
    tokenizer: Tokenizer,
    source: ImageSource,
    data: DataConfig,
    perceptual: Perceptual | None = None,
    inception: Inception | None = None,
    precision: str = "auto",
) -> dict[str, float]:
    """PSNR (dB), SSIM, l1, l2, usage and perplexity of the codebook over a source, centre-cropped.

    With `perceptual` also LPIPS and the Frechet distance in its backbone's features; with `inception` the `rfid`, which
    is that in Inception's features, at the size and crop that the tokenizer works at. Images are encoded and decoded
    in `precision`, compared in float32.
    """
    _refuse_empty(source)
    config = tokenizer.config
    images = ImageDataset(source, config.image_size, config.channels, data, augment=False, seed=0)
    bad_images = BadImages(len(images), data.bad_images)
    similarity = Similarity(perceptual, tokenizer.device, inception)

    def batches() -> Iterator[Tensor]:
        for batch in eval_batches(images, BATCH, workers=worker_count(data)):
            bad_images.note(batch["bad"])
            yield batch["image"].to(tokenizer.device)

    weights = {"l1": 1.0, "l2": 1.0, "lpips": 1.0}
    figures = evaluate_images(Codec(tokenizer, precision), batches(), weights, perceptual, similarity.add)
    figures.pop("loss")
    return {"images": float(len(source)), **figures, **similarity.figures()}


class Similarity:
    """SSIM over pairs of images and reconstructions, and with networks the Frechet distances in their features."""

    def __init__(
        self, perceptual: Perceptual | None, device: torch.device, inception: Inception | None = None
    ) -> None:
        metrics = import_with_torchvision("torchmetrics.image")
        self.ssim = metrics.StructuralSimilarityIndexMeasure(data_range=(-1.0, 1.0)).to(device)
        self.perceptual = perceptual
        self.extractors: dict[str, Callable[[Tensor], Tensor]] = {}
        if perceptual is not None:
            self.extractors["frechet_lpips_features"] = self._pooled
        if inception is not None:
            self.extractors["rfid"] = inception
        self.features: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.extractors}

    @torch.no_grad()
    def add(self, images: Tensor, reconstructions: Tensor) -> None:
        """Two batches (B, C, H, W) in [-1, 1]."""
        self.ssim.update(reconstructions, images)
        for name, extract in self.extractors.items():
            self.features[name].append((extract(images).cpu(), extract(reconstructions).cpu()))

    def figures(self) -> dict[str, float]:
        """`ssim`; `frechet_lpips_features` and `rfid` where their networks are and there is more than one image."""
        figures = {"ssim": float(self.ssim.compute())}
        for name, pairs in self.features.items():
            own, others = (torch.cat(f) for f in zip(*pairs, strict=True))
            if len(own) > 1:
                figures[name] = frechet_distance(own, others)
        return figures

    def _pooled(self, images: Tensor) -> Tensor:
        """The backbone's last layer, averaged over places, (B, D)."""
        assert self.perceptual is not None
        last = self.perceptual.features(images)[-1]  # (N, D, h, w); N > B for other than grey and colour
        return last.mean((2, 3)).unflatten(0, (len(images), -1)).mean(1)


def evaluate_prior(
    folder: Path,
    tokenizer: Tokenizer,
    prior: Prior,
    source: ImageSource,
    data: DataConfig,
    *,
    orders: int = 1,
) -> dict[str, Any]:
    """Bits a token and bits a pixel over a source, in all and by class. The codes are cached in `folder/codes`.

    Exact for raster priors. For the others an average over so many random `orders` of each image; priors of
    objective random also say what raster order gives.
    """
    _refuse_empty(source)
    beside = beside_of(folder, prior.config, data, source, tokenizer)
    found = find_codes(folder / "codes", describe(tokenizer, source, data, flips=False, beside=beside))
    codes = open_codes(found or encode(tokenizer, source, data, folder / "codes", flips=False, beside=beside))
    totals, counts = _bits_by_label(prior, codes, orders)
    names = prior.config.class_names
    mean = float(totals.sum() / counts.sum())
    in_raster = {}
    if prior.config.objective == "random":
        totals_raster, _ = _bits_by_label(prior, codes, 1, raster=True)
        in_raster["bits_per_token_raster"] = float(totals_raster.sum() / counts.sum())
    return {
        "images": int(counts.sum()),
        "bits_per_token": mean,
        **in_raster,
        "bits_per_pixel": mean * prior.config.tokens / tokenizer.config.image_size**2,
        "by_class": {name: float(totals[i] / counts[i]) for i, name in enumerate(names) if counts[i] > 0},
    }


@torch.no_grad()
def _bits_by_label(
    prior: Prior, codes: CodesDataset, orders: int, *, raster: bool = False
) -> tuple[Tensor, Tensor]:
    """Sums of the images' bits a token, and numbers of images, by label (one row where there are none)."""
    repeats = 1 if raster or prior.config.objective == "raster" else orders
    generator = torch.Generator().manual_seed(0)
    rows = max(1, prior.config.classes)
    totals, counts = torch.zeros(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.long)
    for batch in eval_batches(codes, BATCH):
        grids, condition = batch["codes"].to(prior.device), condition_of(batch, prior.config)
        draws = [log_likelihood(prior, grids, condition, generator, raster=raster) for _ in range(repeats)]
        bits = -torch.stack(draws).mean(0) / math.log(2)  # (B,)
        row = (
            batch["label"].clamp_min(0) if prior.config.classes else torch.zeros(len(bits), dtype=torch.long)
        )
        totals.index_add_(0, row, bits.cpu().double())
        counts.index_add_(0, row, torch.ones_like(row))
    return totals, counts


@torch.no_grad()
def reconstruct(
    tokenizer: Tokenizer, paths: Sequence[Path], out: Path, background: str, precision: str = "auto"
) -> list[Path]:
    """Writes each image beside its reconstruction as `out/NAME.png` (a second of that name as `NAME-2.png`).

    Images are brought to the tokenizer's size (shorter side, then centre crop). Where image or tokenizer are of 16 bits
    and grey, so is what is written.
    """
    coder = Codec(tokenizer, precision)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    used: Counter[str] = Counter()
    for path in paths:
        config = tokenizer.config
        image = load_image(str(path), str(path))
        pixels = transform(image, config.image_size, config.channels, background)
        images = pixels[None].to(tokenizer.device)
        result = coder.decode(coder.encode(images))
        used[path.stem] += 1
        number = f"-{used[path.stem]}" if used[path.stem] > 1 else ""
        target = out / f"{path.stem}{number}.png"
        bits = 16 if config.channels == 1 and is_deep(image) else config.bit_depth
        draw_grid([to_pil(images[0], bits), to_pil(result[0], bits)], columns=2).save(target)
        written.append(target)
    return written


def _refuse_empty(source: ImageSource) -> None:
    if not len(source):
        raise DataError(
            f"{source.name}: no images in {source.split} to measure on; see --held-out and --split"
        )
