"""Round trips through the diffusers library itself, where it is installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imgtf import Tokenizer
from imgtf.pipelines.exchange import export_weights, import_weights
from imgtf.runtime.optional import import_with_torchvision

from .test_diffusers import TINY, VARIANTS, images, read, tokenizer

CONFIG: dict[str, Any] = {
    "block_out_channels": (8, 16, 24),
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    "norm_num_groups": 4,
    "num_vq_embeddings": 30,
    "sample_size": 16,
}


@pytest.fixture(scope="module")
def vqmodel() -> Any:
    """The library's class."""
    pytest.importorskip("diffusers")
    import_with_torchvision("torchvision")
    from diffusers import VQModel

    return VQModel


def codes_of(theirs: Any, pixels: torch.Tensor) -> torch.Tensor:
    latents = theirs.encode(pixels).latents
    return theirs.quantize(latents)[2][2].view(len(latents), *latents.shape[2:])


def compare(ours: Tokenizer, theirs: Any) -> None:
    pixels = images(ours.config)
    codes = ours.encode(pixels)
    assert len(codes.unique()) > 2
    assert torch.equal(codes_of(theirs, pixels), codes)
    vectors = theirs.quantize.get_codebook_entry(codes, (*codes.shape, ours.config.codebook_dim))
    for decoded in (theirs.decode(vectors, force_not_quantize=True).sample, theirs(pixels).sample):
        torch.testing.assert_close(ours.decode(codes), decoded.clamp(-1, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_an_exported_tokenizer_is_the_same_in_diffusers(
    vqmodel: Any, change: dict[str, Any], tmp_path: Path
) -> None:
    export_weights("diffusers", tokenizer(tmp_path / "m", replace(TINY, **change)), tmp_path / "vq")
    theirs, info = vqmodel.from_pretrained(tmp_path / "vq", output_loading_info=True)
    assert not any(info.values()), info
    compare(read(tmp_path / "m"), theirs.eval())


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"vq_embed_dim": 5, "layers_per_block": 2},
        {"mid_block_add_attention": False, "in_channels": 1, "out_channels": 1},
    ],
)
@torch.no_grad()
def test_a_saved_vqmodel_is_the_same_in_imgtf(vqmodel: Any, change: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = vqmodel(**CONFIG | change).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "vq")
    import_weights("auto", [tmp_path / "vq"], tmp_path / "m")
    compare(read(tmp_path / "m"), theirs)
