"""The progress that a person sees: a live bar in a terminal, plain lines elsewhere."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from nag_optax.train.bar import LiveBar


class RunProgress(LiveBar):
    """Use as a context manager around the run; `advance` after each chunk, `epoch` after each epoch."""

    def __init__(
        self,
        console: Console,
        num_epochs: int,
        steps_per_epoch: int,
        start_step: int,
        beside: Callable[[], Any] | None = None,
    ):
        task = {"total": num_epochs * steps_per_epoch, "completed": start_step, "loss": ""}
        super().__init__(console, "{task.fields[loss]}", beside, **task)
        self._num_epochs = num_epochs

    def advance(self, step: int, epoch: int, loss: float) -> None:
        self._bar.update(
            self._task,
            completed=step,
            description=f"epoch {epoch}/{self._num_epochs}",
            loss=f"loss {shown(loss)}",
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """One line an epoch, above the bar."""
        measured = ((name, row[f"{name}_accuracy"]) for name in ("validation", "test"))
        others = "".join(f"  {name} {value:7.2%}" for name, value in measured if value is not None)
        self.say(
            f"epoch {row['epoch']:>3}/{self._num_epochs}  loss {shown(row['train_loss']):>7}  "
            f"train {row['train_accuracy']:7.2%}{others}  {row['seconds']:6.2f} s"
        )


def shown(loss: float) -> str:
    """A loss in at most seven characters, in scientific notation where it is very small or large."""
    if loss == 0 or 1e-3 <= loss < 10:
        return f"{loss:.4f}"
    return f"{loss:.2f}" if 10 <= loss < 1000 else f"{loss:.1e}"


def summary_table(summary: dict[str, Any], run_dir: str) -> Table:
    """The table that ends a run."""

    def percent(value: float | None) -> str:
        return "not evaluated" if value is None else f"{value:.2%}"

    def loss(value: float | None) -> str:
        return "" if value is None else shown(value)

    table = Table(show_header=False, title="Result", title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    table.add_column()
    table.add_row("train accuracy", percent(summary["train_accuracy"]), f"loss {loss(summary['train_loss'])}")
    if summary["test_accuracy"] is not None:
        table.add_row(
            "test accuracy", percent(summary["test_accuracy"]), f"loss {loss(summary['test_loss'])}"
        )
    if "best_epoch" in summary:
        table.add_row(
            "validation", percent(summary["validation_accuracy"]), f"loss {loss(summary['validation_loss'])}"
        )
        table.add_row(
            "best",
            f"epoch {summary['best_epoch']}",
            f"validation accuracy {percent(summary['best_validation_accuracy'])}",
        )
    table.add_row(
        "speed",
        f"{summary['steps_per_second']:.0f} steps/s",
        f"{summary['seconds_per_epoch']:.2f} s an epoch",
    )
    table.add_row(
        "time", f"{summary['wall_seconds']:.1f} s", f"{summary['compile_seconds']:.1f} s for compiling"
    )
    frozen = f", {summary['frozen_parameters']:,} frozen" if "frozen_parameters" in summary else ""
    table.add_row("model", f"{summary['parameters']:,} parameters{frozen}", f"{summary['steps']:,} steps")
    if "zero_units" in summary:
        _add_pruned(table, summary, percent)
    table.add_row("saved in", run_dir, "")
    return table


def _add_pruned(table: Table, summary: dict[str, Any], percent: Callable[[float | None], str]) -> None:
    units, zero = summary["units"], summary["zero_units"]
    layers = ", ".join(f"{name} {zero[name]} of {count}" for name, count in units.items())
    table.add_row("units at zero", f"{sum(zero.values())} of {sum(units.values())}", layers)
    split = "train" if summary["pruned_test_accuracy"] is None else "test"
    table.add_row(
        "without them",
        f"{summary['pruned_parameters']:,} parameters",
        f"{split} accuracy {percent(summary[f'pruned_{split}_accuracy'])}",
    )
