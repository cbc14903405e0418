"""The figure of a run: loss and accuracy by epoch."""

from pathlib import Path
from typing import Any

from nag_optax.plot import style
from nag_optax.plot.style import BLUE, GREEN, VERMILION


def draw_curves(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Writes `curves.png` from the rows of `metrics.jsonl`; the file appears complete or not at all."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for axes, name, scale in ((loss, "loss", 1.0), (accuracy, "accuracy", 100.0)):
        for split, color, label, line in (
            ("train", BLUE, "train, while training", "--"),
            ("validation", GREEN, "validation", "-."),
            ("test", VERMILION, "test", "-"),
        ):
            values = [row[f"{split}_{name}"] for row in rows]
            if None not in values:  # There is no test split with --train-only.
                marker = "o" if len(rows) <= 30 else None
                axes.plot(
                    epochs,
                    [scale * v for v in values],
                    line,
                    color=color,
                    label=label,
                    marker=marker,
                    ms=4,
                )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if len(rows) == 1:
            axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
        style.bare(axes)
    loss.set_yscale("log")
    loss.set_title("cross-entropy loss")
    accuracy.set_title("accuracy in %")
    accuracy.legend(frameon=False, loc="best")
    figure.suptitle(title)
    style.save(figure, path, dpi=150)
