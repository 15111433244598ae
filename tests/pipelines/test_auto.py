"""The preset `auto`: what it picks, by the images, their number, the machine and the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from imgtf.data.config import AugmentationConfig, DataConfig
from imgtf.data.probe import Headers, read_headers
from imgtf.data.source import NO_FINDINGS, open_source
from imgtf.errors import CheckpointError, ConfigError, ImgtfError
from imgtf.options import sides_of
from imgtf.pipelines import auto, auto_losses, least_memory, step_speed
from imgtf.pipelines.auto import CANDIDATES, FEW_STEPS, TRAINED, fit_prior, fit_tokenizer
from imgtf.pipelines.fitted import Fit
from imgtf.pipelines.initial import tokenizer_config
from imgtf.pipelines.regularisation import possible_crops
from imgtf.pipelines.settings import (
    AUTO,
    PRIOR_CLASSES,
    TOKENIZER_CLASSES,
    Settings,
    collect,
    load_presets,
    option_names,
    preset_values,
)
from imgtf.prior.config import PriorConfig
from imgtf.prior.recipe import CacheRecipe, PriorRecipe
from imgtf.tokenizer.codec import memory_format
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.recipe import TokenizerRecipe
from imgtf.training.config import TrainingConfig

TWO_CORES, GPU = 1.0, 300.0
"""Speed relative to two cores of a Xeon, roughly."""


def offline(backbone: str) -> Path:
    raise CheckpointError(f"LPIPS ({backbone}) cannot be downloaded")


@pytest.fixture(autouse=True)
def _calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights of LPIPS on this machine, no network, and memory for every network."""
    monkeypatch.setattr(auto_losses, "local_backbone", lambda names: None)
    monkeypatch.setattr(auto_losses, "backbone_file", offline)
    monkeypatch.setattr(least_memory, "free_memory", lambda device: 2**40)


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def write(folder: Path, width: int, height: int, count: int = 12, mode: str = "RGB") -> Path:
    folder.mkdir()
    for i in range(count):
        Image.new(mode, (width, height), i).save(folder / f"{i}.png")
    return folder


def headers_of(folder: Path, images: int | None = None) -> Headers:
    """The headers of a folder, as if it held that many images."""
    found = read_headers(open_source(DataConfig(data=str(folder)))[0])
    return (
        found
        if images is None
        else replace(found, source=replace(found.source, chosen=np.zeros(images, int), findings=NO_FINDINGS))
    )


def images_per_second(config: TokenizerConfig) -> float:
    """About the speed of two cores of a Xeon, from its measured figures."""
    pixels, cost = np.prod(config.size) / 64**2, (config.width / 32) ** 1.9 * config.blocks
    return float(67 / pixels / cost)


def pick(monkeypatch: pytest.MonkeyPatch, headers: Headers, machine: float = TWO_CORES, **given: Any) -> Fit:
    monkeypatch.setattr(auto, "tokenizer_speed", lambda config, *_: machine * images_per_second(config))
    settings = collect("tokenizer", TOKENIZER_CLASSES, {"data": "photos", **given}, default=AUTO)
    return fit_tokenizer(settings, headers, lambda one: tokenizer_config(one, headers), Accelerator(cpu=True))


