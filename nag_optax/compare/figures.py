"""The figures of a comparison: curves and sensitivity, and paths over contours for a problem."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nag_optax.compare.problems import GAPS, Problem
from nag_optax.compare.search import LEAST_LOSS
from nag_optax.plot import style
from nag_optax.plot.contours import Landscape, draw_landscape, draw_path, draw_start, landscape
from nag_optax.plot.curves import draw_runs

_POINTS = 30  # of a curve, at most
_CROSSES = 0.8  # of the height of a panel: above are crosses

# The dashes tell them apart in black and white too.
_STYLES: dict[str, tuple[str, Any]] = {
    "sgd": (style.BLACK, (0, (1, 1))),
    "momentum": (style.ORANGE, (0, (5, 1))),
    "nag": (style.BLUE, "-"),
    "nag-restart": (style.SKY_BLUE, "-"),
    "adam": (style.VERMILION, (0, (5, 1))),
    "nadamw": (style.PURPLE, "-"),
    "adan": (style.GREEN, "-"),
    "muon": (style.GREY, "-"),
    "adamw": ("#8B2E00", (0, (1, 1))),
    "nadam": ("#8C4A74", (0, (5, 1))),
    "snoo": ("#B8A800", "-"),
    "ema_nesterov": ("#4B3FA8", "-"),
    "gpa": ("#004D38", "-"),
}


def draw_data(
    results: Sequence[dict[str, Any]], steps: np.ndarray, steps_per_epoch: int, title: str, path: Path
) -> None:
    """Training loss and test error by epoch, and the final loss over the learning rate."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    figure, (loss, error, sensitivity) = _figure((13, 5.0), title, 3)
    epochs = _thinned((steps / steps_per_epoch)[None])[0]
    for result in results:
        if result["best"] is None:
            continue
        curves = result["trials"][result["best"]]["curves"]
        _runs(loss, epochs, _thinned(_array(curves["loss"])), result)
        _runs(error, epochs, _thinned(100 * (1 - _array(curves["test_accuracy"]))), result)
    loss.set_title("loss while training")
    error.set_title("test error in %")
    for axes in (loss, error):
        axes.set_xlabel("epoch")
        _log_y(axes)
    error.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    error.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    error.yaxis.set_minor_formatter(NullFormatter())
    _sensitivity(
        sensitivity,
        results,
        lambda trial: None if trial["diverged"] else max(float(np.mean(trial["train_loss"])), LEAST_LOSS),
        missing="diverged",
    )
    sensitivity.set_title("training loss at the end (floor 1e-8)")
    _save(figure, results, path)


def draw_problem(problem: Problem, results: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """The path of each optimizer over the contours, the gap by step, the steps it takes over the rate."""
    from matplotlib.figure import Figure

    columns = min(4, max(2, len(results)))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(12, 2.7 * rows + 4.2), layout="constrained")
    figure.suptitle(title)
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.7 * rows, 3.8))
    upper, lower = parts
    grid = upper.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    ground = _landscape(problem)
    for axes, result in zip(grid, results, strict=False):
        draw_landscape(axes, ground, problem.solution)
        axes.set_title(result["label"], fontsize=10)
        if result["best"] is not None:
            path_of_best = _array(result["trials"][result["best"]]["path"])
            draw_path(axes, path_of_best, _STYLES[result["name"]][0])
        draw_start(axes, problem.start)
    for axes in grid[len(results) :]:
        axes.set_visible(False)
    # The numbers below a column go with its lowest panel that is there.
    for axes in grid[max(0, len(results) - columns) : len(results)]:
        axes.tick_params(labelbottom=True)
    gap, sensitivity = lower.subplots(1, 2)
    for result in results:
        if result["best"] is not None:
            values = _array(result["trials"][result["best"]]["gap"])
            _runs(gap, np.arange(len(values)), values[None] / values[0], result)
    gap.set_title("gap to the minimum, as a share of that at the start")
    gap.set_xlabel("step")
    gap.set_yscale("log")
    gap.set_ylim(1e-12, 10)
    style.bare(gap)
    _sensitivity(
        sensitivity,
        results,
        lambda trial: None if trial["diverged"] else trial["steps_to_gap"][f"{GAPS[-1]:g}"],
        missing="not reached",
    )
    sensitivity.set_title(f"steps until the gap stays below {GAPS[-1]:g} of that at the start")
    _save(lower, results, path, figure)


