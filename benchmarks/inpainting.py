"""How close is an inpainted region to the truth? Priors of several objectives on the same held-out images.

    python benchmarks/inpainting.py MODEL... --data DATA [--box centre|random] [--label] [--top-k 100]

Each MODEL is a model folder; all read images of the same size. Of each held-out image a box of half the side is hidden
and filled. The distance is LPIPS (squeeze) between the filled region and the truth, cut out, averaged over images and
variants. For comparison: the mean colour of the kept pixels, the region of the training image whose kept pixels are
nearest, the reconstruction (the best that tokens can reach), and the truth's own region from another held-out image.
Prints a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imgtf import Pipeline
from imgtf.data.config import DataConfig
from imgtf.data.grid import draw_grid
from imgtf.data.image import to_pil, transform
from imgtf.data.images import ImageDataset
from imgtf.data.loader import eval_batches
from imgtf.data.source import ImageSource, open_source
from imgtf.options import sides_of
from imgtf.pipelines.canvas import Canvas
from imgtf.pipelines.editing.fill import inpainting
from imgtf.pipelines.request import sampling_settings
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.decoding.sampler import image_uniforms, sample
from imgtf.tokenizer.perceptual import Perceptual

BATCH_SIZE, GRID_ROWS = 256, 8
Box = tuple[int, int, int, int]
Fill = Callable[[int, Box], list[Image.Image]]
"""Number of a held-out image and its box -> fillings of the whole image."""


def load(source: ImageSource, data: DataConfig, size: tuple[int, int], n: int) -> tuple[Tensor, list[int]]:
    """Return the first n images of a source (n, 3, H, W) in [-1, 1], and their labels."""
    images, labels = [], []
    for batch in eval_batches(ImageDataset(source, size, 3, data), BATCH_SIZE):
        images.append(batch["image"])
        labels += batch["label"].tolist()
        if len(labels) >= n:
            break
    return torch.cat(images)[:n], labels[:n]


def boxes(kind: str, n: int, size: tuple[int, int]) -> list[Box]:
    """Return n boxes of half the height and width: in the centre, or anywhere."""
    (H, W), generator = size, np.random.default_rng(0)
    tops = generator.integers(0, H // 2 + 1, n) if kind == "random" else np.full(n, H // 4)
    lefts = generator.integers(0, W // 2 + 1, n) if kind == "random" else np.full(n, W // 4)
    return [(int(x), int(y), int(x) + W // 2, int(y) + H // 2) for y, x in zip(tops, lefts, strict=True)]


class Model:
    """Fills boxes with one model."""

    def __init__(
        self, folder: Path, images: Tensor, labels: list[int] | None, args: argparse.Namespace
    ) -> None:
        self.pipeline, self.images, self.labels, self.args = (
            Pipeline.from_pretrained(folder, "cpu"),
            images,
            labels,
            args,
        )
        names = ("temperature", "top_k", "top_p", "cfg_scale", "order", "sampling_steps")
        given = {name: getattr(args, name) for name in names}
        self.settings = sampling_settings(self.pipeline.prior.config, **given)

    def fill(self, number: int, box: Box) -> list[Image.Image]:
        n, canvas = self.args.variants, self.canvas(number, box)
        label = None if self.labels is None else torch.full((n,), self.labels[number])
        uniforms = image_uniforms(0, number * n, n, canvas.codes.numel())
        known = canvas.codes.flatten().expand(n, -1)
        codes = sample(self.pipeline.decoder, Condition(label=label), uniforms, self.settings, known=known)
        return [canvas.finish(image) for image in self.pipeline.decode(codes)]

    def canvas(self, number: int, box: Box) -> Canvas:
        image = to_pil(self.images[number])
        canvas = inpainting(self.pipeline, image, box=box, feather=self.args.feather)
        if not self.args.read_hidden:
            return canvas
        whole = self.pipeline.tokenizer.encode_images(image)[0]
        return Canvas(torch.where(canvas.codes < 0, -1, whole), finish=canvas.finish)

    def reconstruct(self, number: int, box: Box) -> list[Image.Image]:
        """The decoded true codes, with the kept pixels."""
        image = to_pil(self.images[number])
        canvas = inpainting(self.pipeline, image, box=box, feather=self.args.feather)
        whole = self.pipeline.tokenizer.encode_images(image)
        return [canvas.finish(self.pipeline.decode(whole)[0])]


def mean_colour(images: Tensor) -> Fill:
    """Fill with the mean colour of the kept pixels."""

    def fill(number: int, box: Box) -> list[Image.Image]:
        image, mask = images[number].clone(), hidden(box, images)
        image[:, mask] = image[:, ~mask].mean(1, keepdim=True)
        return [to_pil(image)]

    return fill


def nearest(images: Tensor, train: Tensor) -> Fill:
    """Fill with the region of the training image whose kept pixels are nearest."""

    def fill(number: int, box: Box) -> list[Image.Image]:
        image, mask = images[number], hidden(box, images)
        distances = torch.cat(
            [((c - image) * ~mask).square().sum((1, 2, 3)) for c in train.split(BATCH_SIZE)]
        )
        return [to_pil(torch.where(mask, train[distances.argmin()], image))]

    return fill


def another(images: Tensor) -> Fill:
    """Fill with the region of the next held-out image."""

    def fill(number: int, box: Box) -> list[Image.Image]:
        other = images[(number + 1) % len(images)]
        return [to_pil(torch.where(hidden(box, images), other, images[number]))]

    return fill


def hidden(box: Box, images: Tensor) -> Tensor:
    mask = torch.zeros(images.shape[2:], dtype=torch.bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


class Distance:
    """LPIPS to the truth in a box, and in the whole image."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.perceptual = images, Perceptual("squeeze")

    def __call__(self, number: int, box: Box, filled: list[Image.Image]) -> tuple[float, float]:
        size = sides_of(tuple(self.images.shape[2:]))
        found = torch.stack([transform(image, size, 3) for image in filled])
        true = self.images[number].expand_as(found)
        x0, y0, x1, y1 = box
        cut = self.perceptual(true[:, :, y0:y1, x0:x1].contiguous(), found[:, :, y0:y1, x0:x1].contiguous())
        return float(cut.mean()), float(self.perceptual(true.contiguous(), found).mean())


