"""The log of a run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from imgtf.training.report import Report


def test_evaluations_between_two_lines_do_not_change_the_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    report = Report("prior", tmp_path / "log.jsonl", start=0, steps=60, batch_size=8, active=True)
    for step in range(1, 61):
        now += 2
        if step % 20 == 0:
            report.train(step, {"loss": 1.0})
        if step in (33, 40, 59):
            with report.aside():
                report.evaluation(step, {"loss": 1.0}, True)
                now += 100
    report.close()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["images_per_second"] for row in rows if "loss" in row] == [4.0, 4.0, 4.0]
