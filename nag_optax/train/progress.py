"""The progress of a run: a live bar in a terminal, plain lines elsewhere; and the table that ends it."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from nag_optax.train.errors import collected_signals, interrupted


def say(console: Console, line: str) -> None:
    """Prints one line without wrapping, colours or markup."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def busy(console: Console, what: str) -> AbstractContextManager[Any]:
    """Shows a spinner with these words in a terminal."""
    return console.status(what) if console.is_interactive else nullcontext()


_SILENCE = 60.0
"""Seconds after which a run without a terminal says how far it is."""


class LiveBar(Progress):
    """A bar around the run: a context manager that shows `after` behind the count, and `beside` below."""

    def __init__(self, console: Console, after: str, beside: Callable[[], Any] | None = None, **task: Any):
        self._beside, self._said = beside, time.perf_counter()
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
            disable=not console.is_interactive,
            expand=True,
        )
        self.task = self.add_task(task.pop("description", "compiling"), **task)

    def get_renderables(self) -> Iterable[Any]:
        yield from super().get_renderables()
        if self._beside is not None:
            yield self._beside()

    def start(self) -> None:
        super().start()
        if not self.console.is_interactive:  # In a terminal the bar says so.
            self.say(self.tasks[self.task].description)

    def stop(self) -> None:
        if self.console.is_interactive:  # Elsewhere old releases of Rich leave an empty line.
            super().stop()

    def update(self, task_id: Any, **changes: Any) -> None:
        super().update(task_id, **changes)
        if not self.console.is_interactive and time.perf_counter() - self._said > _SILENCE:
            (task,) = self.tasks
            self.say(f"{task.description}: {task.percentage:.0f} %")

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        self._said = time.perf_counter()
        say(self.console, line)


def watched(console: Console, items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """The items, with a bar once they take two seconds, or a line where there is no terminal."""
    started, shown = time.perf_counter(), False
    bar = Progress(console=console, transient=True, disable=not console.is_interactive)
    task = bar.add_task(what, total=total)
    with collected_signals() as interrupts:
        try:
            for done, item in enumerate(items):
                if interrupts:
                    raise interrupted(interrupts, f" while {what}")
                if not shown and time.perf_counter() - started > 2:
                    shown = True
                    bar.start()
                    if not console.is_interactive:
                        console.print(f"{what}: {total}", highlight=False)
                bar.update(task, completed=done)
                yield item
        finally:
            if shown and console.is_interactive:  # Elsewhere it would leave an empty line.
                bar.stop()


def epoch_line(row: dict[str, Any], num_epochs: int) -> str:
    """The line of an epoch, which fits a terminal of 80 columns."""
    measured = (("val", row["validation_accuracy"]), ("test", row["test_accuracy"]))
    others = "".join(f"  {name} {value:7.2%}" for name, value in measured if value is not None)
    return (
        f"epoch {row['epoch']:>3}/{num_epochs}  loss {shown(row['train_loss']):>7}  "
        f"train {row['train_accuracy']:7.2%}{others}  {row['seconds']:6.2f} s"
    )


def shown(loss: float) -> str:
    """A loss in at most seven characters, in scientific notation where it is very small or large."""
    if loss == 0 or 1e-3 <= loss < 10:
        return f"{loss:.4f}"
    return f"{loss:.2f}" if 10 <= loss < 1000 else f"{loss:.1e}"


def summary_table(summary: dict[str, Any], run_dir: str) -> Table:
    """The table that ends a run."""
    table = Table(show_header=False, title="Result", title_justify="left")
    table.add_column(style="bold")
    accuracies = {"train accuracy": "train", "test accuracy": "test", "validation": "validation"}
    for name, split in accuracies.items():
        if (accuracy := summary.get(f"{split}_accuracy")) is not None:
            table.add_row(name, f"{accuracy:.2%}", f"loss {shown(summary[f'{split}_loss'])}")
    if "best_epoch" in summary:
        best = f"validation accuracy {summary['best_validation_accuracy']:.2%}"
        table.add_row("best", f"epoch {summary['best_epoch']}", best)
    speed = summary["steps_per_second"]
    steps = f"{speed:.0f} steps/s" if speed >= 10 else f"{speed:.2g} steps/s"
    table.add_row("speed", steps, f"{summary['seconds_per_epoch']:.2f} s an epoch")
    compiling = f"{summary['compile_seconds']:.1f} s for compiling"
    table.add_row("time", f"{summary['wall_seconds']:.1f} s", compiling)
    frozen = f", {summary['frozen_parameters']:,} frozen" if "frozen_parameters" in summary else ""
    table.add_row("model", f"{summary['parameters']:,} parameters{frozen}", f"{summary['steps']:,} steps")
    if "zero_units" in summary:
        units, zero = summary["units"], summary["zero_units"]
        layers = ", ".join(f"{name} {zero[name]} of {count}" for name, count in units.items())
        table.add_row("units at zero", f"{sum(zero.values())} of {sum(units.values())}", layers)
        split = "train" if summary["pruned_test_accuracy"] is None else "test"
        accuracy = f"{split} accuracy {summary[f'pruned_{split}_accuracy']:.2%}"
        table.add_row("without them", f"{summary['pruned_parameters']:,} parameters", accuracy)
    table.add_row("saved in", escape(run_dir))
    return table
