"""Where a token looks: weights that sum to one, equal the definition and follow the order of the prior."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgtf import Pipeline, Prior, Tokenizer
from imgtf.errors import ConfigError
from imgtf.pipelines.attention_map import AttentionMap, attention
from imgtf.prior.conditions.base import ConditionConfig
from imgtf.prior.conditions.image import ImageConfig
from imgtf.prior.conditions.label import LabelConfig
from imgtf.prior.conditions.text import TextConfig
from imgtf.prior.config import PriorConfig
from imgtf.tokenizer.config import TokenizerConfig

from .conftest import run

CONV = {"width": 8, "multipliers": (1, 2), "latent_width": 8, "norm_groups": 4}
VIT = {"network": "vit", "width": 16, "heads": 2, "depth": 3, "patch": 2}
LABELS = LabelConfig(class_names=("red", "green"))


def tiny(
    objective: str = "raster", conditions: tuple[ConditionConfig, ...] = (), **tokenizer: Any
) -> Pipeline:
    """Random models with attention that is far from even. The grid is 3x4."""
    torch.manual_seed(0)
    network = VIT if tokenizer.get("network") == "vit" else CONV
    sizes = {"image_size": (6, 8), "codebook_size": 8, "codebook_dim": 4}
    config = TokenizerConfig(**sizes | network | tokenizer)
    tokenizer_model = spread(Tokenizer(config))
    settings = {"width": 16, "depth": 2, "heads": 2, "objective": objective, "conditions": conditions}
    return Pipeline(
        tokenizer_model, spread(Prior(PriorConfig(grid=config.grid, codebook_size=8, **settings)))
    )


def spread(model: Any) -> Any:
    """Give a model large weights where they decide what it attends to."""
    for name, parameter in model.named_parameters():
        if "qkv" in name or "cross.q." in name or "embedding" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    return model


def noise(seed: int = 0, size: tuple[int, int] = (6, 8)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def total(found: AttentionMap) -> float:
    return float(found.weights.sum()) + found.elsewhere


@pytest.mark.parametrize("objective", ["raster", "random", "masked"])
def test_weights_of_the_prior_sum_to_one(objective: str) -> None:
    pipeline = tiny(objective, (LABELS,))
    for at in ((0, 0), (1, 2), (2, 3)):
        for layer in (0, 1):
            for head in (None, 1):
                found = attention(pipeline, noise(), at, layer=layer, head=head, label="red")
                assert found.weights.shape == (3, 4)
                assert total(found) == pytest.approx(1, abs=1e-6)


def test_a_raster_prior_looks_at_the_codes_before() -> None:
    found = attention(tiny(), noise(), (1, 2))
    flat = found.weights.flatten()
    assert (flat[:6] > 0).all()
    assert (flat[6:] == 0).all()
    assert attention(tiny(), noise(), (0, 0)).elsewhere == pytest.approx(1)


def test_a_prior_with_random_order_may_predict_the_code_last() -> None:
    pipeline = tiny("random")
    raster = attention(pipeline, noise(), (1, 2)).weights.flatten()
    last = attention(pipeline, noise(), (1, 2), order="last").weights.flatten()
    assert (raster[6:] == 0).all()
    assert [int(i) for i in np.flatnonzero(last == 0)] == [6]


def test_a_masked_prior_looks_at_all_codes() -> None:
    assert (attention(tiny("masked"), noise(), (1, 2)).weights > 0).all()


def test_the_first_layer_of_the_prior_equals_its_definition() -> None:
    pipeline = tiny()
    prior, query = pipeline.prior, 6  # the token that holds code 5 and predicts code 6
    codes = pipeline.tokenizer.encode_images(noise()).flatten(1)
    calls: list[Any] = []
    hook = prior.blocks[0].attention.register_forward_pre_hook(lambda _, given: calls.append(given))
    with torch.no_grad():
        prior(codes)
    hook.remove()
    (x, inputs), layer = calls[0], prior.blocks[0].attention
    q, k, _ = (t.transpose(1, 2) for t in layer.qkv(x).unflatten(-1, (3, 2, 8)).unbind(2))
    pairs = [torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) for t in (q, k)]
    tables = [torch.view_as_complex(table.contiguous()) for table in inputs.rotary]
    q, k = (torch.view_as_real(p * t).flatten(-2) for p, t in zip(pairs, tables, strict=True))
    expected = q[0, :, None, query] @ k[0].mT / 8**0.5
    expected = expected[:, 0, : query + 1].softmax(-1).detach().numpy()  # (heads, S + 6)
    for head in (0, 1):
        found = attention(pipeline, noise(), (1, 2), layer=0, head=head)
        assert found.weights.flatten()[:6] == pytest.approx(expected[head, 1:], abs=1e-5)
        assert found.elsewhere == pytest.approx(expected[head, 0], abs=1e-5)


def test_the_average_over_heads_is_the_default() -> None:
    pipeline = tiny()
    heads = [attention(pipeline, noise(), (2, 1), head=head).weights for head in (0, 1)]
    found = attention(pipeline, noise(), (2, 1))
    assert found.weights == pytest.approx((heads[0] + heads[1]) / 2)
    assert (found.layer, found.layers, found.heads) == (1, 2, 2)


def test_recording_changes_nothing() -> None:
    pipeline = tiny()
    before = pipeline.sample(2, seed=3)
    attention(pipeline, noise(), (1, 2))
    with pytest.raises(ConfigError):
        attention(pipeline, noise(), (1, 2), layer=9)
    assert pipeline.sample(2, seed=3) == before
    assert not any(module._forward_pre_hooks for module in pipeline.prior.modules())


@pytest.mark.parametrize("of", ["encoder", "decoder"])
def test_every_attention_layer_of_a_convolutional_tokenizer_is_shown(of: str) -> None:
    pipeline = tiny(attention_levels=(0,), blocks=1)
    shapes = [attention(pipeline, noise(), (2, 3), of=of, layer=layer).weights.shape for layer in range(2)]
    assert sorted(shapes) == [(3, 4), (6, 8)]
    assert (shapes[0] == (6, 8)) == (of == "encoder")  # in the order of computation
    found = attention(pipeline, noise(), (2, 3), of=of)
    assert found.layers == 2 + (of == "decoder")  # the decoder has a block more per level
    assert total(found) == pytest.approx(1, abs=1e-6)


def test_attention_of_the_encoder_equals_its_definition() -> None:
    pipeline = tiny()
    layer, seen = pipeline.tokenizer.encoder.middle[1], []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    pipeline.tokenizer.encode_images(noise())
    hook.remove()
    q, k, _ = layer.qkv(layer.norm(seen[0])).flatten(2)[0].chunk(3)  # (C, T)
    expected = (q[:, 6] @ k / 16**0.5).softmax(-1).detach().numpy()
    found = attention(pipeline, noise(), (1, 2), of="encoder")
    assert found.weights.flatten() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("of", ["encoder", "decoder"])
def test_registers_of_a_transformer_tokenizer_are_elsewhere(of: str) -> None:
    plain = attention(tiny(network="vit"), noise(), (1, 2), of=of)
    assert (plain.layers, plain.heads) == (3, 2)
    assert plain.elsewhere == pytest.approx(0, abs=1e-6)
    found = attention(tiny(network="vit", registers=3), noise(), (1, 2), of=of)
    assert 0 < found.elsewhere < 1
    assert total(found) == pytest.approx(1, abs=1e-6)


def test_several_codes_per_latent_have_columns_of_their_own() -> None:
    pipeline = tiny(quantizer="residual_vq")
    assert attention(pipeline, noise(), (2, 7)).weights.shape == (3, 8)
    assert attention(pipeline, noise(), (2, 3), of="encoder").grid == (3, 4)
    with pytest.raises(ConfigError, match="columns 0 to 3"):
        attention(pipeline, noise(), (2, 7), of="encoder")


def conditioned() -> Pipeline:
    """A prior with a label, a caption and a conditioning image, encoded by its own tokenizer."""
    sha = tiny().tokenizer.codes_sha256()
    image = ImageConfig(grid=(3, 4), codebook_size=8, tokenizer_sha256=sha)
    return tiny("raster", (LABELS, TextConfig(max_bytes=5), image))


def test_the_prior_looks_at_a_conditioning_image() -> None:
    pipeline = conditioned()
    given = {"text": "a", "label": "red", "conditioning_image": noise(1)}
    found = attention(pipeline, noise(), (1, 2), of="condition", **given)
    assert found.weights.shape == (3, 4)
    assert (found.weights > 0).all()
    assert 0 < found.elsewhere < 1  # the caption, and nothing
    assert np.array_equal(np.asarray(found.image), np.asarray(noise(1)))
    assert total(attention(pipeline, noise(), (1, 2), **given)) == pytest.approx(1, abs=1e-6)


def test_the_overlay_marks_the_token() -> None:
    found = attention(tiny(), noise(), (1, 2))
    picture = np.asarray(found.overlay())
    height, width = picture.shape[0] // 3, picture.shape[1] // 4
    token = picture[height : 2 * height, 2 * width : 3 * width]
    assert (token[0, 0] == (0, 200, 255)).all()
    assert (token[-1, -1] == (0, 200, 255)).all()
    framed = (picture == (0, 200, 255)).all(-1)
    assert framed.sum() == framed[height : 2 * height, 2 * width : 3 * width].sum()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"at": (3, 0)},
            "row 3, column 0 is outside the grid of 3x4 tokens: rows are 0 to 2, columns 0 to 3",
        ),
        ({"at": (-1, 0)}, "at must be from 0"),
        ({"layer": 2}, "there is no layer 2: this network has 2, numbered from 0 to 1"),
        ({"head": 2}, "there is no head 2"),
        ({"of": "sky"}, "of must be one of prior, encoder, decoder, condition"),
        ({"order": "last"}, "order last is for random priors; this one is raster"),
        ({"order": "first"}, "order must be one of"),
        ({"of": "condition"}, "has no conditioning image"),
        ({"label": "red"}, "not on label"),
        ({"of": "encoder", "layer": 1}, "there is no layer 1"),
    ],
)
def test_what_does_not_exist_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attention(tiny(), noise(), **{"at": (1, 1)} | given)


def test_networks_without_attention_and_missing_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="the tokenizer's encoder has no attention layers"):
        attention(tiny(middle_attention=False), noise(), (0, 0), of="encoder")
    with pytest.raises(ConfigError, match="looks at a conditioning image: give one"):
        attention(conditioned(), noise(), (0, 0), of="condition")


def test_the_command_writes_a_picture_and_says_what_it_shows(
    model: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    image, out = images / "red" / "0.png", tmp_path / "new" / "map.png"
    command = ["attention", image, "--at", "3,4", "--model", model, "--label", "red", "--out", out]
    assert run(*command, "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["file"] == str(out)
    assert 0 <= found["share_outside_the_image"] <= 1
    assert "cropped and resized to the model's 16 pixels" in printed.err.splitlines()[-1]
    with Image.open(out) as picture:
        assert picture.size == (256, 256)
    assert run(*command) == 1
    assert run(*command, "--force", "--layer", "0", "--head", "0") == 0
    assert "most_attended" in capsys.readouterr().out


def test_wrong_arguments_of_the_command_are_one_line_and_nothing_is_written(
    model: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    image, out = images / "red" / "0.png", tmp_path / "out" / "map.png"
    cases: list[tuple[list[Any], int]] = [
        ([image], 2), ([image, "--at", "3"], 2), ([image, "--at", "a,b"], 2), ([image, "--at", "-1,0"], 2),
        ([image, "--at", "1,2,3"], 2), ([image, "--at", "1,1", "--of", "sky"], 2),
        ([image, "--at", "8,0"], 1), ([image, "--at", "1,1", "--layer", "7"], 1),
        ([image, "--at", "1,1", "--head", "7"], 1), ([image, "--at", "1,1", "--of", "condition"], 1),
        ([image, "--at", "1,1", "--label", "blau"], 1), ([image, "--at", "1,1", "--text", "a"], 1),
        ([image, "--at", "1,1", "--order", "last"], 1), ([image, "--at", "1,1", "--background", "nocolour"], 1),
        ([tmp_path / "none.png", "--at", "1,1"], 1), ([tmp_path, "--at", "1,1"], 1),
    ]  # fmt: skip
    for arguments, code in cases:
        capsys.readouterr()
        assert run("attention", *arguments, "--model", model, "--out", out) == code, arguments
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
        assert len(errors) == 1, arguments
        assert not out.parent.exists()
    assert run("attention", image, "--at", "1,1", "--model", tmp_path / "nowhere", "--out", out) == 1
    assert not out.parent.exists()
