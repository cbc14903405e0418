"""What a person sees while the runs go on: one bar over all of them, a line for each optimizer."""

from types import TracebackType

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


class CompareProgress:
    """Use as a context manager around the comparison."""

    def __init__(self, console: Console, num_runs: int):
        self._console = console
        self._total = num_runs
        self._done = 0.0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("runs"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self._task = self._bar.add_task("compiling", total=num_runs)

    def __enter__(self) -> "CompareProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def describe(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def add_runs(self, count: int) -> None:
        """The search goes on: there are more runs than it began with."""
        self._total += count
        self._bar.update(self._task, total=self._total)

    def advance(self, runs: float) -> None:
        # Rounded: shares of a run that add up to 3 may end a rounding below it.
        self._done = round(self._done + runs, 6)
        self._bar.update(self._task, completed=self._done)

    def say(self, line: str) -> None:
        self._bar.console.print(line, highlight=False, soft_wrap=True)
