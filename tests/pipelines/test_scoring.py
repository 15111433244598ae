"""Bits of images, for priors of every objective, and maps of where an image is unlikely."""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgtf import Pipeline, Prior, Tokenizer
from imgtf.data.decode import BadImage
from imgtf.errors import ConfigError, DataError
from imgtf.pipelines.heatmap import overlay, smooth
from imgtf.pipelines.scoring import Score, score
from imgtf.pipelines.surprise import masked_passes, shifted_orders, surprise
from imgtf.prior.conditions.condition import Condition
from imgtf.prior.config import PriorConfig
from imgtf.tokenizer.config import TokenizerConfig

from .conftest import run


def tiny(objective: str, **tokenizer: Any) -> Pipeline:
    """Random models; the prior's head too, so that codes differ in their probability."""
    torch.manual_seed(0)
    network = {
        "width": 8,
        "multipliers": (1, 2),
        "latent_width": 8,
        "norm_groups": 4,
        "middle_attention": False,
    }
    config = TokenizerConfig(**{"image_size": 8, "codebook_size": 8, "codebook_dim": 4} | network | tokenizer)
    prior = Prior(
        PriorConfig(grid=config.grid, codebook_size=8, width=16, depth=2, heads=2, objective=objective)
    )
    with torch.no_grad():
        prior.head.weight.normal_(std=0.3)
    return Pipeline(Tokenizer(config), prior)


