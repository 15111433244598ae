"""Which tabs a folder has, logs of runs, ports, the temporary folder, the command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs gradio")

from imgtf.errors import CheckpointError, ConfigError
from imgtf.web import server
from imgtf.web.curves import MOST_POINTS, RunLog, points, status
from imgtf.web.page import tabs_of
from imgtf.web.pictures import figures
from imgtf.web.server import bound, temporary_environment
from imgtf.web.site import Site, open_site
from imgtf.web.worker import Worker

from ..pipelines.conftest import run
from ..pipelines.editing.test_translate import noise


def test_only_the_temporary_folder_is_written_and_it_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    with temporary_environment() as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == folder
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        (Path(folder) / "a").write_text("a")
    assert not Path(folder).exists()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "True"
    assert "GRADIO_TEMP_DIR" not in os.environ


def test_a_port_in_use_is_one_line() -> None:
    with (
        bound("127.0.0.1", 0) as (_, port),
        pytest.raises(ConfigError, match="--port"),
        bound("127.0.0.1", port),
    ):
        pass


def names(site: Site) -> list[str]:
    return [name for name, _ in tabs_of(site, Worker())]


def test_tabs_follow_what_the_folder_holds(
    model: Path, translating: Path, upscaling: Path, tmp_path: Path, site: Site
) -> None:
    assert names(site) == ["Sample", "Reconstruct", "Inpaint", "Surprise", "Training"]
    assert names(open_site(translating)) == [
        "Sample",
        "Reconstruct",
        "Inpaint",
        "Translate",
        "Surprise",
        "Training",
    ]
    assert names(open_site(upscaling)) == [
        "Sample",
        "Reconstruct",
        "Inpaint",
        "Upscale",
        "Surprise",
        "Training",
    ]
    (tmp_path / "tokenizer").symlink_to(model / "tokenizer")
    alone = open_site(tmp_path)
    assert names(alone) == ["Reconstruct", "Training"]
    assert "has no prior yet" in alone.why
    (tmp_path / "prior").symlink_to(translating / "prior")
    foreign = open_site(tmp_path)
    assert names(foreign) == ["Reconstruct", "Training"]
    assert "The prior cannot be used: the tokenizer has 16 codes, the prior 8." in foreign.why


def test_a_folder_with_only_a_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a model nor a training run"):
        open_site(tmp_path)
    log = tmp_path / "training" / "tokenizer" / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"step": 1, "loss": 2.0}\n')
    assert names(open_site(tmp_path)) == ["Training"]


def test_a_log_is_read_as_it_grows(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "prior")
    assert log.read() == []
    assert status([], None, 0) == "no run yet"
    path = tmp_path / "training" / "prior" / "log.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\nbroken\n{"step": 3, "lo')
    assert [row["step"] for row in log.read()] == [1, 2]
    with path.open("a") as file:
        file.write('ss": 1.5}\n{"step": 3, "held_out": {"loss": 1.0, "psnr": 20.0}, "best": true}\n')
    rows = log.read()
    assert points(rows, "loss") == [(1, 2.0, "training"), (3, 1.5, "training"), (3, 1.0, "held-out")]
    assert status(rows, 3, 5) == "finished · step 3 of 3 · held out: loss 1, psnr 20 · last line 5 s ago"
    assert "stopped, or waiting" in status(rows, 9, 4000)
    replacement = path.with_suffix(".tmp")
    replacement.write_text('{"step": 1, "loss": 2.0}\n')
    replacement.replace(path)  # as a resumed run does
    assert len(log.read()) == 1


def test_a_long_series_is_thinned() -> None:
    rows = [{"step": step, "loss": 1.0} for step in range(10 * MOST_POINTS + 7)]
    series = points(rows, "loss")
    assert len(series) <= MOST_POINTS
    assert series[-1][0] == rows[-1]["step"]


def test_captions_are_text() -> None:
    shown = figures([noise(4, 4, 0)], ['<script>alert("x")</script>'], ['"><b>.png'])
    assert "<script" not in shown
    assert "<b>" not in shown


def test_commands_that_fail_are_one_line(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*arguments: str | Path) -> str:
        assert run("web", *arguments) == 1
        line = capsys.readouterr().err.strip()
        assert "\n" not in line
        return line

    assert "neither a model nor a training run" in failed(tmp_path)
    with bound("127.0.0.1", 0) as (_, port):
        assert f"127.0.0.1:{port} cannot be used" in failed(model, "--port", str(port), "--device", "cpu")
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "gradio" else name)
    assert 'pip install "imgtf[web]"' in failed(model)


def test_settings_of_a_run_may_be_missing_or_damaged(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "tokenizer")
    assert log.steps is None
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "train.toml").write_text("steps = ")
    assert log.steps is None
    (tmp_path / "tokenizer" / "train.toml").write_text("steps = 7\n")
    assert log.steps == 7
    assert json.dumps(log.age) == "Infinity"
