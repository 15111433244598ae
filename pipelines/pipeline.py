"""A tokenizer and the prior that learned its codes, together: from a label to pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from ..data.image import to_pil
from ..errors import CheckpointError, ConfigError
from ..options import build, check
from ..prior.config import SamplingConfig
from ..prior.model import Prior
from ..prior.sampler import Progress, image_uniforms, sample
from ..tokenizer.model import Tokenizer
from ..training.device import pick_device

__all__ = ["Labels", "Pipeline", "Progress", "Sample"]

Labels = str | int | Sequence[str | int] | Tensor | None


@dataclass(frozen=True)
class Sample:
    """One sampled image and what it takes to make it again."""

    picture: Image.Image
    codes: Tensor
    """(h, w) int64 on the CPU."""
    index: int
    """The image's number in its seed's stream."""
    label: str | None


class Pipeline:
    """Holds one tokenizer and one prior, and refuses a pair that does not belong together."""

    def __init__(self, tokenizer: Tokenizer, prior: Prior) -> None:
        own, expected = tokenizer.weights_sha256(), prior.config.tokenizer_sha256
        if expected and own != expected:
            raise CheckpointError(
                f"the prior learned the codes of another tokenizer (SHA-256 {expected}) than this one ({own}); "
                f"train the prior anew, or load the tokenizer it was trained with"
            )
        if tokenizer.config.codebook_size != prior.config.codebook_size:
            raise CheckpointError(
                f"the tokenizer has {tokenizer.config.codebook_size} codes, the prior {prior.config.codebook_size}"
            )
        self.tokenizer = tokenizer.eval()
        self.prior = prior.eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "auto") -> Self:
        """Loads `folder/tokenizer` and `folder/prior`.

        Raises:
            CheckpointError: when either is missing, damaged, or not made for the other.
        """
        place = pick_device(device)
        folder = Path(folder)
        return cls(
            Tokenizer.from_pretrained(folder / "tokenizer", place),
            Prior.from_pretrained(folder / "prior", place),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes both models as `from_pretrained` reads them."""
        self.tokenizer.save_pretrained(Path(folder) / "tokenizer")
        self.prior.save_pretrained(Path(folder) / "prior")

    def sample(self, n: int = 1, label: Labels = None, **settings: Any) -> list[Image.Image]:
        """n pictures. See `stream` for the arguments."""
        return [made.picture for made in self.stream(n, label, **settings)]

    def stream(
        self,
        n: int = 1,
        label: Labels = None,
        *,
        seed: int = 0,
        first: int = 0,
        batch_size: int = 64,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Iterator[Sample]:
        """Yields n samples, batch by batch.

        Args:
            label: a class by name or number, or several, which take turns; None spreads all classes evenly.
            seed, first: image i of the call is image `first + i` of the seed: the same at any batch size.
            batch_size: images sampled at once.
            progress: called with the number of codes drawn since the last call.
            settings: temperature, top_k, top_p, min_p, cfg_scale; the rest are the model's defaults.

        Raises:
            ConfigError: for a label that the prior does not know, or a setting out of range.
        """
        if n < 1 or batch_size < 1:
            raise ConfigError(f"n and batch_size must be at least 1, got {n} and {batch_size}")
        labels = self.labels(n, label, first)
        sampling = self.settings(**settings)
        for start in range(0, n, batch_size):
            size = min(batch_size, n - start)
            uniforms = image_uniforms(seed, first + start, size, self.prior.config.tokens)
            part = labels[start : start + size] if labels is not None else None
            codes = sample(self.prior, part, uniforms, sampling, progress)
            pictures = self.decode(codes)
            for row in range(size):
                name = self.prior.config.class_names[int(part[row])] if part is not None else None
                grid = codes[row].unflatten(0, self.prior.config.grid).cpu()
                yield Sample(pictures[row], grid, first + start + row, name)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Codes (B, T) or (B, h, w) to pictures."""
        if codes.dim() == 2:
            codes = codes.unflatten(1, self.prior.config.grid)
        bits = self.tokenizer.config.bit_depth
        return [to_pil(image, bits) for image in self.tokenizer.decode(codes.to(self.tokenizer.device))]

    def settings(self, **given: Any) -> SamplingConfig:
        """The model's sampling defaults with the given ones in their place (None keeps the default)."""
        known = {f.name for f in fields(SamplingConfig)}
        if set(given) - known:
            build(SamplingConfig, given, "sample")  # raises, naming the unknown ones
        values = {k: check(SamplingConfig, k, v, "sample") for k, v in given.items() if v is not None}
        return replace(self.prior.config.sampling, **values)

    def labels(self, n: int, label: Labels, first: int = 0) -> Tensor | None:
        """The label number of each of n images, (n,), or None for a prior without labels."""
        names = self.prior.config.class_names
        if not names:
            if label is not None:
                raise ConfigError("this prior was trained without labels; sample without naming one")
            return None
        if label is None:
            label = range(len(names))
        several = label.tolist() if isinstance(label, Tensor) else label
        chosen = [several] if isinstance(several, (str, int)) else list(several)
        numbers = torch.tensor([self._label_number(c) for c in chosen])
        return numbers[torch.arange(first, first + n) % len(numbers)]

    def _label_number(self, label: str | int) -> int:
        names = self.prior.config.class_names
        if isinstance(label, str) and label in names:
            return names.index(label)
        if isinstance(label, int) and 0 <= label < len(names):
            return label
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise ConfigError(f"no label {label!r}; this prior knows {shown}")
