"""Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal

import pytest

from imgtf.training.interrupt import StopRequest


def test_the_first_signal_requests_a_stop_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
