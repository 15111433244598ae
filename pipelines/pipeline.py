"""A tokenizer and the prior that was trained on its codes, together: from a condition to images.

Shapes: B images, T = h*w tokens, h, w grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from ..data.image import to_pil
from ..errors import CheckpointError, ConfigError
from ..prior.config import SamplingConfig
from ..prior.decoding.decoder import Decoder
from ..prior.decoding.quantized import cast
from ..prior.decoding.sampler import image_uniforms, sample
from ..prior.model import Prior
from ..runtime.device import pick_device
from ..runtime.precision import DTYPES
from ..tokenizer.model import Tokenizer
from .condition_loader import given_values, names_of, to_condition
from .conditioning_images import IMAGE_TOKENIZER, ImageLoader
from .conditions import trained_conditions
from .memory import auto_batch, decoded_at_once, free_memory
from .request import (
    Features,
    Images,
    Labels,
    Progress,
    Request,
    Sample,
    Texts,
    sampling_precision,
    sampling_settings,
)


class Pipeline:
    """One tokenizer and one prior. Refuses a pair that does not belong together."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prior: Prior,
        *,
        conditioning_tokenizer: Tokenizer | None = None,
        folder: Path | None = None,
    ) -> None:
        """
        Args:
            conditioning_tokenizer: of the conditioning images, where it is not the tokenizer itself.
            folder: of the model, which may hold that tokenizer.

        Raises:
            CheckpointError: for a tokenizer that the prior was not trained with.
        """
        own, expected = tokenizer.weights_sha256(), prior.config.tokenizer_sha256
        if expected and own != expected:
            raise CheckpointError(
                f"the prior was trained on the codes of another tokenizer (SHA-256 {expected}) than this one ({own}); "
                f"load the tokenizer it was trained with, or train a new prior"
            )
        if tokenizer.config.codebook_size != prior.config.codebook_size:
            raise CheckpointError(
                f"the tokenizer has {tokenizer.config.codebook_size} codes, the prior {prior.config.codebook_size}"
            )
        self.tokenizer, self.prior = tokenizer.eval(), prior.eval()
        self.precision = "fp32"
        self.loaders = trained_conditions(prior.config, tokenizer, folder)
        for loader in self.loaders:
            if isinstance(loader, ImageLoader):
                loader.use(conditioning_tokenizer)
        self.decoder = Decoder(self.prior)
        self._prior_sha256: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "auto",
        *,
        precision: str | torch.dtype = "auto",
        compile: bool = False,
        capture: bool = False,
    ) -> Self:
        """Load `folder/tokenizer` and `folder/prior`.

        Args:
            device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
            precision: of the prior: "auto", "fp32", "bf16", "fp16", "int8" (8-bit weights) or a torch dtype. "auto"
                takes bf16 where the device is fast at it and the prior wide enough. Images of different precisions
                differ. The tokenizer stays in float32.
            compile: compile decoding steps of causal priors with torch.compile.
            capture: replay decoding steps of causal priors as CUDA graphs; not tested on a GPU yet.

        Raises:
            ConfigError: for a device or precision that is not available.
            CheckpointError: for a model that is missing, damaged, or whose two parts do not belong together.
        """
        folder, place = Path(folder), pick_device(device)
        tokenizer = Tokenizer.from_pretrained(folder / "tokenizer", place)
        prior = Prior.from_pretrained(folder / "prior", place)
        pipeline = cls(tokenizer, prior, folder=folder)
        pipeline.cast(sampling_precision(precision, prior.config, place))
        pipeline.decoder = Decoder(pipeline.prior, compile=compile, capture=capture)
        return pipeline

    def cast(self, precision: str) -> None:
        """Cast the prior's weights for sampling, in place. The pipeline cannot be saved after that."""
        if precision != "fp32":
            self._prior_sha256 = self.prior_sha256()
            cast(self.prior, DTYPES[precision])
        self.precision = precision

    def to(self, device: str | torch.device) -> Self:
        """Move both models to a device."""
        place = pick_device(device)
        for model in (self.tokenizer, self.prior):
            model.to(place)
        for loader in self.loaders:
            if isinstance(loader, ImageLoader):
                loader.image_tokenizer.to(place)
        self.decoder = Decoder(self.prior, compile=self.decoder.compile, capture=self.decoder.capture)
        return self

    def prior_sha256(self) -> str:
        """Identity of the prior's weights as they were loaded."""
        return self._prior_sha256 or self.prior.weights_sha256()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write both models as `from_pretrained` reads them.

        Raises:
            ConfigError: when the prior was cast, so that its original weights are lost.
        """
        if self._prior_sha256:
            raise ConfigError('the prior was cast for sampling: load it with precision="fp32" to save it')
        self.tokenizer.save_pretrained(Path(folder) / "tokenizer")
        self.prior.save_pretrained(Path(folder) / "prior")
        for loader in self.loaders:
            if isinstance(loader, ImageLoader) and loader.image_tokenizer is not self.tokenizer:
                loader.image_tokenizer.save_pretrained(Path(folder) / IMAGE_TOKENIZER)

    def sample(
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
            progress=progress, temperature=temperature, final_temperature=final_temperature, top_k=top_k,
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
    ) -> Iterator[Sample]:
        """Yield n samples, batch by batch. Arguments as for `sample`.

        Args:
            shard: (k, m) samples every m-th batch from the k-th on, so that m processes share the work.
        """
        settings = sampling_settings(
            self.prior.config, temperature=temperature, final_temperature=final_temperature, top_k=top_k,
            top_p=top_p, min_p=min_p, cfg_scale=cfg_scale, cfg_schedule=cfg_schedule, cfg_power=cfg_power,
            order=order, sampling_steps=sampling_steps, step_schedule=step_schedule,
            confidence_noise=confidence_noise,
        )  # fmt: skip
        given = {"label": label, "text": text, "features": features, "image": image}
        request = Request.checked(n, given_values(self.loaders, given), seed, first, batch_size, shard)
        if batch_size is None:
            request = replace(request, batch_size=self.auto_batch_size(request.n, settings))
        return self._stream(request, settings, progress)

    def _stream(
        self, request: Request, settings: SamplingConfig, progress: Progress | None
    ) -> Iterator[Sample]:
        grid = self.prior.config.grid
        for indices in request.batches():
            values = request.values_of(indices)
            uniforms = image_uniforms(request.seed, indices[0], len(indices), self.prior.config.tokens)
            codes = sample(self.decoder, to_condition(self.loaders, values), uniforms, settings, progress)
            names = names_of(self.loaders, values, len(indices))
            for index, image, own, name in zip(indices, self.decode(codes), codes, names, strict=True):
                yield Sample(image, own.unflatten(0, grid).cpu(), index, **name)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Codes (B, T) or (B, h, w) to images, a few at a time: activations are much larger than images."""
        if codes.dim() == 2:
            codes = codes.unflatten(1, self.prior.config.grid)
        chunks = codes.to(self.tokenizer.device).split(decoded_at_once(self.tokenizer.config))
        bits = self.tokenizer.config.bit_depth
        return [to_pil(image, bits) for chunk in chunks for image in self.tokenizer.decode(chunk)]

    def auto_batch_size(self, n: int, settings: SamplingConfig | None = None, processes: int = 1) -> int:
        """Images to sample at once when n are wanted: as many as fit in half of the free memory."""
        device, dtype = self.prior.device, DTYPES[self.precision]
        free = free_memory(device, processes if device.type == "cpu" else 1)
        return auto_batch(
            self.prior.config, self.tokenizer.config, n, free, settings=settings, device=device.type, dtype=dtype,
            processes=processes,
        )  # fmt: skip

    def __repr__(self) -> str:
        size, (h, w) = self.tokenizer.config.image_size, self.prior.config.grid
        conditions = ", ".join(self.prior.config.condition_kinds) or "none"
        return (
            f"Pipeline({size}x{size} px, {h}x{w} tokens of {self.prior.config.codebook_size} codes, "
            f"conditions: {conditions}, {self.precision} on {self.prior.device})"
        )
