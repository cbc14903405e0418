"""The live bar of a run in a terminal, and lines elsewhere."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nag_optax.train.signals import collected_signals, interrupted


def say(console: Console, line: str) -> None:
    """Prints one line without wrapping, colours or markup."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def busy(console: Console, what: str) -> Iterator[None]:
    """Shows a spinner with these words in a terminal, once the work takes half a second."""
    status = console.status(what)
    later = threading.Timer(0.5, status.start)
    if console.is_terminal:
        later.start()
    try:
        yield
    finally:
        later.cancel()
        if console.is_terminal:
            later.join()
        status.stop()


class LiveBar(Progress):
    """A bar around the run: a context manager that shows `after` behind the count, and `beside` below."""

    def __init__(self, console: Console, after: str, beside: Callable[[], Any] | None = None, **task: Any):
        self._beside = beside
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn(after),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self.task = self.add_task("compiling", **task)

    def get_renderables(self) -> Iterable[Any]:
        yield from super().get_renderables()
        if self._beside is not None:
            yield self._beside()

    def start(self) -> None:
        super().start()
        if not self.console.is_terminal:  # In a terminal the bar says so.
            self.say("compiling")

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        say(self.console, line)


def watched(console: Console, items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """The items, with a bar once they take two seconds, or a line where there is no terminal."""
    started, shown = time.perf_counter(), False
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=total)
    with collected_signals() as interrupts:
        try:
            for done, item in enumerate(items):
                if interrupts:
                    raise interrupted(interrupts, f" while {what}")
                if not shown and time.perf_counter() - started > 2:
                    shown = True
                    bar.start()
                    if not console.is_terminal:
                        console.print(f"{what}: {total}", highlight=False)
                bar.update(task, completed=done)
                yield item
        finally:
            if shown and console.is_terminal:  # Elsewhere it would leave an empty line.
                bar.stop()
