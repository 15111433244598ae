"""Judging samples: streamed, by the conditions of real images, in several processes; every bad input in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from imgtf import Pipeline
from imgtf.data.config import DataConfig
from imgtf.data.source import open_source
from imgtf.errors import ConfigError, DataError
from imgtf.evaluation.features import FeatureNetwork, custom
from imgtf.pipelines.evaluate_samples import evaluate, evaluate_folder
from imgtf.pipelines.judge import Judge, JudgeOptions
from imgtf.pipelines.real_conditions import RealConditions
from imgtf.pipelines.sample_sets import FolderSamples, GeneratedSamples

from ..tokenizer.conftest import backbone_weights
from .conftest import run

__all__ = ["backbone_weights"]


@pytest.fixture
def network() -> FeatureNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return custom("random filters", layers.requires_grad_(False))


@pytest.fixture
def options(network: FeatureNetwork, tmp_path: Path) -> JudgeOptions:
    return JudgeOptions(network, cache=tmp_path / "cache")


@pytest.fixture(scope="module")
def pipeline(model: Path) -> Pipeline:
    return Pipeline.from_pretrained(model, "cpu")


@pytest.fixture(scope="module")
def data(images: Path) -> DataConfig:
    return DataConfig(data=str(images), held_out=0.3)


@pytest.fixture
def torch_home(tmp_path: Path, backbone_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache with a SqueezeNet of random weights, and a cache folder of our own."""
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(backbone_weights, folder)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_every_distance_stands_beside_what_it_takes_to_compare_it(
    pipeline: Pipeline, data: DataConfig, options: JudgeOptions, tmp_path: Path
) -> None:
    seen: Counter[str] = Counter()
    found = evaluate(
        pipeline, data, n=20, options=options, batch_size=6,
        progress=lambda what, done, total: seen.update({what: done}),
    )  # fmt: skip
    figures = found.report["features"]["random filters"]
    assert {"frechet_distance", "kernel_distance", "precision", "recall", "floor", "network"} <= set(figures)
    assert not {"fid", "kid"} & set(figures)
    assert len(figures["network"]["weights_sha256"]) == 64
    assert figures["network"]["dimension"] == 24
    assert figures["floor"]["images"] == [4, 5]
    reference = found.report["reference"]
    assert (reference["split"], reference["images"], reference["size"]) == ("train[held-out]", 9, [16, 16])
    assert found.report["samples"]["n"] == 20
    assert found.report["memorisation"]["training_images"] == 21
    assert seen["samples"] == pytest.approx(20)
    assert seen["nearest training images"] == 21
    found.write(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"report.json", "report.md", "worst-pairs.png"}
    text = (tmp_path / "out" / "report.md").read_text()
    for piece in ("train[held-out]", "20 samples", "16x16", figures["network"]["weights_sha256"], "floor"):
        assert piece in text
    assert json.loads((tmp_path / "out" / "report.json").read_text())["features"] == found.report["features"]


def test_results_do_not_depend_on_batches_and_processes(
    pipeline: Pipeline, data: DataConfig, options: JudgeOptions
) -> None:
    judge = Judge(data, (16, 16), 3, torch.device("cpu"), options)
    conditions = RealConditions(pipeline, judge.reference.source)

    def statistics(batch_size: int) -> Any:
        samples = GeneratedSamples(pipeline, conditions, 14, batch_size=batch_size)
        return judge.measure(samples)["random filters"]

    one, other = statistics(14), statistics(3)
    torch.testing.assert_close(one.moments.mean, other.moments.mean, rtol=1e-5, atol=1e-6)
    samples = GeneratedSamples(pipeline, conditions, 14, batch_size=3)
    shares = [dataclasses.replace(judge.share, rank=rank, world=2) for rank in (0, 1)]
    parts = [[i for batch in samples.batches(share) for i in batch.indices] for share in shares]
    assert sorted(parts[0] + parts[1]) == list(range(14))
    assert len(parts[0]) == 8