def main() -> None:
    args = arguments()
    data = DataConfig(data=args.data)
    train_source, held_out = open_source(data)
    size = Pipeline.from_pretrained(args.models[0], "cpu").tokenizer.config.size
    images, numbers = load(held_out, data, size, args.images)
    train, _ = load(train_source, data, size, args.train_images)
    labels = numbers if args.label else None
    models = {folder.name: Model(folder, images, labels, args) for folder in args.models}
    fills: dict[str, Fill] = {name: model.fill for name, model in models.items()}
    fills |= {
        "mean colour": mean_colour(images),
        "nearest training image": nearest(images, train),
        "another held-out image": another(images),
        "reconstruction": next(iter(models.values())).reconstruct,
    }
    given = ", ".join(
        f"{key} {value}" for key, value in vars(args).items() if value is not None and key != "models"
    )
    print(f"{given}\n\n{'filled with':<28}{'region':>8}{'±':>8}{'image':>8}  region, less the first model's")
    rows, distance = boxes(args.box, len(images), size), Distance(images)
    pictures: dict[str, list[Image.Image]] = {}
    first: np.ndarray | None = None
    with torch.no_grad():
        for name, fill in fills.items():
            filled = [fill(i, box) for i, box in enumerate(rows)]
            found = np.array(
                [distance(i, box, own) for i, (box, own) in enumerate(zip(rows, filled, strict=True))]
            )
            first = found if first is None else first
            (region, image), less = found.mean(0), found[:, 0] - first[:, 0]
            paired = f"{less.mean():+8.4f} ± {error(less):.4f}"
            print(f"{name:<28}{region:8.4f}{error(found[:, 0]):8.4f}{image:8.4f}  {paired}", flush=True)
            pictures[name] = [own[0] for own in filled]
    if args.grid:
        write_grid(images, pictures, args.grid)


def error(values: np.ndarray) -> float:
    """Return the standard error of the mean."""
    return float(values.std(ddof=1) / len(values) ** 0.5)


def write_grid(images: Tensor, pictures: dict[str, list[Image.Image]], path: Path) -> None:
    """Write the truth and the first filling of each kind, a row per image."""
    columns = {"truth": [to_pil(image) for image in images]} | pictures
    cells = [column[row] for row in range(min(GRID_ROWS, len(images))) for column in columns.values()]
    draw_grid(cells, len(columns), [*columns] * min(GRID_ROWS, len(images)), scale=3).save(path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--train-images", type=int, default=10_000, help="searched for the nearest one")
    parser.add_argument("--variants", type=int, default=4)
    parser.add_argument("--box", choices=("centre", "random"), default="centre")
    parser.add_argument("--label", action="store_true", help="condition on the class of the image")
    parser.add_argument(
        "--read-hidden", action="store_true", help="codes of the kept tokens from the whole image"
    )
    parser.add_argument("--feather", type=int, default=4)
    parser.add_argument("--grid", type=Path, help="write a picture of the first images")
    for name in ("temperature", "top-p", "cfg-scale"):
        parser.add_argument(f"--{name}", type=float)
    for name in ("top-k", "sampling-steps"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--order")
    return parser.parse_args()


if __name__ == "__main__":
    main()
