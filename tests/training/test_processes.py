"""Training with two processes (gloo, on the CPU)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..pipelines.conftest import SMALL_TOKENIZER, draw_images, run


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    """Run imgtf in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "imgtf", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_run_is_resumed_by_other_numbers_of_processes(tmp_path: Path) -> None:
    draw_images(tmp_path / "images")
    model = ["--model", str(tmp_path / "m")]
    command = ["tokenizer", "train", "--data", str(tmp_path / "images"), "--steps", "2", *SMALL_TOKENIZER]
    assert run(*command, *model) == 0
    done = launch("tokenizer", "train", *model, "--resume", "--steps", "4")
    assert "saved by 1 processes, resumed with 2" in done.stderr
    assert run("tokenizer", "train", *model, "--resume", "--steps", "6") == 0
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "m/training/tokenizer/log.jsonl").read_text().splitlines()
    ]
    assert max(steps) == 6


def test_two_processes_give_the_same_weights_as_one(tmp_path: Path) -> None:
    draw_images(tmp_path / "images")
    command = ["tokenizer", "train", "--data", str(tmp_path / "images"), "--steps", "4", *SMALL_TOKENIZER]
    command += ["--precision", "fp32", "--dead-code-threshold", "0"]
    assert run(*command, "--model", tmp_path / "one") == 0
    done = launch(*command, "--model", str(tmp_path / "two"))
    assert done.stdout.count("best at step") == 1
    one, two = (load_file(tmp_path / name / "tokenizer" / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=1e-3)
