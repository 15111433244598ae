"""A tokenizer and the prior that learned its codes, together: from a label to pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from ..data.image import to_pil, transform
from ..errors import CheckpointError, ConfigError
from ..options import build, check
from ..prior.conditions.encoder import Condition, caption_bytes
from ..prior.config import DTYPES, PriorConfig, SamplingConfig
from ..prior.decoding.quantized import cast
from ..prior.decoding.sampler import Progress, image_uniforms, sample
from ..prior.model import Prior
from ..runtime.device import pick_device
from ..tokenizer.codec import Codec
from ..tokenizer.model import Tokenizer
from .conditions import SOURCE_FOLDER, encode_sources, in_turn, source_tokenizer
from .memory import auto_batch, decoded_at_once, free_memory
from .text import TextEncoder

__all__ = ["Labels", "Pipeline", "Progress", "Sample", "Sources", "Texts", "sampling_settings"]

Labels = str | int | Sequence[str | int] | Tensor | None
Texts = str | Sequence[str] | None
Sources = Image.Image | Sequence[Image.Image] | None
TYPES = dict(zip(DTYPES, (torch.float32, torch.bfloat16, torch.float16, torch.int8), strict=True))
"""Types of the prior's weights in sampling, see `prior.precision`."""


@dataclass(frozen=True)
class Sample:
    """One sampled image and what it takes to make it again."""

    picture: Image.Image
    codes: Tensor
    """(h, w) int64 on the CPU."""
    index: int
    """The image's number in its seed's stream."""
    label: str | None
    text: str | None = None