def _figure(size: tuple[float, float], title: str, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(1, columns)


def _runs(axes: Any, x: np.ndarray, runs: np.ndarray, result: dict[str, Any]) -> None:
    """(seeds, steps), in the style of the optimizer."""
    color, dashes = _STYLES[result["name"]]
    draw_runs(axes, x, runs, color, ls=dashes, lw=1.6, label=result["label"])


def _sensitivity(
    axes: Any,
    results: Sequence[dict[str, Any]],
    value: Callable[[dict[str, Any]], float | None],
    missing: str,
) -> None:
    """What a learning rate gives; a ring marks the best, a cross above what gives nothing."""
    above = axes.get_xaxis_transform()  # heights from 0 to 1: a row for each optimizer
    heights = np.linspace(0.97, _CROSSES, len(results))
    found = []
    for result, height in zip(results, heights, strict=True):
        color, dashes = _STYLES[result["name"]]
        points = [(trial["learning_rate"], value(trial)) for trial in result["trials"]]
        kept = [(rate, v) for rate, v in points if v is not None]
        found += [v for _, v in kept]
        if kept:
            axes.plot(*zip(*kept, strict=True), color=color, ls=dashes, marker="o", ms=3.5, lw=1.4)
        lost = [rate for rate, v in points if v is None]
        cross: dict[str, Any] = {"color": color, "ms": 5, "mew": 1.3, "ls": "none"}
        axes.plot(lost, [height] * len(lost), "x", transform=above, **cross)
        if result["best"] is not None:
            rate, v = points[result["best"]]
            ring: dict[str, Any] = {"ms": 9, "mfc": "none", "mec": color, "mew": 1.6, "ls": "none"}
            if v is None:
                axes.plot(rate, height, "o", transform=above, **ring)
            else:
                axes.plot(rate, v, "o", **ring)
    # The curves end below the crosses.
    low, high = (0.7 * min(found), 1.4 * max(found)) if found else (1.0, 10.0)
    axes.set_ylim(low, low * (high / low) ** (1 / (_CROSSES - 0.05)))
    axes.set_xscale("log")
    axes.set_xlabel(f"learning rate (○ best, × {missing})")
    _log_y(axes)


def _landscape(problem: Problem) -> Landscape:
    """A square around start and solution."""
    ends = np.array([problem.start, problem.solution])
    centre, reach = ends.mean(0), 0.8 * max(np.abs(np.subtract(*ends)).max(), 1e-3)
    x, y = ((c - reach, c + reach) for c in centre)
    return landscape(problem.objective, x, y, problem.solution)


def _thinned(runs: np.ndarray) -> np.ndarray:
    """Means over neighbouring evaluations, so that the noise of a batch does not hide the curves."""
    window = -(-runs.shape[1] // _POINTS)
    starts = range(0, runs.shape[1], window)
    return np.stack([runs[:, i : i + window].mean(1) for i in starts], 1)


def _array(values: Any) -> np.ndarray:
    return np.array(values, float)


def _log_y(axes: Any) -> None:
    axes.set_yscale("log")
    style.bare(axes)


def _save(legend_of: Any, results: Sequence[dict[str, Any]], path: Path, figure: Any = None) -> None:
    """One legend below."""
    from matplotlib.lines import Line2D

    figure = figure or legend_of
    handles = [
        Line2D([], [], color=_STYLES[r["name"]][0], ls=_STYLES[r["name"]][1], lw=2, label=r["label"])
        for r in results
    ]
    legend_of.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    style.save(figure, path, dpi=130)
