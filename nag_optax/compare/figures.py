"""The figures of a comparison: curves and sensitivity, and paths over contours for a problem."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nag_optax.compare.report import LEAST_LOSS
from nag_optax.compare.spec import CONTENDERS, GOAL, contender
from nag_optax.plot import style
from nag_optax.plot.contours import draw_landscape, draw_path, draw_start, landscape, limits_of
from nag_optax.plot.curves import draw_runs
from nag_optax.train.rows import Optimizer, Style

_POINTS = 30  # of a curve, at most
_LEAST_GAP = 1e-12  # that is drawn
_DOT: Any = {"ms": 4.5, "mew": 0}


def styles_of(results: Sequence[dict[str, Any]]) -> dict[str, Style]:
    """The style of each contender. One without a style of its own takes one that is free."""
    styles = {result["name"]: contender(result["name"]).style for result in results}
    plain = Optimizer._field_defaults["style"]
    free = (row.style for row in CONTENDERS.values() if row.style not in (plain, *styles.values()))
    return {name: next(free, plain) if style == plain else style for name, style in styles.items()}


def draw_data(
    results: Sequence[dict[str, Any]], steps: np.ndarray, steps_per_epoch: int, title: str, path: Path
) -> None:
    """Training loss and test error by epoch, and the validation loss over the learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.0), layout="constrained")
    figure.suptitle(title)
    loss, error, sensitivity = figure.subplots(1, 3)
    epochs = _thinned((steps / steps_per_epoch)[None])[0]
    styles = styles_of(results)
    for result in results:
        if result["chosen"] is None:
            continue
        curves, own = result["chosen"]["curves"], styles[result["name"]]
        _draw_runs(loss, epochs, _thinned(np.array(curves["loss"], float)), result["label"], own)
        accuracy = np.array(curves["test_accuracy"], float)
        _draw_runs(error, epochs, _thinned(100 * (1 - accuracy)), result["label"], own)
    loss.set_title("loss while training")
    error.set_title("test error in %")
    for axes in (loss, error):
        axes.set(xlabel="epoch", xlim=(0, 1.02 * epochs[-1]), yscale="log")
        style.bare(axes)
        style.log_ticks(axes.yaxis, *axes.get_ylim())

    def validation_loss(trial: dict[str, Any]) -> float | None:
        return None if trial["diverged"] else max(float(np.mean(trial["validation_loss"])), LEAST_LOSS)

    draw_sensitivity(sensitivity, results, validation_loss, missing="diverged")
    sensitivity.set_title("validation loss at the end")
    _save(figure, figure, results, path)


def draw_problem(
    objective: Callable[[Any], Any],
    start: tuple[float, float],
    solution: tuple[float, float],
    results: Sequence[dict[str, Any]],
    title: str,
    path: Path,
) -> None:
    """The path of each optimizer over the contours, the gap by step, the steps it takes over the rate."""
    from matplotlib.figure import Figure

    columns = min(4, max(2, len(results)))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(12, 2.7 * rows + 4.2), layout="constrained")
    figure.suptitle(title)
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.7 * rows, 3.8))
    upper, lower = parts
    grid = upper.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    best = {r["name"]: r["trials"][r["best"]] for r in results if r["best"] is not None}
    paths = {name: np.array(trial["path"], float) for name, trial in best.items()}
    limits = limits_of(objective, [np.array([start]), *paths.values()], solution)
    ground = landscape(objective, *limits, solution)
    styles = styles_of(results)
    for axes, result in zip(grid, results, strict=False):
        draw_landscape(axes, ground, solution)
        axes.set_title(result["label"], fontsize=10)
        if result["name"] in paths:
            draw_path(axes, paths[result["name"]], styles[result["name"]].color)
        draw_start(axes, start)
    for axes in grid[len(results) :]:
        axes.set_visible(False)
    # The numbers below a column go with its lowest panel that is there.
    for axes in grid[max(0, len(results) - columns) : len(results)]:
        axes.tick_params(labelbottom=True)
    gap, sensitivity = lower.subplots(1, 2)
    least = 1.0
    for result in results:
        if result["name"] in best:
            values = np.array(best[result["name"]]["gap"], float)
            own = styles[result["name"]]
            _draw_runs(gap, np.arange(len(values)), values[None] / values[0], result["label"], own)
            least = min(least, values.min() / values[0])
    gap.set_title("gap to the minimum, as a share of that at the start")
    gap.set(xlabel="step", yscale="log", ylim=(max(_LEAST_GAP, least / 3), 10))
    style.bare(gap)

    def steps(trial: dict[str, Any]) -> float | None:
        return None if trial["diverged"] else trial["steps_to_gap"][GOAL]

    draw_sensitivity(sensitivity, results, steps, missing="not reached")
    sensitivity.set_title(f"steps until the gap stays below {GOAL} of that at the start")
    _save(figure, lower, results, path)


