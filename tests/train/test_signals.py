"""Signals are collected, and a second one acts at once."""

import math
import os
import signal

import pytest

from nag_optax.train import errors
from nag_optax.train.errors import collected_signals


def test_a_second_signal_acts_at_once(monkeypatch):
    """One that comes together with the first is the same: `timeout` tells a process, and then its group."""
    monkeypatch.setattr(errors, "SAME_SECONDS", math.inf)
    with collected_signals() as received:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        monkeypatch.setattr(errors, "SAME_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_collection_within_another_has_what_came_before(monkeypatch):
    monkeypatch.setattr(errors, "SAME_SECONDS", -1.0)
    with collected_signals() as outer:
        os.kill(os.getpid(), signal.SIGINT)
        with collected_signals() as inner:
            assert inner is outer and inner == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
