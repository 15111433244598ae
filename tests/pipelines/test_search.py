"""The search finds planted settings, keeps to its budget, and says so when the default is best."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from imgtf import Pipeline
from imgtf.data.config import DataConfig
from imgtf.errors import CheckpointError
from imgtf.evaluation.features import custom
from imgtf.options import to_dict
from imgtf.pipelines.evaluate_samples import judge_of
from imgtf.pipelines.judge import JudgeOptions
from imgtf.pipelines.search import FEWEST, Search, SearchResult, Trial
from imgtf.pipelines.search_report import keep_settings, record, write_search
from imgtf.pipelines.search_samples import SampleQuality
from imgtf.pipelines.search_space import SearchSpace, differences
from imgtf.prior.config import PriorConfig, SamplingConfig
from imgtf.prior.model import Prior

from ..tokenizer.conftest import backbone_weights
from .conftest import run

__all__ = ["backbone_weights"]
SPACE = SearchSpace(guided=True, codes=1024)
ABOUT: dict[str, Any] = {
    "searched_against": {"images": 3, "data": "d", "split": "train", "size": [8, 8]},
    "features": {"squeeze": {"preprocessing": "own size", "weights_sha256": "abc"}},
}


class Toy:
    """A loss with one best setting, measured with noise that many samples average out; a clock that counts samples."""

    def __init__(self, best: SamplingConfig, noise: float = 0.3) -> None:
        self.best, self.noise, self.time = best, noise, 0.0

    def loss(self, own: SamplingConfig) -> float:
        schedule = 0.3 * (own.cfg_schedule != self.best.cfg_schedule)
        k, best_k = (np.log2(one.top_k or 1024) for one in (own, self.best))
        return float(
            1 + (own.cfg_scale - self.best.cfg_scale) ** 2 + 20 * (own.temperature - self.best.temperature) ** 2
            + 0.1 * (k - best_k) ** 2 + 20 * (own.top_p - self.best.top_p) ** 2 + schedule
        )  # fmt: skip

    def measure(self, settings: SamplingConfig, first: int, n: int, fresh: bool = False) -> list[float]:
        self.time += n * (2 if settings.cfg_scale != 1 else 1)
        noise = [np.random.default_rng((i, fresh)).normal() for i in range(first, first + n)]
        return [self.loss(settings) + self.noise * one for one in noise]

    def merge(self, parts: Sequence[list[float]]) -> list[float]:
        return [value for part in parts for value in part]

    def score(self, measured: list[float], start: list[float], fresh: bool = False) -> float:
        return float(np.mean(measured) / np.mean(start))

    def describe(self, measured: list[float], fresh: bool = False) -> dict[str, float]:
        return {"toy": float(np.mean(measured))}


def search(
    best: SamplingConfig, seconds: float = 60_000, start: SamplingConfig | None = None
) -> tuple[SearchResult, Toy]:
    toy = Toy(best)
    result = Search(toy, SPACE, start or SamplingConfig(), seconds, lambda: toy.time).run()
    return result, toy


@pytest.mark.parametrize(
    "best",
    [
        SamplingConfig(cfg_scale=2.4, temperature=0.9),
        SamplingConfig(temperature=1.15, top_k=150),
        SamplingConfig(cfg_scale=3.3, cfg_schedule="cosine", top_p=0.93),
    ],
)
def test_planted_best_settings_are_found(best: SamplingConfig) -> None:
    result, toy = search(best)
    assert result.improved
    assert toy.loss(result.best) < 1 + 0.25 * (toy.loss(SamplingConfig()) - 1)
    assert result.check is not None
    assert result.check.winner["toy"] < result.check.start["toy"]
    assert "better than the default" in result.conclusion()


def test_the_best_default_is_kept() -> None:
    best = SamplingConfig(cfg_scale=1.5, temperature=0.8, top_k=512)
    result, _ = search(best, start=best)
    assert not result.improved
    assert result.best == best
    assert "default" in result.conclusion()


@pytest.mark.parametrize("seconds", [500, 5_000, 50_000])
def test_the_budget_is_kept(seconds: float) -> None:
    _, toy = search(SamplingConfig(cfg_scale=2.4), seconds)
    assert toy.time < 1.25 * seconds + 200


class Slow(Toy):
    """Each sample takes 20 seconds."""

    def measure(self, settings: SamplingConfig, first: int, n: int, fresh: bool = False) -> list[float]:
        self.time += 19 * n
        return super().measure(settings, first, n, fresh)


def test_a_budget_for_the_default_alone_says_so_and_names_one_that_suffices(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def slow_search(seconds: float) -> SearchResult:
        toy = Slow(SamplingConfig(cfg_scale=2.4))
        return Search(toy, SPACE, SamplingConfig(), seconds, lambda: toy.time).run()

    with caplog.at_level(logging.INFO, "imgtf"):
        result = slow_search(600)
    assert not result.improved
    assert caplog.messages == []
    found = re.fullmatch(
        r"the budget sufficed for 16 samples of the default only, which is kept: give --budget (\d+) or more",
        result.conclusion(),
    )
    assert found
    assert record(result, "kernel")["settings_tried"] == 0
    assert result.conclusion() in write_search(result, tmp_path, "kernel", ABOUT).read_text()
    assert len(slow_search(60 * int(found[1])).trials) >= FEWEST


def test_the_default_takes_no_place_of_another_setting(caplog: pytest.LogCaptureFixture) -> None:
    best = SamplingConfig(cfg_scale=1.5, temperature=0.8, top_k=512)
    with caplog.at_level(logging.INFO, "imgtf"):
        search(best, 5_000, start=best)
    rounds = [re.findall(r"round \d: (\d+) settings", message) for message in caplog.messages]
    assert [int(one) for found in rounds for one in found] == [FEWEST - 1, 2, 2]


def test_all_candidates_see_the_same_samples() -> None:
    result, _ = search(SamplingConfig(cfg_scale=2.4))
    noise = {trial.images: set() for trial in result.trials}
    toy = Toy(SamplingConfig(cfg_scale=2.4))
    for trial in result.trials:
        noise[trial.images].add(round(trial.figures["toy"] - toy.loss(trial.settings), 6))
    assert all(len(values) == 1 for values in noise.values())


def test_a_winner_that_is_not_better_on_fresh_samples_is_not_taken() -> None:
    class Lucky(Toy):
        """Settings that differ from the default look good, but only with the search's own random numbers."""

        def measure(self, settings: SamplingConfig, first: int, n: int, fresh: bool = False) -> list[float]:
            self.time += n
            return [1.0 if fresh or settings == SamplingConfig() else 0.5] * n

    toy = Lucky(SamplingConfig())
    result = Search(toy, SPACE, SamplingConfig(), 20_000, lambda: toy.time).run()
    assert not result.improved
    assert result.best == SamplingConfig()
    assert "is not better on" in result.conclusion()


