"""The short version of benchmarks/kill.py: runs that are killed, resumed, and compared with one without kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")


def test_killed_runs_end_like_one_without_kills(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "kill.py"
    options = [
        "--kills",
        "3",
        "--steps",
        "9",
        "--data",
        "digits",
        "--stages",
        "tokenizer",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, str(script), *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["kills"], found["differing runs"], found["models that do not load"]) == (3, 0, 0)
    assert found["ended runs"] >= 1
