"""Progress bars: on a terminal with log lines above them, elsewhere nothing at all."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import pytest

from imgtf.runtime.progress import Bar, duration, write_line

WORK = """
import os, signal, sys, threading, warnings
from imgtf.runtime.progress import Bar, write_line

def inner():
    with Bar("inner", 2, "image", delay=0) as bar:
        bar.update(2)

with Bar("outer", 4, "step", done=1, delay=0) as bar:
    for step in range(3):
        bar.update()
        write_line(f"[bold]line {step}[/bold]")
    bar.note("loss 0.25")
    thread = threading.Thread(target=inner)
    thread.start()
    thread.join()
    with Bar("short", 1, "image") as short:
        short.update()
    sys.stderr.write("a foreign line\\n")
    print("a result")
"""
ENDLESS = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a script inherits that it is ignored
from imgtf.runtime.progress import Bar
with Bar("endless", 1000, "step", delay=0) as bar:
    while True:
        bar.update()
        time.sleep(0.01)
"""


def start(program: str, **environment: str) -> tuple[subprocess.Popen[str], int]:
    """Start a program whose stderr is a terminal of 100 columns; stdout is a pipe."""
    terminal, end = pty.openpty()
    variables = os.environ | {"TERM": "xterm", "COLUMNS": "100"} | environment
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=end, text=True, env=variables
    )
    os.close(end)
    return process, terminal


def read(terminal: int) -> str:
    """What was written to the terminal until its program ended."""
    parts = []
    with suppress(OSError):  # Linux: the other end was closed
        while part := os.read(terminal, 65536):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()


def test_bars_and_lines_on_a_terminal() -> None:
    process, terminal = start(WORK)
    shown = read(terminal)
    assert process.communicate()[0] == "a result\n"  # a pipe gets results only
    assert process.returncode == 0
    for text in ("outer", "4/4", "inner", "2/2", "loss 0.25", "[bold]line 2[/bold]", "a foreign line"):
        assert text in shown
    assert "short" not in shown
    assert "\x1b[?25l" not in shown, "the cursor is hidden"


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"RANK": "1"}])
def test_dumb_terminals_and_other_processes_show_lines_only(environment: dict[str, str]) -> None:
    process, terminal = start(WORK, **environment)
    shown = read(terminal)
    process.communicate()
    assert shown.split("\r\n")[:-1] == [*(f"[bold]line {step}[/bold]" for step in range(3)), "a foreign line"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_leaves_a_visible_cursor(number: signal.Signals) -> None:
    process, terminal = start(ENDLESS)
    while b"endless" not in os.read(terminal, 65536):
        time.sleep(0.01)
    process.send_signal(number)
    shown = read(terminal)
    process.communicate()
    assert process.returncode in (-number, 1)
    assert "\x1b[?25l" not in shown


def test_without_a_terminal_nothing_is_shown_or_imported(capsys: Any) -> None:
    with Bar("work", 3, "image", delay=0) as bar:
        bar.update(3)
        bar.grow(1)
        bar.note("text")
        write_line("a line")
    assert not bar.visible
    assert (bar.done, bar.total) == (3, 4)
    assert capsys.readouterr() == ("", "a line\n")
    program = f"{WORK}\nassert 'rich' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "outer" not in done.stderr


def test_durations() -> None:
    assert [duration(s) for s in (-1, 0.4, 42, 723, 3723)] == ["0:00", "0:00", "0:42", "12:03", "1:02:03"]