class Pipeline:
    """Holds one tokenizer and one prior, and refuses a pair that does not belong together."""

    def __init__(self, tokenizer: Tokenizer, prior: Prior, source_tokenizer: Tokenizer | None = None) -> None:
        """`source_tokenizer`: of the pictures that the prior starts from, where it is not the same.

        Raises:
            CheckpointError: for a tokenizer whose codes the prior did not learn, or did not read.
        """
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
        read = prior.config.image_sha256
        if read and read != (source_tokenizer.weights_sha256() if source_tokenizer is not None else own):
            raise CheckpointError(
                f"the prior reads source pictures coded by another tokenizer (SHA-256 {read}): pass it as "
                f"source_tokenizer; a model folder has it in {SOURCE_FOLDER}/"
            )
        self.tokenizer = tokenizer.eval()
        self.prior = prior.eval()
        self.source_tokenizer = (source_tokenizer or tokenizer).eval()
        self.compile, self.capture = False, True
        self.dtype = self.prior.dtype
        self._sha256: str | None = None
        self._text_encoder: TextEncoder | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "auto",
        *,
        dtype: str = "fp32",
        compile: bool = False,
        capture: bool = True,
    ) -> Self:
        """Loads `folder/tokenizer` and `folder/prior`.

        Args:
            dtype: fp32, bf16, fp16 or int8: what the prior samples in. The halves are faster where the machine has
                them, int8 takes half of their memory, and the images of all three differ from those of fp32.
            compile: whether sampling runs compiled, see `prior.sampler.sample`.
            capture: whether it is captured as CUDA graphs where there is a GPU, see there too.

        Raises:
            ConfigError: for another dtype.
            CheckpointError: when either is missing, damaged, or not made for the other.
        """
        place = pick_device(device) if isinstance(device, str) else device
        kind = sampling_type(dtype)
        folder = Path(folder)
        tokenizer = Tokenizer.from_pretrained(folder / "tokenizer", place)
        prior = Prior.from_pretrained(folder / "prior", place)
        source = source_tokenizer(folder, prior.config, tokenizer) if prior.config.image_grid else None
        pipeline = cls(tokenizer, prior, source)
        if kind != torch.float32:
            pipeline.cast(kind)
        pipeline.compile, pipeline.capture = compile, capture
        return pipeline

    def cast(self, dtype: torch.dtype) -> None:
        """Casts the prior's weights, for sampling only; `prior_sha256` stays that of the weights as they were."""
        self._sha256 = self.prior_sha256()
        self.dtype = dtype
        cast(self.prior, dtype)

    def prior_sha256(self) -> str:
        """Identity of the prior's weights as they were loaded."""
        return self._sha256 or self.prior.weights_sha256()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes both models as `from_pretrained` reads them.

        Raises:
            ConfigError: when the prior's weights were cast: what they were is lost.
        """
        if self._sha256:
            raise ConfigError("the prior was cast for sampling: load it with dtype fp32 to save it")
        self.tokenizer.save_pretrained(Path(folder) / "tokenizer")
        self.prior.save_pretrained(Path(folder) / "prior")
        if self.source_tokenizer is not self.tokenizer:
            self.source_tokenizer.save_pretrained(Path(folder) / SOURCE_FOLDER)

    def sample(self, n: int = 1, label: Labels = None, **settings: Any) -> list[Image.Image]:
        """n pictures. See `stream` for the arguments."""
        return [made.picture for made in self.stream(n, label, **settings)]

    def stream(
        self,
        n: int = 1,
        label: Labels = None,
        *,
        text: Texts = None,
        source: Sources = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int | None = None,
        part: tuple[int, int] = (0, 1),
        progress: Progress | None = None,
        **settings: Any,
    ) -> Iterator[Sample]:
        """Yields n samples, batch by batch.

        Args:
            label: a class by name or number, or several, which take turns; None spreads all classes evenly.
            text: a caption, or several, which take turns.
            source: a picture to start from, or several, which take turns.
            seed, first: image i of the call is image `first + i` of the seed: the same at any batch size.
            batch_size: images sampled at once; None takes what `batch_size` says.
            part: (k, m) makes every m-th batch from the k-th on: the batches stay those of the whole, so that m
                processes together make exactly the images of one.
            progress: called with the number of codes drawn since the last call.
            settings: those of `SamplingConfig`; what is not given is the model's default.

        Raises:
            ConfigError: for a label or a kind of condition that the prior does not know, or a setting out of range.
        """
        if n < 1 or (batch_size is not None and batch_size < 1):
            raise ConfigError(f"n and batch_size must be at least 1, got {n} and {batch_size}")
        labels = self.labels(n, label, first)
        texts, sources = self._told("text", text), self._told("image", source)
        sampling = self.settings(**settings)
        most = batch_size or self.batch_size(n, sampling)
        for start in range(part[0] * most, n, part[1] * most):
            size = min(most, n - start)
            uniforms = image_uniforms(seed, first + start, size, self.prior.config.tokens)
            own = labels[start : start + size] if labels is not None else None
            captions = in_turn(texts, size, first + start) if texts else None
            starts = in_turn(sources, size, first + start) if sources else None
            condition = self.condition(own, captions, starts)
            codes = sample(
                self.prior,
                condition,
                uniforms,
                sampling,
                progress,
                compile=self.compile,
                capture=self.capture,
            )
            pictures = self.decode(codes)
            for row in range(size):
                name = self.prior.config.class_names[int(own[row])] if own is not None else None
                grid = codes[row].unflatten(0, self.prior.config.grid).cpu()
                caption = captions[row] if captions else None
                yield Sample(pictures[row], grid, first + start + row, name, caption)

    def condition(
        self,
        label: Tensor | None,
        text: Sequence[str] | None = None,
        source: Sequence[Image.Image] | None = None,
    ) -> Condition:
        """What each of B pictures is to show, as the prior takes it."""
        config = self.prior.config
        return Condition(
            label=label,
            text=caption_bytes(text, config.text_length) if text and config.text_length else None,
            features=self._features(text) if text and config.feature_width else None,
            source=self._source_codes(source) if source else None,
        )

    def _told(self, kind: str, given: Any) -> list[Any]:
        """What was given of one kind, as a list."""
        if given is None:
            return []
        config = self.prior.config
        kinds = {"text", "features"} if kind == "text" else {kind}
        if not kinds & set(config.conditions):
            takes = ", ".join(config.conditions) or "nothing"
            raise ConfigError(f"this prior was not trained with {kind} conditions; it is told {takes}")
        several = [given] if isinstance(given, (str, Image.Image)) else list(given)
        if not several:
            raise ConfigError(f"an empty list of {kind} conditions")
        return several

    def _features(self, captions: Sequence[str]) -> Tensor:
        self._text_encoder = self._text_encoder or TextEncoder(
            self.prior.config.text_encoder, self.prior.device
        )
        return self._text_encoder(captions)

    def _source_codes(self, pictures: Sequence[Image.Image]) -> Tensor:
        config = self.source_tokenizer.config
        pixels = torch.stack([transform(p, config.image_size, config.channels) for p in pictures])
        return encode_sources(
            Codec(self.source_tokenizer, "fp32"), pixels, self.prior.config.image_reduced_size
        )

    @torch.no_grad()
    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Codes (B, T) or (B, h, w) to pictures, a few at a time: activations are many times larger than pictures."""
        if codes.dim() == 2:
            codes = codes.unflatten(1, self.prior.config.grid)
        parts = codes.to(self.tokenizer.device).split(decoded_at_once(self.tokenizer.config))
        bits = self.tokenizer.config.bit_depth
        return [to_pil(image, bits) for part in parts for image in self.tokenizer.decode(part)]

    def batch_size(self, n: int, settings: SamplingConfig | None = None, processes: int = 1) -> int:
        """Images to sample at once when n are wanted: what fits in half of the free memory, see `auto_batch`."""
        prior, tokenizer, device = self.prior.config, self.tokenizer.config, self.prior.device
        free = free_memory(device, processes if device.type == "cpu" else 1)
        return auto_batch(
            prior, tokenizer, n, free, settings=settings, device=device.type, dtype=self.dtype,
            processes=processes,
        )  # fmt: skip

    def settings(self, **given: Any) -> SamplingConfig:
        """The model's sampling defaults with the given ones in their place (None keeps the default)."""
        return sampling_settings(self.prior.config, **given)

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


def sampling_type(name: str) -> torch.dtype:
    """The type of a name in `TYPES`, or a ConfigError."""
    if name not in TYPES:
        raise ConfigError(f"dtype {name} is not among {', '.join(TYPES)}")
    return TYPES[name]


def sampling_settings(config: PriorConfig, **given: Any) -> SamplingConfig:
    """A prior's sampling defaults with the given ones in their place (None keeps the default).

    Raises:
        ConfigError: for an unknown setting or one out of range.
    """
    known = {f.name for f in fields(SamplingConfig)}
    if set(given) - known:
        build(SamplingConfig, given, "sample")  # raises, naming the unknown ones
    values = {k: check(SamplingConfig, k, v, "sample") for k, v in given.items() if v is not None}
    return replace(config.sampling, **values)
