"""One run at a time in a model folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from imgtf.errors import CheckpointError
from imgtf.training.lock import only_run

HOLD = """
import os, sys, time
from pathlib import Path
from imgtf.training.lock import only_run
with only_run(Path(sys.argv[1]), True):
    if os.fork() == 0:  # as a worker of a loader, which may live a little longer
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_run_is_refused_with_the_holder_named(tmp_path: Path) -> None:
    with only_run(tmp_path / "m", True):
        here = f"process {os.getpid()} on {socket.gethostname()}, since 20"
        with pytest.raises(CheckpointError, match=f"another training run is at work there .{here}"):
            only_run(tmp_path / "m", True).__enter__()
        with only_run(tmp_path / "m", False):  # another process of the same run
            pass
    with only_run(tmp_path / "m", True):
        pass
    assert not (tmp_path / "m").exists()  # a run that wrote nothing leaves nothing


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    code = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True, start_new_session=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=f"process {holder.pid} on"), only_run(tmp_path, True):
            pass
        holder.kill()
        holder.wait()
        with only_run(tmp_path, True):
            pass
        os.killpg(holder.pid, signal.SIGKILL)
