"""A signal to the launcher of two processes (gloo, on the CPU), each with a worker that loads images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from imgtf.training.states import latest_state

from ..pipelines.conftest import SMALL_TOKENIZER, draw_images


def test_all_processes_stop_within_the_same_step(tmp_path: Path) -> None:
    images, model = draw_images(tmp_path / "images"), tmp_path / "m"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["tokenizer", "train", "--data", str(images), "--model", str(model), "--steps", "100000"]
    rare = ["--log-every", "1000", "--eval-every", "100000", "--preview-every", "100000", "--save-every", "5"]
    with subprocess.Popen(
        [*launcher, "-m", "imgtf", *command, *SMALL_TOKENIZER, *rare, "--workers", "1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        state = model / "training/tokenizer/state"
        deadline = time.monotonic() + 120
        while latest_state(state) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        errors = run.communicate(timeout=60)[1]
    lines = [line for line in errors.splitlines() if line.startswith("Interrupted: ")]
    assert len(lines) == 1, errors
    assert f"torchrun --nproc-per-node 2 -m imgtf tokenizer train --model {model} --resume" in lines[0]
    assert "killed by signal" not in errors
    saved = latest_state(state)
    assert saved is not None
    header = json.loads((saved / "progress.json").read_text())
    assert header["processes"] == 2
    assert f"stopped by SIGTERM at step {header['step']} of 100000" in lines[0]
    assert sorted(path.name for path in saved.glob("random-*")) == [
        "random-0.safetensors",
        "random-1.safetensors",
    ]
