"""The figures of a comparison: curves and sensitivity, and paths over contours for a problem."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nag_optax.compare.report import LEAST_LOSS
from nag_optax.compare.spec import CONTENDERS, GAPS
from nag_optax.plot import style
from nag_optax.plot.contours import draw_landscape, draw_path, draw_start, landscape, limits_of
from nag_optax.plot.curves import draw_runs

if TYPE_CHECKING:
    from nag_optax.compare.problems import Problem

_POINTS = 30  # of a curve, at most
_LEAST_GAP = 1e-12  # that is drawn


def draw_data(
    results: Sequence[dict[str, Any]], steps: np.ndarray, steps_per_epoch: int, title: str, path: Path
) -> None:
    """Training loss and test error by epoch, and the validation loss over the learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.0), layout="constrained")
    figure.suptitle(title)
    loss, error, sensitivity = figure.subplots(1, 3)
    epochs = _thinned((steps / steps_per_epoch)[None])[0]
    for result in results:
        if result["chosen"] is None:
            continue
        curves = result["chosen"]["curves"]
        _runs(loss, epochs, _thinned(_array(curves["loss"])), result)
        _runs(error, epochs, _thinned(100 * (1 - _array(curves["test_accuracy"]))), result)
    loss.set_title("loss while training")
    error.set_title("test error in %")
    for axes in (loss, error):
        axes.set_xlabel("epoch")
        axes.set_xlim(0, 1.02 * epochs[-1])
        axes.set_yscale("log")
        style.bare(axes)
        style.log_ticks(axes.yaxis, *axes.get_ylim())
    draw_sensitivity(
        sensitivity,
        results,
        lambda trial: (
            None if trial["diverged"] else max(float(np.mean(trial["validation_loss"])), LEAST_LOSS)
        ),
        missing="diverged",
    )
    sensitivity.set_title("validation loss at the end")
    _save(figure, results, path)


def draw_problem(problem: "Problem", results: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """The path of each optimizer over the contours, the gap by step, the steps it takes over the rate."""
    from matplotlib.figure import Figure

    columns = min(4, max(2, len(results)))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(12, 2.7 * rows + 4.2), layout="constrained")
    figure.suptitle(title)
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.7 * rows, 3.8))
    upper, lower = parts
    grid = upper.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    paths = [
        None if result["best"] is None else _array(result["trials"][result["best"]]["path"])
        for result in results
    ]
    drawn = [np.array([problem.start]), *(path for path in paths if path is not None)]
    limits = limits_of(problem.objective, drawn, problem.solution)
    ground = landscape(problem.objective, *limits, problem.solution)
    for axes, result, path_of_best in zip(grid, results, paths, strict=False):
        draw_landscape(axes, ground, problem.solution)
        axes.set_title(result["label"], fontsize=10)
        if path_of_best is not None:
            draw_path(axes, path_of_best, CONTENDERS[result["name"]].style.color)
        draw_start(axes, problem.start)
    for axes in grid[len(results) :]:
        axes.set_visible(False)
    # The numbers below a column go with its lowest panel that is there.
    for axes in grid[max(0, len(results) - columns) : len(results)]:
        axes.tick_params(labelbottom=True)
    gap, sensitivity = lower.subplots(1, 2)
    least = 1.0
    for result in results:
        if result["best"] is not None:
            values = _array(result["trials"][result["best"]]["gap"])
            _runs(gap, np.arange(len(values)), values[None] / values[0], result)
            least = min(least, values.min() / values[0])
    gap.set_title("gap to the minimum, as a share of that at the start")
    gap.set_xlabel("step")
    gap.set_yscale("log")
    gap.set_ylim(max(_LEAST_GAP, least / 3), 10)
    style.bare(gap)
    draw_sensitivity(
        sensitivity,
        results,
        lambda trial: None if trial["diverged"] else trial["steps_to_gap"][f"{GAPS[-1]:g}"],
        missing="not reached",
    )
    sensitivity.set_title(f"steps until the gap stays below {GAPS[-1]:g} of that at the start")
    _save(lower, results, path, figure)