def test_the_space_holds_what_the_prior_has() -> None:
    plain = SearchSpace(guided=False, codes=16)
    settings = plain.first(SamplingConfig(), 12)
    assert settings[0] == SamplingConfig()
    assert len(set(settings)) == 12
    assert {one.cfg_scale for one in settings} == {1.0}
    near = plain.neighbours(SamplingConfig(top_k=8), 1)
    assert {one.top_k for one in near} == {0, 4, 8}
    assert all(one.cfg_scale == 1 for one in near)
    guided = SPACE.neighbours(SamplingConfig(cfg_scale=3, cfg_schedule="power-cosine"), 1)
    assert {one.cfg_schedule for one in guided} == {"constant", "linear", "cosine", "power-cosine"}
    assert SPACE.canonical(SamplingConfig(cfg_schedule="linear", top_k=5000)) == SamplingConfig()


def test_differences_are_named() -> None:
    found = differences(SamplingConfig(top_k=64, cfg_schedule="linear"), SamplingConfig())
    assert found == "cfg_schedule linear, top_k 64"
    assert differences(SamplingConfig(), SamplingConfig()) == "none"


def test_a_search_is_written_as_table_and_plot(tmp_path: Path) -> None:
    result, _ = search(SamplingConfig(cfg_scale=2.4), 8_000)
    path = write_search(result, tmp_path / "s", "kernel", ABOUT)
    assert {p.name for p in path.parent.iterdir()} == {"search.csv", "search.md", "search.png", "search.json"}
    rows = (tmp_path / "s" / "search.csv").read_text().splitlines()
    assert rows[0] == "cfg_scale,cfg_schedule,cfg_power,temperature,top_k,top_p,samples,score,toy,seconds"
    assert len(rows) == 1 + len(result.trials)
    record = json.loads((tmp_path / "s" / "search.json").read_text())
    assert record["best"] == to_dict(result.best)
    text = path.read_text()
    for piece in ("fresh samples", "squeeze: own size, weights abc", "3 images of d, split train"):
        assert piece in text


