"""What a person sees while the runs go on: one bar over all of them, a line for each optimizer."""

from rich.console import Console

from nag_optax.train.bar import LiveBar


class CompareProgress(LiveBar):
    """Use as a context manager around the comparison."""

    def __init__(self, console: Console, num_runs: int):
        super().__init__(console, "runs", total=num_runs)
        self._total = num_runs
        self._done = 0.0

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