def noise(seed: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def one(pipeline: Pipeline, image: Image.Image, **given: Any) -> Score:
    (only,) = score(pipeline, image, **given)
    return only


def test_a_raster_prior_scores_the_exact_likelihood() -> None:
    pipeline = tiny("raster")
    codes = pipeline.tokenizer.encode_images(noise(0))
    with torch.no_grad():
        exact = -pipeline.prior.log_prob(codes).view(4, 4).double() / math.log(2)
    scored = one(pipeline, noise(0))
    assert scored.bits == pytest.approx(exact.numpy(), abs=1e-5)
    assert scored.bits_per_token == pytest.approx(float(exact.mean()), abs=1e-5)
    assert scored.bits_per_pixel == pytest.approx(float(exact.sum()) / 64, abs=1e-5)


def test_a_random_prior_scores_the_mean_of_exact_orders() -> None:
    pipeline = tiny("random")
    codes = pipeline.tokenizer.encode_images(noise(0)).flatten(1)
    orders = shifted_orders(16, 4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = [-pipeline.prior.log_prob(codes, order=order).sum() / math.log(2) for order in orders]
    scored = one(pipeline, noise(0), orders=4)
    assert scored.bits.sum() == pytest.approx(float(torch.stack(exact).mean()), rel=1e-5)


def test_shifted_orders_place_each_position_evenly() -> None:
    orders = shifted_orders(16, 4, torch.Generator().manual_seed(3))
    assert (orders.sort(1).values == torch.arange(16)).all()
    ranks = orders.argsort(1).sort(0).values  # (4, T)
    assert (ranks.diff(dim=0) == 4).all()


def test_a_masked_prior_scores_about_the_mean_of_exact_orders() -> None:
    pipeline = tiny("masked")
    codes = pipeline.tokenizer.encode_images(noise(0)).flatten(1)
    orders = torch.stack([torch.randperm(16) for _ in range(40)])
    with torch.no_grad():
        log_p = pipeline.prior.log_prob(codes.expand(40, -1), order=orders)
    exact = -float(log_p.mean()) / math.log(2)
    assert one(pipeline, noise(0), orders=8).bits_per_token == pytest.approx(exact, rel=0.02)


def test_passes_of_a_masked_prior_count_every_position_once_in_total() -> None:
    total = torch.zeros(13)
    for weight, mask in masked_passes(13, 8, torch.Generator()):
        total += weight * mask
    assert total.tolist() == pytest.approx([1.0] * 13)
    passes = list(masked_passes(13, 64, torch.Generator()))  # more parts than positions
    assert all(bool(mask.any()) or weight >= 0 for weight, mask in passes)


def test_expected_bits_are_the_entropy_and_their_variance_is_that_of_the_bits() -> None:
    pipeline = tiny("raster")
    codes = torch.arange(8).repeat(2)[None]
    found = surprise(pipeline.prior, codes, Condition(), 1)
    with torch.no_grad():
        first = pipeline.prior(codes)[0, 0].double().softmax(-1)  # all codes that the first position can have
    bits = -first.log2()
    assert float(found.expected[0, 0]) == pytest.approx(float((first * bits).sum()), abs=1e-5)
    variance = float((first * bits.square()).sum() - (first * bits).sum() ** 2)
    assert float(found.variance[0, 0]) == pytest.approx(variance, abs=1e-5)


def test_several_codes_of_a_place_count_together() -> None:
    pipeline = tiny("raster", quantizer="residual_vq", residual_codes=2)
    scored = one(pipeline, noise(0))
    assert scored.bits.shape == scored.unusual.shape == (4, 4)
    assert scored.tokens == 32
    assert scored.bits_per_token == pytest.approx(float(scored.bits.sum()) / 32)


def test_the_score_of_an_image_does_not_depend_on_the_others() -> None:
    pipeline = tiny("random")
    together = list(score(pipeline, [noise(i) for i in range(70)], orders=2))
    alone = one(pipeline, noise(66), orders=2)
    assert together[66].bits == pytest.approx(alone.bits, abs=1e-4)
    assert [s.name for s in together[:2]] == ["image 0", "image 1"]


def test_arrays_and_tensors_are_scored_like_images() -> None:
    pipeline, image = tiny("raster"), noise(0)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    bits = [s.bits_per_token for s in score(pipeline, [image, array, tensor])]
    assert bits == pytest.approx([bits[0]] * 3)


def test_labels_take_turns_and_no_label_is_unconditional(model: Path) -> None:
    pipeline = Pipeline.from_pretrained(model)
    pictures = [noise(0, (16, 16))] * 3
    with torch.no_grad():
        codes = pipeline.tokenizer.encode_images(pictures).flatten(1)
        labelled = pipeline.prior.log_prob(codes, label=torch.tensor([2, 0, 2])).mean(1) / -math.log(2)
        free = pipeline.prior.log_prob(codes).mean(1) / -math.log(2)
    found = [s.bits_per_token for s in score(pipeline, pictures, label=["red", "blue"])]
    assert found == pytest.approx(labelled.tolist(), abs=1e-5)
    assert [s.bits_per_token for s in score(pipeline, pictures)] == pytest.approx(free.tolist(), abs=1e-5)
    with pytest.raises(ConfigError, match="not on text"):
        score(pipeline, pictures, text="a caption")


def test_a_bad_image_is_raised_or_left_out(tmp_path: Path) -> None:
    pipeline, bad = tiny("raster"), tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        list(score(pipeline, [noise(0), bad]))
    left_out: list[BadImage] = []
    done: list[int] = []
    scores = list(score(pipeline, [noise(0), bad], on_bad_image=left_out.append, progress=done.append))
    assert [s.name for s in scores] == ["image 0"]
    assert [error.where for error in left_out] == [str(bad)]
    assert sum(done) == 2


def test_a_changed_size_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = tiny("raster")
    with caplog.at_level(logging.INFO, "imgtf"):
        list(score(pipeline, [noise(0), noise(1, (9, 12)), noise(2, (20, 20))]))
    assert [r.message for r in caplog.records] == [
        "2 of 3 images were cropped and resized to the model's 8 pixels"
    ]


@pytest.mark.parametrize("wrong", [{"orders": 0}, {"orders": 2000}, {"label": 0}])
def test_wrong_arguments_are_refused_before_any_work(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        score(tiny("random"), noise(0), **wrong)


def test_a_map_is_hot_where_the_bits_are() -> None:
    bits = np.full((8, 8), 3.0)
    bits[5:7, 1:3] = 12.0
    scored = Score(
        "x", Image.new("RGB", (32, 32), "grey"), bits, np.full((8, 8), 3.0), np.ones((8, 8)), 64, 6.0
    )
    for kind in ("unusual", "bits"):
        heat = np.asarray(scored.heatmap(kind), dtype=float)
        assert heat.shape == (256, 256, 3)
        assert np.ptp(heat[6 * 32, 2 * 32]) > 60  # in colour
        assert np.ptp(heat[:32], axis=2).max() < 5  # likely: the image in grey
    assert scored.unusual.max() == pytest.approx(9 / math.sqrt(1.5))


def test_smoothing_keeps_constants_and_zero_keeps_all() -> None:
    values = np.random.default_rng(0).normal(size=(5, 7))
    assert smooth(np.ones((5, 7)), 1.5) == pytest.approx(np.ones((5, 7)))
    assert smooth(values, 0) is values
    assert np.abs(smooth(values, 2)).max() < np.abs(values).max()


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "RGBA"])
def test_an_overlay_of_any_mode_is_rgb_of_the_same_shape(mode: str) -> None:
    image = Image.new(mode, (20, 12))
    assert overlay(image, np.zeros((3, 5)), 0, 1).size == (260, 156)
    assert overlay(image, np.zeros((3, 5)), 0, 1).mode == "RGB"


def test_the_command_ranks_a_folder_and_names_bad_files(
    model: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    out = tmp_path / "scores"
    assert run("score", images, bad, "--model", model, "--out", out, "--json") == 0
    output = capsys.readouterr()
    assert f"left out: {bad}: not an image" in output.err
    assert "30 of 30 images were cropped and resized to the model's 16 pixels" in output.err
    summary = json.loads(output.out)
    assert (summary["images"], summary["unreadable"]) == (30, 1)
    rows = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    bits = [float(row["bits_per_token"]) for row in rows]
    assert bits == sorted(bits, reverse=True)
    assert [row["rank"] for row in rows] == [str(i) for i in range(1, 31)]
    assert {row["file"] for row in rows} == {str(p) for p in images.rglob("*.png")}
    assert len({row["map"] for row in rows}) == 30
    for row in rows:
        with Image.open(out / row["map"]) as heat:
            assert heat.size == (256, 256)
    with Image.open(out / "most-unlikely.png") as sheet:
        assert sheet.width > 6 * 256


def test_the_command_takes_one_file_and_the_next_free_folder(model: Path, images: Path, capsys: Any) -> None:
    command = ["score", images / "red" / "0.png", "--model", model, "--label", "red", "--map", "bits"]
    assert run(*command) == run(*command) == 0
    assert sorted(p.name for p in (model / "scores").iterdir()) == ["001", "002"]
    assert "most_unlikely" in capsys.readouterr().out


def test_scores_of_a_model_in_the_cache_of_the_hub_go_into_a_folder_of_its_name(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--user--name" / "snapshots" / "abc"
    shutil.copytree(model, snapshot, ignore=shutil.ignore_patterns("scores", "codes", "training"))
    before = sorted(snapshot.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert run("score", images / "red" / "0.png", "--model", snapshot) == 0
    assert (tmp_path / "name" / "scores" / "001" / "scores.csv").is_file()
    assert sorted(snapshot.rglob("*")) == before


def test_bad_input_of_the_command_is_one_line_and_writes_nothing(
    model: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    bad, empty, full = tmp_path / "bad.png", tmp_path / "empty", tmp_path / "full"
    bad.write_bytes(b"no image")
    for folder in (empty, full):
        folder.mkdir()
    (full / "notes.txt").touch()
    image, out = images / "red" / "0.png", tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))
    for code, arguments, message in (
        (1, [bad], "not an image"),
        (1, [bad, bad.parent / "bad.png"], "not an image"),
        (1, [empty], "no image files in this folder"),
        (1, [image, "--label", "pink"], "no label 'pink'"),
        (1, [image, "--text", "red"], "not on text"),
        (1, [image, "--background", "nocolour"], "not a colour"),
        (1, [tmp_path / "missing.png"], "missing.png: no such file"),
        (2, [image, "--map", "other"], "'other' is not one of"),
        (2, [image, "--orders", "0"], "--orders"),
        (2, [], "Missing argument"),
    ):
        assert run("score", *arguments, "--model", model, "--out", out) == code, arguments
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
        assert len(lines) == 1
        assert message in lines[0]
    assert run("score", image, "--model", model, "--out", full) == 1
    assert "is not empty" in capsys.readouterr().err
    assert run("score", image, "--model", tmp_path / "nowhere", "--out", out) == 1
    assert sorted(tmp_path.rglob("*")) == before