def _runs(axes: Any, x: np.ndarray, runs: np.ndarray, result: dict[str, Any]) -> None:
    """Draws runs (seeds, steps) in the style of their optimizer."""
    color, dashes, _ = CONTENDERS[result["name"]].style
    draw_runs(axes, x, runs, color, ls=dashes, lw=1.6, label=result["label"])


def _thinned(runs: np.ndarray) -> np.ndarray:
    """Means over neighbouring evaluations, to average out a batch's noise. The last one is not averaged."""
    earlier, last = runs[:, :-1], runs[:, -1:]
    window = max(1, -(-earlier.shape[1] // (_POINTS - 1)))
    starts = range(0, earlier.shape[1], window)
    return np.concatenate([*(earlier[:, i : i + window].mean(1, keepdims=True) for i in starts), last], 1)


def _array(values: Any) -> np.ndarray:
    return np.array(values, float)


def _save(legend_of: Any, results: Sequence[dict[str, Any]], path: Path, figure: Any = None) -> None:
    """Puts one legend below, and writes the figure."""
    from matplotlib.lines import Line2D

    figure = figure or legend_of
    handles = []
    for result in results:
        color, dashes, marker = CONTENDERS[result["name"]].style
        dot: dict[str, Any] = {"marker": marker, "ms": 4.5, "mew": 0}
        handles.append(Line2D([], [], color=color, ls=dashes, lw=1.6, label=result["label"], **dot))
    legend_of.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    style.save(figure, path, dpi=130)


# Shares of the height of the panel: the word above the line, a row below it, all rows at most.
_WORD, _ROW, _ROWS = 0.1, 0.05, 0.3


def draw_sensitivity(
    axes: Any,
    results: Sequence[dict[str, Any]],
    value: Callable[[dict[str, Any]], float | None],
    missing: str,
) -> None:
    """Values over the learning rate. A ring marks the best; trials without a value stand above a line."""
    losers = [r for r in results if any(value(trial) is None for trial in r["trials"])]
    row = min(_ROW, _ROWS / max(1, len(losers)))
    line = 1.0 - (_WORD + row * len(losers) if losers else 0.0)
    heights = {id(r): 1.0 - _WORD - row * (i + 0.5) for i, r in enumerate(losers)}
    above = axes.get_xaxis_transform()  # heights from 0 to 1
    found = []
    for result in results:
        color, dashes, marker = CONTENDERS[result["name"]].style
        dot: dict[str, Any] = {"color": color, "marker": marker, "ms": 4.5, "mew": 0}
        points = [(trial["learning_rate"], value(trial)) for trial in result["trials"]]
        kept = [(rate, v) for rate, v in points if v is not None]
        lost = [rate for rate, v in points if v is None]
        found += [v for _, v in kept]
        if kept:
            axes.plot(*zip(*kept, strict=True), ls=dashes, lw=1.4, **dot)
        if lost:
            axes.plot(lost, [heights[id(result)]] * len(lost), ls="none", transform=above, **dot)
        if result["best"] is not None:
            rate, v = points[result["best"]]
            ring: dict[str, Any] = {"mfc": "none", "mec": color, "mew": 1.5, "ls": "none"}
            if v is None:
                axes.plot(rate, heights[id(result)], "o", ms=8, transform=above, **ring)
            else:
                axes.plot(rate, v, "o", ms=10, **ring)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("learning rate (○ best)")
    style.bare(axes)
    style.log_ticks(axes.xaxis, *axes.get_xlim())
    if found:
        # The values end below the line.
        margin = max(1.1, (max(found) / min(found)) ** 0.06)
        low, high = min(found) / margin, max(found) * margin
        axes.set_ylim(low, low * (high / low) ** (1 / line))
        style.log_ticks(axes.yaxis, low, high)
        if losers:
            axes.axhline(high, color="0.3", lw=0.8)
    else:
        axes.set_yticks([])
        axes.set_yticks([], minor=True)
    if losers:
        axes.text(
            0.02, 1 - _WORD / 2, missing, transform=axes.transAxes, va="center", fontsize="small", color="0.3"
        )
