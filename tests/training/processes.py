"""Start two processes as torchrun does, but forked from one that has imported everything, which takes 4 s.

torchrun itself starts the processes of `test_signals.py` and `pipelines/test_write.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

PROCESSES = 2
SECONDS = 240
"""Time limit of each process."""

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["imgtf.pipelines", "imgtf.pipelines.train", "imgtf.data.stream", "datasets"])

WORK = """
import json, multiprocessing, os, sys, torch
multiprocessing.set_start_method("fork", force=True)  # the default, which workers of data loaders shall have
os.environ.clear()
os.environ.update(environment)
for descriptor, path in zip((1, 2), outputs):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
torch.set_num_threads(1)
sys.argv = [script]
exec(before)
from imgtf.cli import main
for command in commands:
    try:
        main(command)
    except SystemExit as stopped:
        if stopped.code:
            raise
"""
"""What each process does."""


@dataclass
class Output:
    """What the processes wrote, those of the first one first."""

    stdout: str
    stderr: str


def launch(folder: Path, *commands: Sequence[str | Path], before: str = "", code: int = 0) -> Output:
    """Run several commands of imgtf one after the other, in the same two processes.

    Args:
        folder: for the files of standard output and error, and of `before`.
        before: Python code that each process runs first. `sys.argv[0]` is `folder` / "commands.py".
        code: the exit code that is expected; as with torchrun, a process that fails ends the others.
    """
    with socket.create_server(("localhost", 0)) as probe:
        port = probe.getsockname()[1]
    started, outputs = [], []
    for rank in range(PROCESSES):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
        names |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
        outputs.append([folder / f"{rank}.{name}" for name in ("stdout", "stderr")])
        for path in outputs[rank]:
            path.unlink(missing_ok=True)
        values = {
            "environment": {**os.environ, **{name: str(value) for name, value in names.items()}},
            "outputs": list(map(str, outputs[rank])),
            "script": str(folder / "commands.py"),
            "before": before,
            "commands": [list(map(str, command)) for command in commands],
        }
        started.append(server.Process(target=exec, args=(WORK, values)))
        started[-1].start()
    first_failure = _wait(started)
    stdout, stderr = ("".join(paths[i].read_text() for paths in outputs) for i in (0, 1))
    assert first_failure == code, stderr
    return Output(stdout, stderr)


def _wait(started: Sequence[BaseProcess]) -> int:
    """Wait until all processes have ended, and return the exit code of the first one that failed, else 0."""
    running = list(started)
    failure = 0
    while running:
        if not wait([process.sentinel for process in running], SECONDS):
            for process in running:
                process.kill()
            pytest.fail(f"{len(running)} processes still ran after {SECONDS} s")
        for process in [process for process in running if process.exitcode is not None]:
            running.remove(process)
            failure = failure or process.exitcode or 0
        if failure:
            for process in running:
                process.terminate()
    return failure
