"""The public class: a tokenizer and the prior that was trained on its codes, and all that can be done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

from PIL import Image

from ..data.config import DataConfig
from ..options import Size
from ..tokenizer.images import ImageLike
from .attention_map import AttentionMap, attention
from .canvas import Canvas
from .compression.compress import compress, decompress
from .editing.extend import outpainting
from .editing.fill import FEATHER, KEEP, completion, inpainting
from .editing.mixing import mixing
from .editing.region import Box, MaskLike
from .editing.translate import translated
from .editing.variation import variation
from .evaluate_samples import evaluate
from .evaluation_report import Evaluation
from .judge import JudgeOptions
from .request import Labels, Progress, StreamOptions, Texts
from .sampling import Sampling
from .scoring import Score, score


class Pipeline(Sampling):
    """One tokenizer and one prior. Refuses a pair that does not belong together.

    Images are PIL images, paths, arrays (H, W, C) or tensors (C, H, W), see `ImageLike`; results are PIL images. The
    editing methods take the arguments of `stream` as well: label, text, seed, batch_size, progress and the sampling
    settings. Each is `stream` with a canvas, which yields the images one by one:

        canvas = inpainting(pipeline, "photo.png", box=(8, 8, 24, 24))  # of imgtf.pipelines.editing.fill
        for sample in pipeline.stream(16, canvas=canvas): ...

    All methods raise ConfigError for arguments that do not work, and DataError for images that cannot be read.
    """

    def complete(
        self,
        image: ImageLike,
        n: int = 1,
        *,
        keep: float = KEEP,
        box: Box | None = None,
        feather: int = FEATHER,
        keep_decoded: bool = False,
        background: str = "white",
        **options: Unpack[StreamOptions],
    ) -> list[Image.Image]:
        """Return n ways to complete an image of which the top, or a box, is kept. See `completion`."""
        canvas = completion(
            self, image, keep=keep, box=box, feather=feather, keep_decoded=keep_decoded, background=background
        )
        return self._filled(n, canvas, options)

    def inpaint(
        self,
        image: ImageLike,
        n: int = 1,
        *,
        mask: MaskLike | None = None,
        box: Box | None = None,
        feather: int = FEATHER,
        keep_decoded: bool = False,
        background: str = "white",
        **options: Unpack[StreamOptions],
    ) -> list[Image.Image]:
        """Return n ways to redraw the part of an image that a mask or a box marks. See `inpainting`."""
        canvas = inpainting(
            self, image, mask=mask, box=box, feather=feather, keep_decoded=keep_decoded, background=background
        )
        return self._filled(n, canvas, options)

    def outpaint(
        self,
        image: ImageLike,
        n: int = 1,
        *,
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        size: Size | None = None,
        feather: int = FEATHER,
        keep_decoded: bool = False,
        background: str = "white",
        **options: Unpack[StreamOptions],
    ) -> list[Image.Image]:
        """Return n ways to continue an image beyond its borders. See `outpainting`."""
        canvas = outpainting(
            self, image, left=left, right=right, top=top, bottom=bottom, size=size, feather=feather,
            keep_decoded=keep_decoded, background=background,
        )  # fmt: skip
        return self._filled(n, canvas, options)

    def vary(
        self,
        image: ImageLike,
        n: int = 1,
        *,
        strength: float = 0.3,
        choose: str = "least-likely",
        background: str = "white",
        **options: Unpack[StreamOptions],
    ) -> list[Image.Image]:
        """Return n variations of an image, of which a share of the tokens is sampled anew. See `variation`."""
        condition: Any = {k: options.get(k) for k in ("label", "text", "features")}
        canvas = variation(
            self, image, strength=strength, choose=choose, seed=options.get("seed", 0), background=background,
            **condition,
        )  # fmt: skip
        return self._filled(n, canvas, options)

    def mix(
        self,
        a: ImageLike,
        b: ImageLike,
        *,
        steps: int = 8,
        strength: float = 0.3,
        background: str = "white",
        **options: Unpack[StreamOptions],
    ) -> list[Image.Image]:
        """Return `steps` images from `a` to `b`, through their tokens. See `mixing`."""
        condition: Any = {k: options.get(k) for k in ("label", "text", "features")}
        canvases = mixing(self, a, b, steps=steps, strength=strength, background=background, **condition)
        return [image for canvas in canvases for image in self._filled(1, canvas, options)]

    def translate(
        self, images: ImageLike | Sequence[ImageLike], n: int = 1, **options: Unpack[StreamOptions]
    ) -> list[Image.Image]:
        """Return n images for each conditioning image (a label map, a sketch), of its aspect. See `translated`."""
        return [sample.image for sample in translated(self, images, n, **options)]

    def upscale(
        self, images: ImageLike | Sequence[ImageLike], n: int = 1, **options: Unpack[StreamOptions]
    ) -> list[Image.Image]:
        """Return n enlarged images for each small image, with sampled detail. See `upscaling`."""
        return [sample.image for sample in translated(self, images, n, upscale=True, **options)]

    def _filled(self, n: int, canvas: Canvas, options: StreamOptions) -> list[Image.Image]:
        return [sample.image for sample in self.stream(n, canvas=canvas, **options)]

    def score(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        label: Labels = None,
        text: Texts = None,
        background: str = "white",
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[Score]:
        """Yield bits per token and a map of unlikely places for each image. See `scoring.score`."""
        return score(self, images, label=label, text=text, background=background, progress=progress)

    def attention(
        self,
        image: ImageLike,
        at: tuple[int, int],
        *,
        of: str = "prior",
        layer: int | None = None,
        head: int | None = None,
        order: str = "raster",
        label: Labels = None,
        text: Texts = None,
        conditioning_image: ImageLike | None = None,
        background: str = "white",
    ) -> AttentionMap:
        """Return where the token at a row and column of the grid looks. See `attention_map.attention`."""
        return attention(
            self, image, at, of=of, layer=layer, head=head, order=order, label=label, text=text,
            conditioning_image=conditioning_image, background=background,
        )  # fmt: skip

    def compress(
        self,
        image: ImageLike,
        *,
        label: str | int | None = None,
        text: str | None = None,
        background: str = "white",
        progress: Progress | None = None,
    ) -> bytes:
        """Return an image's codes in as many bits as the prior needs for them. See `compression.compress`."""
        return compress(self, image, label=label, text=text, background=background, progress=progress)

    def decompress(self, data: bytes, *, progress: Progress | None = None) -> Image.Image:
        """Return the decoded image of what `compress` returned, with the same codes.

        Raises:
            DataError: for data that `compress` did not return, or that are damaged.
            CheckpointError: for data of another model, precision or device.
        """
        return decompress(self, data, progress=progress)

    def evaluate(
        self,
        data: DataConfig | str | Path,
        n: int = 1000,
        *,
        options: JudgeOptions | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        memorisation: bool = True,
        progress: Callable[[str, float, int], object] | None = None,
        **settings: Any,
    ) -> Evaluation:
        """Compare n samples with the real images of a data set. See `evaluate_samples.evaluate`."""
        return evaluate(
            self, data, n, options=options, seed=seed, batch_size=batch_size, memorisation=memorisation,
            progress=progress, settings=settings,
        )  # fmt: skip
