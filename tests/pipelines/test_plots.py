"""Plots of a run: from its log, after a resume, and a log line instead without matplotlib."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgtf.pipelines import plots, run_log

from .conftest import SMALL_TOKENIZER, run


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_both_stages_plot_their_metrics_and_the_tokenizer_its_codebook(model: Path) -> None:
    for name in ("tokenizer/curves.png", "prior/curves.png", "tokenizer/usage.png"):
        pixels = pixels_of(model / "training" / name)
        assert pixels.shape[0] > 200
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # not a blank plot
    assert not (model / "training" / "prior" / "usage.png").exists()


def test_curves_need_only_the_log(model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "training" / "tokenizer" / "log.jsonl", tmp_path)
    plots.draw_curves(tmp_path / "log.jsonl", tmp_path / "again.png")
    assert (pixels_of(tmp_path / "again.png") == pixels_of(model / "training/tokenizer/curves.png")).all()


def test_events_of_the_discriminator_and_the_monitor_are_marked(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"step": s, "loss": 1 / s, "l2": 0.1 / s, "lr": 0.1} for s in range(1, 9)]
    rows[3:] = [row | {"discriminator": 0.1, "accuracy_real": 0.6, "accuracy_fake": 0.5} for row in rows[3:]]
    rows += [{"step": 6, "monitor": "roll_back", "reason": "PSNR fell"}, {"step": 3, "monitor": "snapshot"}]
    rows += [{"step": 8, "held_out": {"loss": 0.2, "psnr": 20.0}, "best": True}]
    rows += [{"step": 7, "loss": float("nan"), "l2": float("nan")}]
    assert run_log.run_events(rows) == {"discriminator starts": [4], "rollback": [6], "best weights": [8]}
    titles = [panel.title for panel in run_log.PANELS if run_log.panel_series(panel, rows)]
    assert titles[:2] == ["Loss (weighted sum)", "Reconstruction"]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plots.draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("counts", [[5, 0, 3, 1], [1] * 4, [7, 0, 0, 0], [0] * 4])
def test_any_code_usage_can_be_plotted(counts: list[int], tmp_path: Path) -> None:
    plots.draw_usage(np.array(counts), tmp_path / "usage.png")
    assert pixels_of(tmp_path / "usage.png").any()


def test_a_resumed_run_plots_again(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / "training" / "tokenizer" / "curves.png").unlink()
    assert run("tokenizer", "train", "--resume", "--steps", "10", "--model", tmp_path / "m") == 0
    assert (tmp_path / "m" / "training" / "tokenizer" / "curves.png").exists()


def test_without_matplotlib_the_log_says_how_to_install_it(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    command = ["tokenizer", "train", "--data", images, "--model", tmp_path / "m", "--steps", "2"]
    assert run(*command, *SMALL_TOKENIZER) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if 'pip install "imgtf[plot]"' in line]
    assert len(lines) == 1
    assert not list(tmp_path.rglob("curves.png"))
    logging.getLogger("imgtf").handlers.clear()


def test_matplotlib_is_imported_only_to_plot() -> None:
    program = "import sys, imgtf.pipelines.train; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
