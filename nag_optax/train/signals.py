"""SIGINT and SIGTERM, collected for a loop that looks at them between two chunks."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nag_optax.train.errors import Interrupted


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
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, receiver)
    except ValueError:  # not the main thread
        pass
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
            raise KeyboardInterrupt
        self.received.append(number)
        # Not print: the handler may have interrupted one.
        os.write(2, b"\nnag-optax: stopping soon; once more stops at once\n")
