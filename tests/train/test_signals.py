"""Signals are collected, and a second one acts at once."""

import os
import signal

import pytest

from nag_optax.train.errors import collected_signals


def test_a_second_signal_acts_at_once():
    with collected_signals() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_collection_within_another_has_what_came_before():
    with collected_signals() as outer:
        os.kill(os.getpid(), signal.SIGINT)
        with collected_signals() as inner:
            assert inner is outer and inner == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