def test_the_best_become_the_defaults_and_nothing_else_changes(model: Path, tmp_path: Path) -> None:
    own = shutil.copytree(model, tmp_path / "m")
    before: PriorConfig = Prior.read_config(own / "prior")
    keep_settings(own, SamplingConfig(top_k=7, cfg_scale=1.5))
    after = Prior.read_config(own / "prior")
    assert after == replace(before, sampling=SamplingConfig(top_k=7, cfg_scale=1.5))
    assert Pipeline.from_pretrained(own, "cpu").prior.config.sampling.top_k == 7
    assert not list((own / "prior").glob("*.tmp"))
    (own / "prior" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds no sampling settings"):
        keep_settings(own, SamplingConfig())


class Counted(SampleQuality):
    """The real objective, with a clock that counts samples."""

    time = 0.0

    def measure(self, settings: SamplingConfig, first: int, n: int, fresh: bool = False) -> Any:
        self.time += n
        return super().measure(settings, first, n, fresh)


def test_the_settings_that_made_the_real_images_are_found(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real images are the model's own samples of the two most likely codes."""
    pipeline = Pipeline.from_pretrained(model, "cpu")
    real = tmp_path / "real"
    real.mkdir()
    for i, image in enumerate(pipeline.sample(60, seed=9, top_k=2)):
        image.save(real / f"{i}.png")
    for name, value in (("CANDIDATES", 8), ("ROUNDS", 1), ("EXPECTED", 10)):
        monkeypatch.setattr(f"imgtf.pipelines.search.{name}", value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    options = JudgeOptions(custom("random filters", layers), cache=tmp_path / "cache")
    data = DataConfig(data=str(real), held_out=0.4)
    objective = Counted(pipeline, judge_of(pipeline, data, options=options))
    space = SearchSpace(guided=False, codes=16)
    result = Search(objective, space, SamplingConfig(), 700, lambda: objective.time).run()
    assert result.improved
    assert 0 < result.best.top_k <= 8 or result.best.temperature < 1 or result.best.top_p < 1
    assert result.check is not None
    assert result.check.winner["random filters kernel"] < result.check.start["random filters kernel"]


def test_the_command_writes_the_search_and_keeps_only_what_is_better(
    model: Path, backbone_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(backbone_weights, checkpoints)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("imgtf.pipelines.search.CANDIDATES", 3)
    own = shutil.copytree(model, tmp_path / "m")
    before = Prior.read_config(own / "prior").sampling
    command = [
        "evaluate", "--model", own, "--features", "squeeze", "--search", "--budget", "0.02", "--keep",
        "--cache", tmp_path / "cache", "--out", tmp_path / "out", "--json",
    ]  # fmt: skip
    assert run(*command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kept"] == found["improved"]
    assert to_dict(Prior.read_config(own / "prior").sampling) == (
        found["best"] if found["kept"] else to_dict(before)
    )
    assert found["checked_against"]["split"] == "train[held-out]"
    assert found["searched_against"]["split"] == "train"
    assert {"search.csv", "search.md", "search.json"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_trials_know_their_speed() -> None:
    assert Trial(SamplingConfig(), images=4, seconds=2).seconds_per_image == 0.5
    assert Trial(SamplingConfig()).seconds_per_image == 0
