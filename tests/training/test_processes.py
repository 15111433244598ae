"""Training with two processes (gloo, on the CPU)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..pipelines.conftest import SMALL_TOKENIZER, draw_images, run


def test_two_processes_give_the_same_weights_as_one(tmp_path: Path) -> None:
    draw_images(tmp_path / "images")
    command = ["tokenizer", "train", "--data", str(tmp_path / "images"), "--steps", "4", *SMALL_TOKENIZER]
    command += ["--precision", "fp32", "--dead-code-threshold", "0"]
    assert run(*command, "--model", tmp_path / "one") == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, "-m", "imgtf", *command, "--model", str(tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best at step") == 1
    one, two = (load_file(tmp_path / name / "tokenizer" / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=1e-3)
