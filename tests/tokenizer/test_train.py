"""Training with a discriminator: updates of both sides, exact resumption, and rollbacks."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from imgtf.data.config import AugmentationConfig, DataConfig
from imgtf.data.images import ImageDataset
from imgtf.data.source import open_source
from imgtf.errors import DataError
from imgtf.tokenizer import divergence
from imgtf.tokenizer.config import TokenizerConfig
from imgtf.tokenizer.divergence import REDUCTION
from imgtf.tokenizer.model import Tokenizer
from imgtf.tokenizer.recipe import DecoderRecipe, TokenizerRecipe
from imgtf.tokenizer.train import TokenizerStage, last_weight
from imgtf.tokenizer.tune import DecoderStage
from imgtf.training.accelerator import make_accelerator
from imgtf.training.config import TrainingConfig
from imgtf.training.ema import EMA
from imgtf.training.loop import Trainer
from imgtf.training.report import Report
from imgtf.training.snapshot import restore_snapshot, take_snapshot
from imgtf.training.states import latest_state

ADVERSARIAL: dict[str, Any] = {
    "discriminator_weight": 0.5, "discriminator_start": 3, "discriminator_ramp": 2, "discriminator_width": 8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "WINDOW", 2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for i in range(30):
        pixels = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def make_stage(images: Path, recipe: dict[str, Any], **training: Any) -> TokenizerStage:
    data = DataConfig(data=str(images))
    train, held_out = open_source(data)
    torch.manual_seed(0)
    model = Tokenizer(
        TokenizerConfig(
            image_size=16, width=8, multipliers=(1, 2), latent_width=8, norm_groups=4, codebook_size=16,
            codebook_dim=4,
        )
    )  # fmt: skip
    settings = {"precision": "fp32", "device": "cpu", "batch_size": 4, "warmup": 0} | training
    stage = TokenizerStage(
        model,
        TokenizerRecipe(**recipe),
        TrainingConfig(**settings),
        ImageDataset(train, 16, 3, data, AugmentationConfig()),
        ImageDataset(held_out, 16, 3, data),
        workers=0,
    )
    torch.manual_seed(0)
    return stage


def prepared(stage: TokenizerStage) -> TokenizerStage:
    stage.prepare(make_accelerator(stage.config), stage.config)
    stage.model.train()
    return stage


def trainer(images: Path, folder: Path, recipe: dict[str, Any], **training: Any) -> Trainer:
    often = {"steps": 12, "log_every": 2, "eval_every": 6, "save_every": 5, "preview_every": 12}
    stage = make_stage(images, recipe, **often | training)
    return Trainer(stage, stage.config, folder, make_accelerator(stage.config))


def updates(stage: TokenizerStage, n: int) -> None:
    """Make n updates as the training loop does."""
    torch.manual_seed(0)
    batches = stage.train_batches(0)
    for stage.completed_steps in range(n):
        for _ in range(stage.config.gradient_accumulation_steps):
            with stage.accelerator.accumulate(*(t.network for t in stage.optimized_networks())):
                stage.step(next(batches))


def use_plain_gradient_descent(stage: TokenizerStage) -> None:
    """Use plain gradient descent for both sides: AdamW and clipping hide wrongly scaled gradients."""
    assert stage.discriminator is not None
    for owner, model in ((stage, stage.model), (stage.discriminator, stage.discriminator.model)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        owner.optimized = replace(owner.optimized, optimizers=(optimizer,), grad_clip=0.0)


def weights(stage: TokenizerStage) -> dict[str, torch.Tensor]:
    return {
        f"{n}/{k}": v.clone() for n, m in stage.trained_modules().items() for k, v in m.state_dict().items()
    }


def state_tensors(folder: Path) -> dict[str, torch.Tensor]:
    state = latest_state(folder / "training" / "tokenizer" / "state")
    assert state is not None
    return {f"{f.stem}/{k}": v for f in state.glob("*.safetensors") for k, v in load_file(f).items()}


def log(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "training/tokenizer/log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("images_per_second", "seconds")} for row in rows]


def test_the_last_weight_of_the_decoder_has_the_image_channels() -> None:
    model = Tokenizer(TokenizerConfig(image_size=16, width=8, multipliers=(1, 2), norm_groups=4))
    assert last_weight(model.decoder).shape[0] == 3


def test_before_its_start_the_discriminator_has_no_effect(images: Path) -> None:
    plain, adversarial = (prepared(make_stage(images, r)) for r in ({}, ADVERSARIAL))
    at_first = weights(adversarial)
    for stage in (plain, adversarial):
        updates(stage, 3)
    ours, theirs = weights(plain), weights(adversarial)
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())
    assert all(torch.equal(v, at_first[k]) for k, v in theirs.items() if k.startswith("discriminator/"))


@pytest.mark.parametrize("adaptive", [True, False])
def test_from_its_start_both_sides_are_updated(adaptive: bool, images: Path) -> None:
    stage = prepared(make_stage(images, ADVERSARIAL | {"discriminator_adaptive": adaptive}))
    before = weights(stage)
    stage.completed_steps = 4
    metrics = stage.step(next(stage.train_batches(0)))
    after = weights(stage)
    assert not torch.equal(before["model/decoder.conv_out.weight"], after["model/decoder.conv_out.weight"])
    name = "discriminator/layers.0.parametrizations.weight.original"
    assert not torch.equal(before[name], after[name])
    assert metrics["gradient_norm"] > 0
    assert metrics["discriminator_norm"] > 0
    balance = metrics["adaptive_weight"] if adaptive else torch.ones(())
    # the second of 2 + 1 steps of the ramp
    torch.testing.assert_close(metrics["discriminator_weight"], 0.5 * 2 / 3 * balance)
    weights_used = {
        "l1": 1.0,
        "l2": 1.0,
        "commitment": 0.25,
        "discriminator": metrics["discriminator_weight"],
    }
    torch.testing.assert_close(metrics["loss"], sum(metrics[k] * w for k, w in weights_used.items()))


@pytest.mark.parametrize("scaled", [False, True])
def test_accumulated_micro_batches_update_both_sides_like_the_whole_batch(
    scaled: bool, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No adaptive weight: each micro-batch has its own. No spectral norm: its power iteration runs per micro-batch.
    monkeypatch.setattr("imgtf.tokenizer.discriminator.spectral_norm", lambda layer: layer)
    recipe = ADVERSARIAL | {
        "discriminator_adaptive": False, "discriminator_start": 0, "discriminator_ramp": 0, "l1_weight": 0.0,
        "lecam_weight": 0.0, "discriminator_loss": "non-saturating",
    }  # fmt: skip
    ends = []
    for micro_batches in (1, 4):
        stage = prepared(make_stage(images, recipe, gradient_accumulation_steps=micro_batches))
        use_plain_gradient_descent(stage)
        stage.model.quantizer.eval()  # each micro-batch updates the codebook
        if scaled and micro_batches > 1:
            stage.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1)
        updates(stage, 1)
        ends.append({k: v for k, v in weights(stage).items() if "quantizer" not in k})
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], atol=2e-5, rtol=1e-3)


def test_gradients_are_scaled_and_unscaled_for_both_sides(images: Path) -> None:
    ends = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)):
        stage = prepared(
            make_stage(images, ADVERSARIAL | {"discriminator_start": 1}, gradient_accumulation_steps=2)
        )
        use_plain_gradient_descent(stage)
        stage.accelerator.scaler = scaler
        updates(stage, 4)
        ends.append(weights(stage))
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("stop", "kind"), [(5, "patch"), (10, "features")])
def test_resuming_with_a_discriminator_and_a_rollback_is_exact(
    stop: int,
    kind: str,
    images: Path,
    backbone_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The weight is far too high: each run rolls back at least once. Step 5 is between two log lines.
    monkeypatch.setattr(divergence, "MARGIN", 0.05)
    recipe = ADVERSARIAL | {
        "discriminator_weight": 1e3,
        "discriminator_adaptive": False,
        "discriminator": kind,
        "lpips_backbone": "squeeze",
        "lpips_file": str(backbone_weights),
    }
    trainer(images, tmp_path / "whole", recipe, lr=5e-3).run()

    def stop_after(self: Report, done: list[int] = [0]) -> None:  # noqa: B006
        done[0] += 1
        if done[0] > stop + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Report, "advance", stop_after)
        with pytest.raises(KeyboardInterrupt):
            trainer(images, tmp_path / "resumed", recipe, lr=5e-3).run()
    resumed = trainer(images, tmp_path / "resumed", recipe, lr=5e-3)
    resumed.restore()
    resumed.run()
    ours, theirs = state_tensors(tmp_path / "whole"), state_tensors(tmp_path / "resumed")
    assert ours.keys() == theirs.keys()
    assert {"discriminator", "discriminator_optimizer", "snapshot"} <= {name.split("/")[0] for name in ours}
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert log(tmp_path / "whole") == log(tmp_path / "resumed")
    assert "roll_back" in [row.get("monitor") for row in log(tmp_path / "whole")]


def test_a_snapshot_is_restored_exactly_and_more_than_once(images: Path) -> None:
    stage = prepared(make_stage(images, ADVERSARIAL | {"discriminator_start": 0}))
    ema = EMA(stage.model, 0.9)
    updates(stage, 2)
    kept = take_snapshot(stage, ema)
    for _ in range(2):
        updates(stage, 2)
        ema.update(5)
        now = take_snapshot(stage, ema)
        assert not torch.equal(kept["ema/decoder.conv_out.weight"], now["ema/decoder.conv_out.weight"])
        restore_snapshot(kept, stage, ema)
        now = take_snapshot(stage, ema)
        assert kept.keys() == now.keys()
        assert [name for name in kept if not torch.equal(kept[name], now[name])] == []


def test_a_rollback_is_logged_and_reduces_the_weight(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = ADVERSARIAL | {"discriminator_weight": 1e3, "discriminator_adaptive": False}
    run = trainer(images, tmp_path, recipe, steps=30, lr=5e-3)
    with caplog.at_level(logging.WARNING, logger="imgtf"):
        run.run()
    rows = [row for row in log(tmp_path) if row.get("monitor") == "roll_back"]
    assert rows
    assert "training PSNR fell from" in rows[0]["reason"]
    assert any(f"step {rows[0]['step']} " in m and rows[0]["reason"] in m for m in caplog.messages)
    assert run.stage.monitor.weight_ratio <= REDUCTION ** len(rows)  # type: ignore[attr-defined]


def test_a_discriminator_that_wins_is_rolled_back(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "MAX_ACCURACY", 0.0)
    monkeypatch.setattr(divergence, "MARGIN", 100.0)
    recipe = ADVERSARIAL | {"discriminator_lr": 5e-3}
    trainer(images, tmp_path, recipe, steps=30).run()
    reasons = [row["reason"] for row in log(tmp_path) if row.get("monitor") == "roll_back"]
    assert any("the discriminator classifies" in reason for reason in reasons)


def test_without_rollback_the_monitor_is_off(images: Path, tmp_path: Path) -> None:
    recipe = ADVERSARIAL | {"discriminator_weight": 1e3, "discriminator_adaptive": False, "rollback": False}
    run = trainer(images, tmp_path, recipe, steps=30, lr=5e-3)
    run.run()
    assert not any("monitor" in row for row in log(tmp_path))
    assert run.snapshot == {}


def test_the_log_has_the_metrics_of_the_discriminator(images: Path, tmp_path: Path) -> None:
    trainer(images, tmp_path, ADVERSARIAL | {"discriminator_start": 5}).run()
    rows = {row["step"]: row for row in log(tmp_path) if "loss" in row}
    assert {"usage", "perplexity", "dead_codes", "revived_codes", "gradient_norm"} <= rows[2].keys()
    own = {
        "discriminator", "discriminator_loss", "discriminator_norm", "accuracy_real", "accuracy_fake", "lecam",
        "adaptive_weight", "discriminator_weight",
    }  # fmt: skip
    assert not own & rows[4].keys()
    assert own <= rows[6].keys()
    # The line of steps 5 and 6 averages over step 6 alone, the discriminator's first.
    assert rows[6]["discriminator_weight"] == pytest.approx(0.5 / 3 * rows[6]["adaptive_weight"])


def test_at_full_weight_the_newest_weights_within_the_margin_are_kept(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psnrs = iter([30.0, 20.0, 19.5, 18.0])  # the last is 1.5 dB below the kept weights
    losses = iter([1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(TokenizerStage, "evaluate", lambda self: {"loss": next(losses), "psnr": next(psnrs)})
    # evaluations at 3, 6, 9 and 12; the ramp ends at 5
    outcome = trainer(images, tmp_path, ADVERSARIAL, eval_every=3).run()
    assert (outcome.best_step, outcome.metrics) == (9, {"loss": 3.0, "psnr": 19.5})


def test_dead_and_revived_codes_are_counted(images: Path) -> None:
    stage = prepared(make_stage(images, {}))
    stage.counts.add(torch.arange(8))
    assert stage.window_metrics()["dead_codes"] == 8
    stage.counts.add(torch.arange(4, 11))
    metrics = stage.window_metrics()
    assert (metrics["dead_codes"], metrics["revived_codes"]) == (9, 3)


def test_lpips_is_added_to_the_loss_and_not_saved(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distance(torch.nn.Module):
        """A substitute for LPIPS that needs no weights."""

        def __init__(self, backbone: str, file: Path | None) -> None:
            super().__init__()
            assert (backbone, file) == ("alex", Path("x.pth"))
            self.scale = torch.nn.Parameter(torch.tensor(3.0))

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.scale.detach() + 0 * (a - b).flatten(1).mean(1)

    monkeypatch.setattr("imgtf.tokenizer.train.Perceptual", Distance)
    recipe = {"lpips_weight": 2.0, "lpips_backbone": "alex", "lpips_file": "x.pth"}
    outcome = trainer(images, tmp_path, recipe).run()
    row = next(row for row in log(tmp_path) if "loss" in row)
    assert row["lpips"] == pytest.approx(3)
    expected = row["l1"] + row["l2"] + 2 * row["lpips"] + 0.25 * row["commitment"]
    assert row["loss"] == pytest.approx(expected, rel=1e-4)
    assert outcome.metrics["lpips"] == pytest.approx(3)
    assert not any("scale" in name and "model" not in name for name in state_tensors(tmp_path))
    assert "scale" not in Tokenizer.from_pretrained(tmp_path / "tokenizer").state_dict()


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_batch_that_is_not_finite_leaves_both_sides_and_the_codebook_as_they_were(
    micro_batches: int, images: Path
) -> None:
    recipe = ADVERSARIAL | {"discriminator_start": 0}
    stage = prepared(make_stage(images, recipe, gradient_accumulation_steps=micro_batches, batch_size=8))
    updates(stage, 2)
    before, batches = take_snapshot(stage, None), stage.train_batches(2)
    stage.guard.begin(stage.trained_modules().values())
    for i in range(micro_batches):
        batch = next(batches)
        if i == 0:
            batch["image"][0] *= torch.nan
        with stage.accelerator.accumulate(*(t.network for t in stage.optimized_networks())):
            stage.step(batch)
    stage.guard.end()
    after = take_snapshot(stage, None)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert stage.guard.take_skipped() == 1


@pytest.mark.parametrize(("start", "warned"), [(3, True), (2, False)])
def test_a_discriminator_that_starts_after_the_last_step_is_named(
    images: Path, caplog: pytest.LogCaptureFixture, start: int, warned: bool
) -> None:
    make_stage(images, ADVERSARIAL | {"discriminator_start": start}, steps=3)
    assert ("starts at step 3, but the run has 3 steps" in caplog.text) == warned


def test_a_start_of_the_discriminator_is_judged_once_the_number_of_steps_is_decided(
    images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = make_stage(images, ADVERSARIAL | {"discriminator_start": 600}, steps=500, minutes=1.0)
    assert not caplog.text
    stage.follow(replace(stage.config, steps=300, minutes=None), 20)
    assert "starts at step 600, but the run has 300 steps" in caplog.text


def test_held_out_images_that_cannot_be_read_are_named_once_and_stop_the_run_above_one_percent(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = make_stage(shutil.copytree(images, tmp_path / "images"), {})
    data = (plain.train_set, plain.held_out_set)
    decoder = DecoderStage(plain.model, DecoderRecipe(code_noise=0.2), plain.config, *data, workers=0)
    first, second = (Path(plain.held_out_set.source.where(row)) for row in (0, 2))
    first.write_bytes(b"no image")
    for stage in (plain, decoder):
        caplog.clear()
        stage.prepare(make_accelerator(stage.config), stage.config)
        with torch.no_grad(), caplog.at_level(logging.WARNING, "imgtf"):
            stage.evaluate()
            stage.evaluate()
        (line,) = caplog.messages
        assert str(first) in line
    second.write_bytes(b"")
    for stage in (plain, decoder):
        with pytest.raises(DataError, match="2 of 3 images cannot be read"):
            stage.evaluate()