def test_sample_i_is_the_same_picture_when_it_is_sampled_again(pipeline: Pipeline, data: DataConfig) -> None:
    conditions = RealConditions(pipeline, open_source(data)[1])
    samples = GeneratedSamples(pipeline, conditions, 10, first=5, batch_size=4)
    batches = list(samples.batches())
    assert [i for batch in batches for i in batch.indices] == list(range(5, 15))
    pixels = torch.cat([batch.pixels for batch in batches])
    again = torch.from_numpy(__import__("numpy").array(samples.image(12))).permute(2, 0, 1) / 127.5 - 1
    assert (pixels[7] - again).abs().max() < 0.02
    labels = [label for batch in batches for label in batch.labels]
    assert labels == [conditions.of(i)["label"] for i in range(5, 15)]


def test_labels_have_the_proportions_of_the_reference(
    pipeline: Pipeline, images: Path, tmp_path: Path
) -> None:
    for name, count in (("red", 12), ("green", 6), ("blue", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            shutil.copy(images / name / f"{i % 10}.png", tmp_path / name / f"{i}.png")
            Image.new("RGB", (20, 20), (i, 3 * i, 7)).save(tmp_path / name / f"{i}.png")
    source = open_source(DataConfig(data=str(tmp_path), held_out=0))[0]
    conditions = RealConditions(pipeline, source)
    counts = Counter(conditions.of(i)["label"] for i in range(1000))
    assert counts == pytest.approx({"red": 600, "green": 300, "blue": 100}, abs=5)


def test_a_folder_of_copies_and_one_of_noise(
    data: DataConfig, options: JudgeOptions, images: Path, tmp_path: Path
) -> None:
    random = torch.Generator().manual_seed(0)
    for i in range(12):
        pixels = (torch.rand(16, 16, 3, generator=random) * 255).to(torch.uint8).numpy()
        (tmp_path / "noise").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "noise" / f"{i}.png")
    model = tmp_path / "none"
    copies = evaluate_folder(images, data, model=model, options=options).report
    noise = evaluate_folder(tmp_path / "noise", data, model=model, options=options).report
    name = "random filters"
    assert copies["features"][name]["precision"] == 1
    assert noise["features"][name]["frechet_distance"] > 5 * copies["features"][name]["frechet_distance"]
    assert copies["memorisation"]["flagged"] >= 21
    assert noise["memorisation"]["flagged"] == 0


def test_a_folder_of_imgtf_sample_is_read_without_its_grid(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    assert run("sample", "--model", model, "--n", "5", "--out", out) == 0
    samples = FolderSamples(out, (16, 16), 3, DataConfig())
    (batch,) = samples.batches()
    assert batch.pixels.shape == (5, 3, 16, 16)
    assert batch.labels[:4] == ["blue", "green", "red", "blue"]
    (out / "samples.json").write_text("{")
    with pytest.raises(DataError, match="not a record of samples"):
        FolderSamples(out, (16, 16), 3, DataConfig())


def test_class_agreement_is_measured_with_a_classifier(
    pipeline: Pipeline, data: DataConfig, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgtf.evaluation.classifier.SEEN", 600)
    monkeypatch.setattr("imgtf.evaluation.classifier.BATCH_SIZE", 12)
    options = JudgeOptions("classifier", cache=tmp_path)
    found = evaluate_folder(images, data, options=options, memorisation=False).report
    figures = found["features"]["classifier"]
    assert figures["class_agreement"] > 0.9
    assert figures["network"]["held_out_accuracy"] > 0.8
    assert "memorisation" not in found


def evaluate_command(model: Path, *arguments: Any) -> int:
    return run("evaluate", "--model", model, *map(str, arguments))


def test_the_command_writes_a_report_and_prints_it(
    model: Path, torch_home: Path, tmp_path: Path, capsys: Any
) -> None:
    assert evaluate_command(model, "--n", 6, "--features", "squeeze", "--out", tmp_path / "e", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "e" / "report.json").read_text()) | {"out": str(tmp_path / "e")}
    assert printed["samples"]["of"] == "the model"
    assert printed["features"]["squeeze"]["network"]["dimension"] == 512
    assert (tmp_path / "e" / "worst-pairs.png").exists()
    assert evaluate_command(model, "--n", 6, "--features", "squeeze", "--out", tmp_path / "e") == 1
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--features", "resnet"], 1, "features: unknown resnet; use auto, inception"),
        (["--features", "alex"], 1, "LPIPS (alex) needs"),
        (["--keep"], 2, "--keep is for --search"),
        (["--budget", "3"], 2, "--budget is for --search"),
        (["--metric", "frechet"], 2, "--metric is for --search"),
        (["--search", "--budget", "0"], 2, "--budget"),
        (["--samples", ".", "--search"], 2, "which --search cannot change"),
        (["--samples", ".", "--top-k", "3"], 2, "which --top-k cannot change"),
        (["--samples", ".", "-n", "1000"], 2, "which --n cannot change"),
        (["--samples", ".", "--seed", "0"], 2, "which --seed cannot change"),
        (["--samples", ".", "--batch-size", "auto"], 2, "which --batch-size cannot change"),
        (["--samples", ".", "--precision", "fp32"], 2, "which --precision cannot change"),
        (["--samples", ".", "--conditioning-column", "x"], 2, "which --conditioning-column cannot change"),
        (["--search", "--budget", "0.02", "-n", "5"], 2, "--n has no effect with --search"),
        (
            ["--search", "--budget", "0.02", "--no-memorisation"],
            2,
            "--no-memorisation has no effect with --search",
        ),
        (["--search", "--budget", "0.02", "--memorisation"], 2, "--memorisation has no effect with --search"),
        (["--samples", "nowhere"], 1, "nowhere: no such folder of samples"),
        (["--n", "1"], 2, "--n"),
        (["--reference", "test"], 2, "--reference"),
        (["--data", "/nowhere"], 1, "/nowhere: no such file or folder"),
        (["--held-out", "0"], 1, "0 images in"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    arguments: list[str], code: int, message: str, model: Path, torch_home: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Any,
) -> None:  # fmt: skip
    def refuse(url: str) -> None:
        raise OSError("no network")

    monkeypatch.setattr("imgtf.tokenizer.perceptual.reachable", refuse)
    monkeypatch.chdir(tmp_path)
    given = arguments if "--features" in arguments else ["--features", "squeeze", *arguments]
    assert evaluate_command(model, *given, "--out", tmp_path / "out") == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert message in last
    assert not (tmp_path / "out").exists()


def test_options_of_a_file_that_have_no_effect_are_refused_too(
    model: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "run.toml").write_text("search = true\nbudget = 0.02\nn = 5\n")
    assert evaluate_command(model, "--config", tmp_path / "run.toml") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: --n has no effect with --search")
    (tmp_path / "run.toml").write_text("search = false\n")
    assert evaluate_command(model, "--config", tmp_path / "run.toml", "--samples", "nowhere") == 1
    assert "nowhere: no such folder of samples" in capsys.readouterr().err


def test_a_model_that_does_not_say_its_data_needs_some(tmp_path: Path, capsys: Any) -> None:
    assert evaluate_command(tmp_path / "imported") == 1
    assert "name the real images with --data" in capsys.readouterr().err


def test_an_empty_folder_is_refused(model: Path, torch_home: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    assert evaluate_command(model, "--samples", tmp_path / "empty", "--features", "squeeze") == 1
    assert "empty" in capsys.readouterr().err


def test_reference_names_are_checked() -> None:
    with pytest.raises(ConfigError, match="reference must be held-out or train, got 'test'"):
        JudgeOptions(reference="test")