def _draw_runs(axes: Any, x: np.ndarray, runs: np.ndarray, label: str, own: Style) -> None:
    """Draws runs (seeds, steps) in the style of their optimizer."""
    draw_runs(axes, x, runs, own.color, ls=own.dashes, lw=1.6, label=label)


def _thinned(runs: np.ndarray) -> np.ndarray:
    """Means over neighbouring evaluations, to average out a batch's noise. The last one is not averaged."""
    earlier, last = runs[:, :-1], runs[:, -1:]
    window = max(1, -(-earlier.shape[1] // (_POINTS - 1)))
    starts = range(0, earlier.shape[1], window)
    return np.concatenate([*(earlier[:, i : i + window].mean(1, keepdims=True) for i in starts), last], 1)


def _save(figure: Any, legend_of: Any, results: Sequence[dict[str, Any]], path: Path) -> None:
    """Puts one legend below, and writes the figure."""
    from matplotlib.lines import Line2D

    handles, styles = [], styles_of(results)
    for result in results:
        color, dashes, marker = styles[result["name"]]
        line = Line2D([], [], color=color, ls=dashes, lw=1.6, marker=marker, label=result["label"], **_DOT)
        handles.append(line)
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
    values = [np.array([value(trial) for trial in result["trials"]], float) for result in results]
    losing = [bool(np.isnan(row).any()) for row in values]
    row = min(_ROW, _ROWS / max(1, sum(losing)))
    line = 1.0 - (_WORD + row * sum(losing) if any(losing) else 0.0)
    heights = 1.0 - _WORD - row * (np.cumsum(losing) - 0.5)
    styles = styles_of(results)
    above = {"transform": axes.get_xaxis_transform()}  # heights from 0 to 1
    for result, own, height in zip(results, values, heights, strict=True):
        color, dashes, marker = styles[result["name"]]
        look: dict[str, Any] = {"color": color, "marker": marker, **_DOT}
        rates, lost = np.array([trial["learning_rate"] for trial in result["trials"]]), np.isnan(own)
        if not lost.all():
            axes.plot(rates[~lost], own[~lost], ls=dashes, lw=1.4, **look)
        if lost.any():
            axes.plot(rates[lost], np.full(lost.sum(), height), ls="none", **look, **above)
        if (best := result["best"]) is not None:
            ring: dict[str, Any] = {"mfc": "none", "mec": color, "mew": 1.5, "ls": "none", "ms": 10}
            ring |= {"ms": 8, **above} if lost[best] else {}
            axes.plot(rates[best], height if lost[best] else own[best], "o", **ring)
    axes.set(xscale="log", yscale="log", xlabel="learning rate (○ best)")
    style.bare(axes)
    style.log_ticks(axes.xaxis, *axes.get_xlim())
    found = np.concatenate(values)
    found = found[~np.isnan(found)]
    if found.size:
        # The values end below the line.
        margin = max(1.1, (found.max() / found.min()) ** 0.06)
        low, high = found.min() / margin, found.max() * margin
        axes.set_ylim(low, low * (high / low) ** (1 / line))
        style.log_ticks(axes.yaxis, low, high)
        if any(losing):
            axes.axhline(high, color="0.3", lw=0.8)
    else:
        axes.set_yticks([])
        axes.set_yticks([], minor=True)
    if any(losing):
        word: dict[str, Any] = {"va": "center", "fontsize": "small", "color": "0.3"}
        axes.text(0.02, 1 - _WORD / 2, missing, transform=axes.transAxes, **word)
