"""SIGINT and SIGTERM as something that a loop looks at between two chunks."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM; a second one acts at once. Outside the main thread, none is collected."""
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        del frame
        if received:
            raise KeyboardInterrupt
        received.append(number)
        # Not print: the handler may have interrupted one.
        os.write(2, b"\nnag-optax: stopping after these steps; once more stops at once\n")

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, receive)
    except ValueError:  # not the main thread
        pass
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