def pick_prior(
    monkeypatch: pytest.MonkeyPatch, images: int, tokens: int, machine: float = TWO_CORES, crop_kind: str = "",
    **given: Any,
) -> Fit:  # fmt: skip
    def speed(config: PriorConfig, _: Accelerator) -> float:
        return machine * 400 * (128 / config.width) ** 1.4 * 4 / config.depth * 64 / tokens

    monkeypatch.setattr(auto, "prior_speed", speed)
    settings = collect("prior", PRIOR_CLASSES, {"data": "photos", **given}, default=AUTO)

    def config(one: Settings) -> PriorConfig:
        return one.part(PriorConfig, grid=(tokens // 8, 8), codebook_size=256)

    return fit_prior(settings, images, tokens, config, Accelerator(cpu=True), crop_kind)


def size(fit: Fit, headers: Headers) -> int:
    return min(sides_of(tokenizer_config(fit.settings, headers).image_size))


def test_photographs_of_128_px_are_trained_at_more_than_32_px(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    headers = headers_of(write(tmp_path / "d", 160, 128))
    for images in (100, 400, 10_000):
        many = headers_of(tmp_path / "d", images)
        fit = pick(monkeypatch, many)
        assert fit.settings.preset == "small"
        assert size(fit, headers) == 64
        assert fit.settings.part(TrainingConfig).optimizer == "muon"
        assert tokenizer_config(fit.settings, headers).stem == 2
        assert fit.minutes is not None
        assert fit.minutes <= 11
    slow = pick(monkeypatch, headers_of(tmp_path / "d", 400), 0.3 * TWO_CORES)
    assert size(slow, headers) == 64
    assert 11 < (slow.minutes or 0) < 31


def test_few_steps_get_the_smallest_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Given steps say how many images a run sees, however fast the machine is."""
    write(tmp_path / "d", 160, 128)
    few = pick(monkeypatch, headers_of(tmp_path / "d", 400), steps=2, batch_size=8)
    assert few.settings.preset == "tiny"
    assert few.steps == 2


@pytest.mark.parametrize(("side", "most"), [(20, 20), (32, 32), (48, 32), (64, 64), (128, 128), (500, 256)])
def test_images_are_not_enlarged_and_a_faster_machine_trains_at_larger_sizes(
    side: int, most: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    headers = headers_of(write(tmp_path / "d", side, side), 100_000)
    sizes = [
        size(pick(monkeypatch, headers, speed), headers) for speed in (0.001, TWO_CORES, 20.0, GPU, 100 * GPU)
    ]
    assert sizes == sorted(sizes)
    assert sizes[-1] == most
    assert sizes[0] <= 32


def test_more_time_gives_a_larger_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    headers = headers_of(write(tmp_path / "d", 300, 300), 100_000)
    costs = []
    for minutes in (1, 10, 60, 600, 60_000, 600_000):
        config = tokenizer_config(pick(monkeypatch, headers, minutes=minutes).settings, headers)
        costs.append(1 / images_per_second(config))
    assert costs == sorted(costs)
    assert costs[-1] > 50 * costs[0]


def test_few_images_get_a_small_network_and_a_batch_that_they_fill(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = headers_of(write(tmp_path / "d", 300, 300), 10)
    fit = pick(monkeypatch, few, GPU)
    assert fit.settings.part(TrainingConfig).batch_size == 8
    assert fit.settings.part(TokenizerConfig).width == 32
    many = pick(monkeypatch, headers_of(tmp_path / "d", 100_000), 100 * GPU)
    assert many.settings.part(TokenizerConfig).width > 32


def test_a_short_run_has_fewer_images_per_step_and_more_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    headers = headers_of(write(tmp_path / "d", 64, 64), 10_000)

    def chosen(**given: Any) -> tuple[int, int]:
        fit = pick(monkeypatch, headers, image_size=64, **given)
        assert fit.settings.part(TokenizerConfig).stem == 2
        return fit.settings.part(TrainingConfig).batch_size, fit.steps

    few, more = chosen(minutes=5), chosen(minutes=60)
    assert (few[0], more[0]) == (16, 32)
    assert few[1] == pytest.approx(more[1] / 12 * 2, rel=0.01)
    assert chosen(minutes=5, batch_size=32)[0] == 32
    assert chosen(steps=800)[0] == 32
    prior = pick_prior(monkeypatch, 10_000, 64, minutes=1)
    assert prior.steps < FEW_STEPS
    assert prior.settings.part(TrainingConfig).batch_size == 32


def test_options_win_and_a_given_network_stays_that_of_tiny(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    headers = headers_of(write(tmp_path / "d", 200, 200), 5000)
    fit = pick(monkeypatch, headers, image_size=96, steps=77, lr=0.5, batch_size=3)
    assert (fit.settings.preset, size(fit, headers)) == ("small", 96)
    assert fit.settings.part(TrainingConfig).steps == fit.steps == 77
    assert fit.settings.part(TrainingConfig).lr == 0.5
    assert fit.settings.part(TrainingConfig).batch_size == 3
    fit = pick(monkeypatch, headers, width=8)
    assert fit.settings.values == preset_values("tokenizer", "tiny") | {"data": "photos", "width": 8}
    odd = pick(monkeypatch, headers, image_size=68)  # no multiple of 8
    assert odd.settings.preset == "tiny"


def test_images_below_the_smallest_preset_get_its_wide_form_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fit = pick(monkeypatch, headers_of(write(tmp_path / "d", 28, 28), 20_000), 4 * TWO_CORES)
    assert (fit.settings.preset, fit.settings.values["width"]) == ("tiny", 32)


@pytest.mark.parametrize("codebook", [{"codebook_dim": 16}, {"quantizer": "fsq"}, {"codebook_decay": 0.9}])
def test_options_of_the_codebook_leave_the_network_to_auto(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, codebook: dict[str, Any]
) -> None:
    headers = headers_of(write(tmp_path / "d", 200, 200), 5000)
    expected, fit = pick(monkeypatch, headers), pick(monkeypatch, headers, **codebook)
    assert fit.settings.values == expected.settings.values | codebook
    assert expected.settings.values["optimizer"] == "muon"


def test_a_size_that_is_not_square_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    headers = headers_of(write(tmp_path / "d", 300, 200), 5000)
    fit = pick(monkeypatch, headers, image_size=(64, 96))
    assert fit.settings.preset == "small"
    assert tokenizer_config(fit.settings, headers).size == (64, 96)


def test_schedules_follow_the_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    headers = headers_of(write(tmp_path / "d", 300, 300), 100_000)
    for minutes, machine in ((1, TWO_CORES), (10, TWO_CORES), (10, GPU)):
        fit = pick(monkeypatch, headers, machine, **({} if minutes == 10 else {"steps": 60}))
        training, recipe = fit.settings.part(TrainingConfig), fit.settings.part(TokenizerRecipe)
        assert training.warmup < training.steps / 4
        assert training.eval_every < training.steps
        assert not recipe.discriminator_weight or recipe.discriminator_start < training.steps / 2
        assert recipe.lpips_weight == 0
        assert recipe.l1_weight + recipe.l2_weight >= 1


def test_weights_of_lpips_that_are_there_are_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any
) -> None:
    headers = headers_of(write(tmp_path / "d", 300, 300), 1000)
    monkeypatch.setattr(auto_losses, "local_backbone", lambda names: names[0])
    recipe = pick(monkeypatch, headers).settings.part(TokenizerRecipe)
    assert (recipe.lpips_weight, recipe.lpips_backbone) == (0.5, "squeeze")


@pytest.mark.parametrize("there", [True, False])
def test_the_steps_of_a_tokenizer_count_its_losses(
    there: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    headers = headers_of(write(tmp_path / "d", 64, 64), 1000)
    monkeypatch.setattr(auto_losses, "local_backbone", lambda names: names[0] if there else None)

    def speed(
        config: TokenizerConfig, accelerator: Accelerator, recipe: TokenizerRecipe | None = None
    ) -> float:
        return 200 if recipe is None or not recipe.lpips_weight else 100

    monkeypatch.setattr(auto, "tokenizer_speed", speed)
    settings = collect("tokenizer", TOKENIZER_CLASSES, {"data": "photos", "minutes": 10}, default=AUTO)
    fit = fit_tokenizer(settings, headers, lambda one: tokenizer_config(one, headers), Accelerator(cpu=True))
    seen = fit.steps * fit.settings.part(TrainingConfig).batch_size
    assert seen == pytest.approx(TRAINED * 600 * (100 if there else 200), rel=0.01)


@pytest.mark.parametrize(("images", "steps"), [(400, 5000), (100, 2000)])
def test_a_discriminator_needs_many_steps_also_with_the_time_that_the_losses_take(
    images: float, steps: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`images` per second with VGG, of 1,000 without it."""
    headers = headers_of(write(tmp_path / "d", 64, 64), 100_000)
    monkeypatch.setattr(auto_losses, "local_backbone", lambda names: names[0])

    def speed(
        config: TokenizerConfig, accelerator: Accelerator, recipe: TokenizerRecipe | None = None
    ) -> float:
        return images if recipe is not None and recipe.lpips_backbone == "vgg" else 1000

    monkeypatch.setattr(auto, "tokenizer_speed", speed)
    settings = collect("tokenizer", TOKENIZER_CLASSES, {"data": "photos", "minutes": 25}, default=AUTO)
    fit = fit_tokenizer(settings, headers, lambda one: tokenizer_config(one, headers), Accelerator(cpu=True))
    recipe, long = fit.settings.part(TokenizerRecipe), images == 400
    assert (recipe.lpips_backbone, recipe.discriminator_weight > 0) == (
        ("vgg", True) if long else ("squeeze", False)
    )
    assert fit.steps > steps


@pytest.mark.parametrize("online", [True, False])
def test_missing_weights_of_lpips_are_downloaded_and_the_run_goes_on_without_a_network(
    online: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any
) -> None:
    headers = headers_of(write(tmp_path / "d", 64, 64), 1000)
    if online:
        monkeypatch.setattr(auto_losses, "backbone_file", lambda name: tmp_path / name)
    with caplog.at_level("INFO", "imgtf"):
        recipe = pick(monkeypatch, headers).settings.part(TokenizerRecipe)
    assert recipe.lpips_weight == (0.5 if online else 0)
    assert recipe.lpips_backbone == ("squeeze" if online else "vgg")
    assert "downloading 5 MB" in caplog.text  # said before
    assert ("without LPIPS" in caplog.text) is not online


def test_a_given_weight_of_lpips_leaves_its_network_to_auto(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    headers = headers_of(write(tmp_path / "d", 64, 64), 1000)
    with pytest.raises(ImgtfError, match="cannot be downloaded"):  # which is asked for, and cannot be had
        pick(monkeypatch, headers, lpips_weight=2.0)
    monkeypatch.setattr(auto_losses, "local_backbone", lambda names: names[0])
    recipe = pick(monkeypatch, headers, lpips_weight=2.0).settings.part(TokenizerRecipe)
    assert (recipe.lpips_weight, recipe.lpips_backbone) == (2.0, "squeeze")


def test_the_digits_are_the_preset_tiny_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = read_headers(open_source(DataConfig())[0])
    fit = pick(monkeypatch, headers, GPU, data="digits")
    own = {key: value for key, value in fit.settings.values.items() if key != "data"}
    assert own == preset_values("tokenizer", "tiny")
    fit = pick_prior(monkeypatch, 1500, 64, GPU, data="digits")
    own = {key: value for key, value in fit.settings.values.items() if key != "data"}
    assert own == preset_values("prior", "tiny")


def test_the_prior_grows_with_images_and_time_but_not_without_images(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = [
        pick_prior(monkeypatch, images, 64, machine).settings.values["width"]
        for images, machine in ((400, TWO_CORES), (400, GPU), (12_000, TWO_CORES), (1_000_000, GPU))
    ]
    assert widths[:3] == [128, 128, 192]
    assert widths[3] >= 512


def test_a_prior_that_sees_its_images_a_few_times_has_neither_dropout_nor_code_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rates(images: int, **given: Any) -> list[float]:
        settings = pick_prior(monkeypatch, images, 64, **given).settings
        config = settings.part(PriorConfig, grid=(8, 8), codebook_size=256)
        return [config.dropout, config.token_dropout, settings.part(PriorRecipe).code_noise]

    assert rates(1_000_000) == [0, 0, 0]
    assert rates(400) == rates(400, crop_kind="shift") == [0.1, 0.1, 0.1]
    steps = 20_000 * 14 // 32
    assert rates(20_000, steps=steps) == [0.1, 0.1, 0.1]
    assert rates(20_000, steps=steps, crop_kind="shift") == [0, 0, 0]
    assert rates(1_000_000, dropout=0.2) == [0.2, 0, 0]


def test_a_prior_that_sees_its_images_many_times_gets_crops_of_each(
    monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def crops(images: int, **given: Any) -> tuple[str, float, int]:
        settings = pick_prior(monkeypatch, images, 64, **{"crop_kind": "random"} | given).settings
        augmentation = settings.part(AugmentationConfig)
        return augmentation.crop, augmentation.crop_scale, settings.part(CacheRecipe).crops_per_image

    def steps(passes: int) -> int:
        return 20_000 * passes // 32

    with caplog.at_level("INFO", logger="imgtf"):
        assert crops(400) == ("random", 0.8, 8)
        assert crops(20_000, steps=steps(8)) == ("shift", 1.0, 2)
    assert "8 random crops of each image" in caplog.text
    assert "2 shifted crops of each image" in caplog.text
    assert crops(20_000, steps=steps(31)) == ("random", 0.8, 8)
    assert crops(20_000, steps=steps(29)) == ("centre", 1.0, 1)  # eight shifted crops are too few
    assert crops(20_000, steps=steps(12)) == ("shift", 1.0, 6)  # a wider prior
    assert crops(20_000, steps=steps(4)) == ("centre", 1.0, 1)
    assert crops(12_000, steps=12_000 * 8 // 32) == ("shift", 1.0, 3)
    assert crops(400, crop_kind="shift") == ("centre", 1.0, 1)
    assert crops(400, crop_kind="") == ("centre", 1.0, 1)
    assert crops(400, crop="centre") == ("centre", 1.0, 1)
    assert crops(400, crop="random") == ("random", 1.0, 1)
    assert crops(400, crop="random", crop_scale=0.5, crops_per_image=3) == ("random", 0.5, 3)


def test_random_crops_are_for_images_larger_than_the_model(tmp_path: Path) -> None:
    headers = headers_of(write(tmp_path / "d", 100, 80))
    assert possible_crops(headers, 64) == "random"
    assert possible_crops(headers, 72) == "shift"
    assert possible_crops(headers, (64, 88)) == "shift"
    stream = replace(headers, source=replace(headers.source, stream=object()))
    assert possible_crops(stream, 64) == ""


def test_the_line_says_what_and_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any) -> None:
    headers = headers_of(write(tmp_path / "d", 160, 160), 9469)
    with caplog.at_level("INFO", logger="imgtf"):
        fit = pick(monkeypatch, headers)
        pick_prior(monkeypatch, 9469, 64, minutes=5)
    first, second = (line for line in caplog.messages if line.startswith("auto: preset"))
    assert (
        f"auto: preset small with width 32 at 64 px, {fit.steps:,} steps of 32 images in about 10 minutes"
        in first
    )
    assert "9,469 images of typically 160 px" in first
    assert "CPU core" in first
    assert "--preset or --image-size" in first
    assert "in 5 minutes: 9,469 images of 64 tokens" in second


def test_a_named_preset_is_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    headers = headers_of(write(tmp_path / "d", 160, 160))
    fit = pick(monkeypatch, headers, preset="small")
    own = {key: value for key, value in fit.settings.values.items() if key != "data"}
    assert own == preset_values("tokenizer", "small")
    timed = pick(monkeypatch, headers, preset="small", minutes=5).settings.part(TrainingConfig)
    assert timed.minutes == 5
    assert timed.warmup <= fit.settings.part(TrainingConfig).warmup


def test_candidates_are_presets_from_small_to_large() -> None:
    for stage, candidates in CANDIDATES.items():
        for one in candidates:
            classes = TOKENIZER_CLASSES if stage == "tokenizer" else PRIOR_CLASSES
            assert set(one.changes) <= {name for part in classes for name in option_names(part)}
            values = preset_values(stage, one.preset) | dict(one.changes)
            if stage == "tokenizer":
                TokenizerConfig(**{k: v for k, v in values.items() if k in option_names(TokenizerConfig)})
        assert candidates[0].least == 0


@pytest.mark.parametrize("gigabytes", [3, 6, 12])
def test_a_network_that_does_not_fit_into_the_memory_is_left_out_and_named(
    gigabytes: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any
) -> None:
    headers = headers_of(write(tmp_path / "d", 512, 512), 100_000)
    monkeypatch.setattr(least_memory, "free_memory", lambda device: int(gigabytes * 2**30))
    with caplog.at_level("INFO", "imgtf"):
        fit = pick(monkeypatch, headers, 100 * GPU)
    config, training = tokenizer_config(fit.settings, headers), fit.settings.part(TrainingConfig)
    least_memory.check_memory(config, training, fit.settings.find_batch)
    assert config.image_size == (256 if gigabytes == 12 else 128)
    assert ("auto: not the larger preset base: a step takes at least" in caplog.text) == (gigabytes != 12)
    monkeypatch.setattr(least_memory, "free_memory", lambda device: 2**20)
    with pytest.raises(ConfigError, match="of memory are free"):  # for the smallest one
        pick(monkeypatch, headers)


def test_no_preset_as_it_is_is_measured_where_a_smaller_network_was_too_slow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    headers = headers_of(write(tmp_path / "d", 512, 512), 100_000)
    measured = list[TokenizerConfig]()

    def speed(config: TokenizerConfig, *_: Any) -> float:
        measured.append(config)
        return images_per_second(config)

    monkeypatch.setattr(auto, "tokenizer_speed", speed)
    settings = collect("tokenizer", TOKENIZER_CLASSES, {"data": "photos"}, default=AUTO)
    fit_tokenizer(settings, headers, lambda one: tokenizer_config(one, headers), Accelerator(cpu=True))
    assert max(min(config.size) for config in measured) == 128
    assert all(config.stem == 2 for config in measured[1:] if min(config.size) == 128)


@pytest.mark.parametrize("minutes", [None, 5])
def test_a_speed_that_cannot_be_measured_leaves_the_steps_of_the_preset(
    minutes: float | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    headers = headers_of(write(tmp_path / "d", 160, 160))
    given = {"minutes": minutes, "image_size": 64} if minutes else {}
    for preset in ({}, {"preset": "small"}):
        fit = pick(monkeypatch, headers, 0.0, **given, **preset)
        assert fit.steps == load_presets("tokenizer")[fit.settings.preset]["steps"]
        assert fit.settings.part(TrainingConfig).minutes == minutes


def test_captions_are_not_counted_as_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write(tmp_path / "d", 64, 64, 20)
    headers = headers_of(folder)
    rows = "".join(f"{i}.png,caption {k} of {i}\n" for i in range(20) for k in range(5))
    (folder / "metadata.csv").write_text(f"file_name,text\n{rows}")
    captions = headers_of(folder)
    assert len(captions.source) == 5 * len(headers.source)
    assert captions.training_images() == headers.training_images() == 18
    one, other = (pick(monkeypatch, own, GPU) for own in (headers, captions))
    assert one.settings.values == other.settings.values


def test_broken_images_are_not_counted_for_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write(tmp_path / "d", 64, 64, 36)
    train = open_source(DataConfig(data=str(folder)))[0]
    assert len(train) == 32
    Path(train.where(0)).write_bytes(b"no image")
    fit = pick(monkeypatch, headers_of(folder), GPU)
    assert fit.settings.part(TrainingConfig).batch_size == 16


def test_a_slow_first_step_does_not_count(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step in a process may wait seconds for libraries from a cold disk."""
    monkeypatch.setattr(step_speed, "MOST_SECONDS", 0.1)
    pauses = iter((0.5, 0.0))
    weight = torch.ones((), requires_grad=True)

    def loss() -> torch.Tensor:
        time.sleep(next(pauses))
        return weight * 2

    assert step_speed._seconds(loss, accelerator) < 0.4


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("could not create a primitive")]
)
@pytest.mark.parametrize("most", [0, 1, 2])
def test_a_network_is_measured_with_as_many_images_as_fit(
    accelerator: Accelerator, most: int, error: Exception
) -> None:
    weight = torch.ones((), requires_grad=True)

    def prepare(count: int) -> Callable[[], torch.Tensor]:
        def loss() -> torch.Tensor:
            if count > most:
                raise error
            return weight * 2

        return loss

    assert (step_speed._speed(prepare, accelerator) > 0) == (most > 0)


@pytest.mark.parametrize(("pause", "counts"), [(0.0, [4, 16]), (0.3, [4])])
def test_a_quick_network_is_measured_with_more_images(
    accelerator: Accelerator, pause: float, counts: list[int]
) -> None:
    weight, seen = torch.ones((), requires_grad=True), list[int]()

    def prepare(count: int) -> Callable[[], torch.Tensor]:
        def loss() -> torch.Tensor:
            time.sleep(pause)
            return weight * 2

        seen.append(count)
        return loss

    assert step_speed._speed(prepare, accelerator) > 0
    assert seen == counts


def test_the_losses_of_a_recipe_take_their_time(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowPerceptual(torch.nn.Module):
        def __init__(self, backbone: str, file: Path | None) -> None:
            super().__init__()
            assert (backbone, file) == ("squeeze", Path("x.pth"))

        def forward(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
            time.sleep(0.3)
            return (images - others).abs().mean((1, 2, 3))

    monkeypatch.setattr(step_speed, "Perceptual", SlowPerceptual)
    config = TokenizerConfig(
        image_size=16, width=8, multipliers=(1, 2), latent_width=8, norm_groups=4, codebook_size=16
    )
    recipe = TokenizerRecipe(lpips_backbone="squeeze", lpips_file="x.pth")
    quick = step_speed.tokenizer_speed(config, accelerator, recipe)
    slow = step_speed.tokenizer_speed(config, accelerator, replace(recipe, lpips_weight=1.0))
    assert slow < 4 / 0.3 < quick


def test_the_speed_is_measured_with_the_memory_format_of_training(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = list[torch.memory_format]()
    original = step_speed.Tokenizer.forward

    def forward(self: Any, images: torch.Tensor) -> Any:
        weight = next(
            module.weight for module in self.encoder.modules() if isinstance(module, torch.nn.Conv2d)
        )
        channels_last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        formats.append(torch.channels_last if channels_last else torch.contiguous_format)
        return original(self, images)

    monkeypatch.setattr(step_speed.Tokenizer, "forward", forward)
    config = TokenizerConfig(
        image_size=16, width=32, multipliers=(2, 4), stem=2, latent_width=8, norm_groups=4, codebook_size=16
    )
    step_speed.tokenizer_speed(config, accelerator)
    assert set(formats) == {memory_format(config.first_level_width)} == {torch.channels_last}


def test_the_speed_is_measured_without_a_trace_in_the_random_numbers(accelerator: Accelerator) -> None:
    torch.manual_seed(3)
    config = TokenizerConfig(
        image_size=16, width=8, multipliers=(1, 2), latent_width=8, norm_groups=4, codebook_size=16
    )
    assert step_speed.tokenizer_speed(config, accelerator) > 0
    prior = PriorConfig(grid=(4, 4), codebook_size=16, width=16, depth=1, heads=2)
    speeds = [
        step_speed.prior_speed(replace(prior, objective=objective), accelerator)
        for objective in ("raster", "random", "masked")
    ]
    assert min(speeds) > 0
    after = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(3))
