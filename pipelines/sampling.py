"""Sampling of images from a tokenizer and its prior.

Shapes: B images, T = h*w tokens, h, w grid.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Unpack

from PIL import Image
from torch import Tensor

from ..options import Size
from ..prior.conditions.condition import Condition
from ..prior.config import SamplingConfig
from ..prior.decoding.sampler import image_uniforms, sample
from ..runtime.precision import DTYPES
from .canvas import Canvas, Window
from .condition_loader import Given, given_values, names_of, to_condition
from .editing.extend import blank
from .memory import auto_batch, check_batch, free_memory
from .models import Models
from .request import (
    Features,
    Images,
    Labels,
    Progress,
    Request,
    Sample,
    SamplingOptions,
    Texts,
    Watch,
    sampling_settings,
)
from .windows import sample_windows

logger = logging.getLogger("imgtf")


class Sampling(Models):
    """A tokenizer and its prior that sample images."""

    def sample(
        self,
        n: int = 1,
        label: Labels = None,
        *,
        text: Texts = None,
        features: Features = None,
        image: Images = None,
        size: Size | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        progress: Progress | None = None,
        temperature: float | None = None,
        final_temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        cfg_scale: float | None = None,
        cfg_schedule: str | None = None,
        cfg_power: float | None = None,
        order: str | None = None,
        sampling_steps: int | None = None,
        step_schedule: str | None = None,
        confidence_noise: float | None = None,
    ) -> list[Image.Image]:
        """Sample n images.

        Conditions take one value or several, which take turns over the images. Sampling settings that are None take
        the model's own defaults (`prior.config.sampling`).

        Args:
            label: class name or number; None: all classes take turns.
            text: caption.
            features: (k, n, F) of a text encoder, for priors that are conditioned on features.
            image: conditioning image: a PIL image or the path of one.
            size: another size than the trained one, a side or (height, width); see `editing.extend.blank`.
            seed: in [0, 2**64). The same seed gives the same images.
            first: number of the first image in the sequence of the seed, in [0, 2**64).
            batch_size: images sampled at once; None: as many as fit in half of the free memory.
            progress: called with the number of codes drawn since the last call.
            temperature: above 0; divides the logits. Below 1 is less varied.
            final_temperature: above 0; temperature at the last code, reached linearly.
            top_k: keep only the k most likely codes; 0 keeps all.
            top_p: in (0, 1]; keep the most likely codes up to this total probability.
            min_p: in [0, 1]; drop codes below this fraction of the most likely code's probability.
            cfg_scale: classifier-free guidance, at least 0; 1 is no guidance.
            cfg_schedule: "constant", "linear", "cosine" or "power-cosine": guidance rising from 1 to cfg_scale.
            cfg_power: above 0; power of "power-cosine".
            order: "raster", "random", "halton" or "confidence" (random and masked priors).
            sampling_steps: at least 1; steps per image (random and masked priors).
            step_schedule: "even" or "cosine": codes per step.
            confidence_noise: at least 0; noise on the confidence of order "confidence".

        Raises:
            ConfigError: for a condition that the prior does not have, or a setting out of range.
        """
        stream = self.stream(
            n, label, text=text, features=features, image=image, seed=seed, first=first, batch_size=batch_size,
            progress=progress, canvas=None if size is None else blank(self, size),
            temperature=temperature, final_temperature=final_temperature, top_k=top_k,
            top_p=top_p, min_p=min_p, cfg_scale=cfg_scale, cfg_schedule=cfg_schedule, cfg_power=cfg_power,
            order=order, sampling_steps=sampling_steps, step_schedule=step_schedule,
            confidence_noise=confidence_noise,
        )  # fmt: skip
        return [sampled.image for sampled in stream]

    __call__ = sample

    def stream(
        self,
        n: int = 1,
        label: Labels = None,
        *,
        text: Texts = None,
        features: Features = None,
        image: Images = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        shard: tuple[int, int] = (0, 1),
        progress: Progress | None = None,
        canvas: Canvas | None = None,
        watch: Watch | None = None,
        **settings: Unpack[SamplingOptions],
    ) -> Iterator[Sample]:
        """Yield n samples, batch by batch. Arguments and sampling settings as for `sample`.

        Args:
            shard: (k, m) samples every m-th batch from the k-th on, so that m processes share the work.
            canvas: samples are n ways to fill the missing codes of this canvas; None: an empty canvas of the trained
                grid. A larger grid is sampled window by window. Without a label, a canvas with known codes is filled
                unconditionally; the classes do not take turns.
            watch: called after every step with the codes (B, h, w) so far of the images being sampled, -1 where none is
                sampled yet, for previews. A larger grid: after every window.
        """
        used = sampling_settings(self.prior.config, **settings)
        given = {"label": label, "text": text, "features": features, "image": image}
        values = given_values(self.loaders, given)
        if label is None and canvas is not None and canvas.has_known:
            values.pop("label", None)  # the class of an edited image is not known
        guided = any(values.values()) or (canvas is not None and canvas.values_at is not None)
        if not guided and settings.get("cfg_scale") not in (None, 1) and (canvas is None or canvas.leads):
            self._say_unguided()
        request = Request.checked(n, values, seed, first, batch_size, shard)
        if batch_size is None:
            request = replace(request, batch_size=self.auto_batch_size(request.n, used))
        else:
            self._check_batch(min(request.n, request.batch_size), used)
        return self._stream(request, used, progress, canvas or Canvas.empty(self.prior.config.grid), watch)

    def _say_unguided(self) -> None:
        """Say that guidance which the call asks for has no effect, because its images are unconditional."""
        kinds = ("text" if kind == "features" else kind for kind in self.prior.config.condition_kinds)
        options = " or ".join(f"--{kind}" for kind in kinds)
        lacking = f"no condition is given ({options})" if options else "this prior has no conditions"
        logger.info("guidance has no effect: %s", lacking)

    def _stream(
        self,
        request: Request,
        settings: SamplingConfig,
        progress: Progress | None,
        canvas: Canvas,
        watch: Watch | None,
    ) -> Iterator[Sample]:
        for indices in request.batches():
            values = request.values_of(indices)
            uniforms = image_uniforms(request.seed, indices[0], len(indices), canvas.codes.numel())
            codes = self._fill(canvas, values, uniforms, settings, progress, watch)
            names = names_of(self.loaders, values, len(indices))
            for index, image, own, name in zip(indices, self.decode(codes), codes, names, strict=True):
                yield Sample(canvas.finish(image), own.cpu(), index, **name)

    def _fill(
        self,
        canvas: Canvas,
        values: Given,
        uniforms: Tensor,
        settings: SamplingConfig,
        progress: Progress | None,
        watch: Watch | None,
    ) -> Tensor:
        """Return the codes (B, h, w) of B ways to fill a canvas."""
        known = canvas.codes.expand(len(uniforms), -1, -1)  # (B, h, w)

        def condition_at(window: Window) -> Condition:
            own = canvas.values_at(window) if canvas.values_at else {}
            rows = {kind: [value] * len(uniforms) for kind, value in own.items()}
            return to_condition(self.loaders, {**values, **rows})

        if canvas.grid == self.prior.config.grid:
            condition = condition_at(Window(0, 0, *canvas.grid))
            shown = (lambda codes: watch(codes.unflatten(1, canvas.grid))) if watch else None
            codes = sample(
                self.decoder, condition, uniforms, settings, progress, known=known.flatten(1), watch=shown
            )
            return codes.unflatten(1, canvas.grid)
        return sample_windows(
            self.decoder, condition_at, uniforms, settings, known, progress,
            codes_per_latent=self.tokenizer.config.codes_per_latent, watch=watch,
        )  # fmt: skip

    def _check_batch(self, size: int, settings: SamplingConfig) -> None:
        """ConfigError for a batch that does not fit in the free memory."""
        device, dtype = self.prior.device, DTYPES[self.precision]
        configs, free = (self.prior.config, self.tokenizer.config), free_memory(device)
        check_batch(*configs, size, free, settings=settings, device=device.type, dtype=dtype)

    def auto_batch_size(self, n: int, settings: SamplingConfig | None = None, processes: int = 1) -> int:
        """Images to sample at once when n are wanted: as many as fit in half of the free memory."""
        device, dtype = self.prior.device, DTYPES[self.precision]
        free = free_memory(device, processes if device.type == "cpu" else 1)
        return auto_batch(
            self.prior.config, self.tokenizer.config, n, free, settings=settings, device=device.type, dtype=dtype,
            processes=processes,
        )  # fmt: skip
