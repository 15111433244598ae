"""Figures of trained models on a data source, and pictures of what the tokenizer keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data.config import DataConfig, worker_count
from ..data.decode import load_image
from ..data.grid import draw_grid
from ..data.image import is_deep, to_pil, transform
from ..data.images import BadImages, ImageDataset
from ..data.loader import eval_batches
from ..data.source import ImageSource
from ..errors import DataError
from ..runtime.optional import import_with_torchvision
from ..tokenizer.codec import Codec
from ..tokenizer.inception import Inception
from ..tokenizer.metrics import frechet_distance
from ..tokenizer.model import Tokenizer
from ..tokenizer.perceptual import Perceptual
from ..tokenizer.train import evaluate as evaluate_images

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
    images = ImageDataset(source, config.image_size, config.channels, data)
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
