"""The progress of a run: a live bar in a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from nag_optax.train.bar import LiveBar


class RunProgress(LiveBar):
    """Use as a context manager around the run; `step_to` after each chunk, `epoch` after each epoch."""

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

    def step_to(self, step: int, epoch: int, loss: float) -> None:
        self.update(
            self.task,
            completed=step,
            description=f"epoch {epoch}/{self._num_epochs}",
            loss=f"loss {shown(loss)}",
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """Prints the line of an epoch above the bar."""
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
    table = Table(show_header=False, title="Result", title_justify="left")
    table.add_column(style="bold")
    for row in _rows(summary):
        table.add_row(*row)
    table.add_row("saved in", run_dir)
    return table


def _rows(summary: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    accuracies = {"train accuracy": "train", "test accuracy": "test", "validation": "validation"}
    for name, split in accuracies.items():
        if (accuracy := summary.get(f"{split}_accuracy")) is not None:
            yield name, f"{accuracy:.2%}", f"loss {shown(summary[f'{split}_loss'])}"
    if "best_epoch" in summary:
        best = f"validation accuracy {summary['best_validation_accuracy']:.2%}"
        yield "best", f"epoch {summary['best_epoch']}", best
    speed, seconds = f"{summary['steps_per_second']:.0f} steps/s", summary["seconds_per_epoch"]
    yield "speed", speed, f"{seconds:.2f} s an epoch"
    yield "time", f"{summary['wall_seconds']:.1f} s", f"{summary['compile_seconds']:.1f} s for compiling"
    frozen = f", {summary['frozen_parameters']:,} frozen" if "frozen_parameters" in summary else ""
    yield "model", f"{summary['parameters']:,} parameters{frozen}", f"{summary['steps']:,} steps"
    if "zero_units" in summary:
        units, zero = summary["units"], summary["zero_units"]
        layers = ", ".join(f"{name} {zero[name]} of {count}" for name, count in units.items())
        yield "units at zero", f"{sum(zero.values())} of {sum(units.values())}", layers
        split = "train" if summary["pruned_test_accuracy"] is None else "test"
        accuracy = f"{split} accuracy {summary[f'pruned_{split}_accuracy']:.2%}"
        yield "without them", f"{summary['pruned_parameters']:,} parameters", accuracy
