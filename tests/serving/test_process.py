"""`imgtf serve` as a process: one line when it is ready, SIGTERM, mistakes on the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from imgtf import Pipeline

from ..pipelines.conftest import run
from .conftest import equal, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    tiny("label").save_pretrained(folder)
    return folder


def test_sigterm_lets_running_requests_finish(folder: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in folder.rglob("*"))
    command = [sys.executable, "-m", "imgtf", "serve", str(folder), "--port", "0", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["model"] == "tiny"
        with httpx.Client(base_url=ready["address"], timeout=30) as client, ThreadPoolExecutor() as threads:
            body = {"n": 10, "seed": 3, "size": "32x32"}
            answer = threads.submit(client.post, "/v1/images/generations", json=body)
            while not client.get("/health").json()["queue"]["running"]:
                assert not answer.done()
            process.send_signal(signal.SIGTERM)
            assert equal(answer.result(30), Pipeline.from_pretrained(folder).sample(10, seed=3, size=32))
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, output, errors) == (0, "", "")
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_line(folder: Path, tmp_path: Path, capsys: Any) -> None:
    def line(*arguments: str | Path, code: int = 1) -> str:
        assert run("serve", *arguments) == code
        (own,) = capsys.readouterr().err.splitlines()
        return str(own)

    with socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        assert f"port {port} of 127.0.0.1: address already in use" in line(folder, "--port", port)
    assert "tokenizer" in line(tmp_path, "--port", "0")
    assert "raise --queue" in line(folder, "--port", "0", "--queue", "3")
    assert "--port" in line(folder, "--port", "70000", code=2)


def test_a_missing_package_names_the_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in [name for name in sys.modules if name.startswith("imgtf.serving.")]:
        if not name.endswith(".config"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run("serve", folder) == 1
    assert 'pip install "imgtf[serve]"' in capsys.readouterr().err
