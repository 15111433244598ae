"""A tokenizer and the prior that was trained on its codes, together: loading, saving, decoding.

Shapes: B images, T = h*w tokens, h, w grid.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from ..data.image import to_pil
from ..errors import CheckpointError, ConfigError
from ..prior.decoding.decoder import Decoder
from ..prior.decoding.quantized import cast
from ..prior.model import Prior
from ..runtime.device import pick_device
from ..runtime.precision import DTYPES
from ..runtime.repository import Access, model_folder
from ..runtime.upload import Target
from ..tokenizer.model import Tokenizer
from ..tokenizer.tiling import decode_tiled
from .conditioning_images import IMAGE_TOKENIZER, ImageLoader
from .conditions import trained_conditions
from .memory import decoded_at_once
from .publish import copy_facts, push_folder
from .request import sampling_precision


class Models:
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
        expected = prior.config.tokenizer_sha256
        if expected and not tokenizer.made_codes_of(expected):
            raise CheckpointError(
                f"the prior was trained on the codes of another tokenizer (SHA-256 {expected}) than this one "
                f"({tokenizer.codes_sha256()}); load the tokenizer it was trained with, or train a new prior"
            )
        if tokenizer.config.codebook_size != prior.config.codebook_size:
            raise CheckpointError(
                f"the tokenizer has {tokenizer.config.codebook_size} codes, the prior {prior.config.codebook_size}"
            )
        self.tokenizer, self.prior = tokenizer.eval(), prior.eval()
        self.precision, self.folder = "fp32", folder
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
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load `folder/tokenizer` and `folder/prior`.

        Args:
            folder: of the model, or an id of the Hub such as `user/model` or `user/model@revision`. A folder that
                exists comes before a repository of that name.
            device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
            precision: of the prior: "auto", "fp32", "bf16", "fp16", "int8" (8-bit weights) or a torch dtype. "auto"
                takes bf16 where the device is fast at it and the prior wide enough. Images of different precisions
                differ. The tokenizer stays in float32.
            compile: compile decoding steps of causal priors with torch.compile.
            capture: replay decoding steps of causal priors as CUDA graphs; not tested on a GPU yet.
            revision, token, cache_dir, local_files_only: of a repository on the Hub, see `Tokenizer.from_pretrained`.

        Raises:
            ConfigError: for a device or precision that is not available, or a revision of a folder.
            CheckpointError: for a model that is missing, damaged, or whose two parts do not belong together; or for
                a repository that is missing or cannot be reached.
        """
        place, access = pick_device(device), Access(token, cache_dir, local_files_only)
        folder = model_folder(folder, revision=revision, access=access, needs=("tokenizer", "prior"))
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

    def push_to_hub(
        self,
        repository: str,
        *,
        license: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload with imgtf",
        pictures: bool = True,
    ) -> str:
        """Upload both models with their card as `imgtf push` does, and return the address of the commit.

        Args:
            repository: `user/model`, created where it is missing.
            license: of the model, as the Hub names it, such as apache-2.0.
            pictures: whether to upload the pictures of the card, which may show images of the data set.
            private, token, revision: see `Tokenizer.push_to_hub`.

        Raises:
            CheckpointError: the Hub cannot be reached, or refuses access.
            ConfigError: an argument is wrong, or the prior was cast for sampling.
        """
        target = Target(repository, private, token, commit_message, revision)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            if self.folder:
                copy_facts(self.folder, Path(folder))
            return push_folder(Path(folder), target, license=license, pictures=pictures)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Codes (B, T) or (B, h, w) of any grid to images, a few at a time: activations are much larger than images.

        Raises:
            CheckpointError: the decoder returns NaN.
        """
        grid = self.prior.config.grid
        if codes.dim() == 2:
            codes = codes.unflatten(1, grid)
        at_once = decoded_at_once(self.tokenizer.config) if tuple(codes.shape[1:]) == grid else 1
        chunks = codes.to(self.tokenizer.device).split(at_once)
        bits = self.tokenizer.config.bit_depth
        return [_to_pil(image, bits) for chunk in chunks for image in decode_tiled(self.tokenizer, chunk)]

    def __repr__(self) -> str:
        (H, W), (h, w) = self.tokenizer.config.size, self.prior.config.grid
        conditions = ", ".join(self.prior.config.condition_kinds) or "none"
        return (
            f"Pipeline({H}x{W} px, {h}x{w} tokens of {self.prior.config.codebook_size} codes, "
            f"conditions: {conditions}, {self.precision} on {self.prior.device})"
        )


def _to_pil(image: Tensor, bits: int) -> Image.Image:
    """An image (C, H, W) as Pillow's. Raises CheckpointError for NaN, which would be written as black pixels."""
    if image.isnan().any():
        raise CheckpointError(
            "the tokenizer decodes codes to NaN: its weights are damaged; restore or train it"
        )
    return to_pil(image, bits)
