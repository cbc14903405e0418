"""Errors that a person can mend, and the signals that end a run: the command line shows each as one line."""

import os
import signal
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class TrainError(Exception):
    """Ends the command with one line; `exit_code` is what the shell sees."""

    exit_code = 1


class InputError(TrainError):
    """An argument or a file is wrong; the message names it, its value and what is allowed."""

    exit_code = 2


class StreamError(InputError):
    """A batch cannot be read; the step before it is whole."""


class Diverged(TrainError):
    """The loss became NaN or infinite; the message says where, and what is kept."""


class Interrupted(TrainError):
    """A signal ended the run after a checkpoint; the message says how to resume."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def reason(error: Exception) -> str:
    """Why, in one short line. An OSError repeats the file that we name; others hold whole arrays."""
    return getattr(error, "strerror", None) or textwrap.shorten(str(error), 400, placeholder=" …")


SAME_SECONDS = 0.3
"""A second signal within this time is the first one: `timeout` tells a process, and then its group."""


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM. A second signal acts at once. Outside the main thread none is collected.

    Within another collection the list is the outer one.
    """
    outer = signal.getsignal(signal.SIGINT)
    if isinstance(outer, _Receiver):
        yield outer.received
        return
    receiver = _Receiver()
    previous = {}
    with suppress(ValueError):  # not the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, receiver)
    try:
        yield receiver.received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def interrupted(received: list[int], what: str) -> Interrupted:
    """The error that ends a command by the first of these signals. `what` follows the signal's name."""
    return Interrupted(f"stopped by {signal.Signals(received[0]).name}{what}", received[0])


class _Receiver:
    def __init__(self) -> None:
        self.received: list[int] = []

    def __call__(self, number: int, frame: Any) -> None:
        del frame
        if self.received:
            if time.monotonic() - self._first > SAME_SECONDS:
                raise KeyboardInterrupt
            return
        self._first = time.monotonic()
        self.received.append(number)
        # Not print: the handler may have interrupted one.
        os.write(2, b"\nnag-optax: stopping soon; once more stops at once\n")
