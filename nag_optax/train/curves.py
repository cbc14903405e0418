"""The numbers of each epoch as curves: a figure, and the events of --tensorboard."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nag_optax.train.errors import InputError


def draw_curves(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Writes `curves.png` from the rows of `metrics.jsonl`; the file appears complete or not at all."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from nag_optax.plot import style

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    marker = "o" if len(rows) <= 30 else None
    for axes, name, scale in ((loss, "loss", 1.0), (accuracy, "accuracy", 100.0)):
        for split, color, label, line in (
            ("train", style.BLUE, "train, while training", "--"),
            ("validation", style.GREEN, "validation", "-."),
            ("test", style.VERMILION, "test", "-"),
        ):
            values = [row[f"{split}_{name}"] for row in rows]
            if None not in values:  # There is no test split with --train-only.
                values = [scale * value for value in values]
                axes.plot(epochs, values, line, color=color, label=label, marker=marker, ms=4)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        style.bare(axes)
    loss.set_yscale("log")
    loss.set_title("cross-entropy loss")
    accuracy.set_title("accuracy in %")
    accuracy.legend(frameon=False, loc="best")
    figure.suptitle(title)
    style.save(figure, path, dpi=150)


EVENTS = "events.out.tfevents.*"


def check_installed() -> None:
    """Refuses a run whose events cannot be written without the extra."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError(
            "--tensorboard: needs tensorboardX: install the extra, pip install 'nag_optax[tensorboard]'"
        )


@contextmanager
def event_file(folder: Path, step: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Opens a file of events, and gives a function that adds a row of the metrics to it.

    A run that goes on at `step` takes the place of later steps in earlier files.
    """
    from tensorboardX import SummaryWriter

    # The library names a file after the second in which it begins, and overwrites a file of that name.
    with SummaryWriter(str(folder), purge_step=step + 1, filename_suffix=f".{step:012}") as writer:

        def add(row: dict[str, Any]) -> None:
            for name, value in row.items():
                if name != "step" and value is not None:
                    writer.add_scalar(name, value, row["step"])
            writer.flush()

        yield add
