"""The figures of a comparison: curves and sensitivity, and paths over contours for a problem."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nag_optax.compare.problems import Problem
from nag_optax.compare.search import LEAST_LOSS

_POINTS = 30  # of a curve, at most

# Told apart by colour-blind readers (Okabe and Ito), the dashes in black and white too.
_STYLES: dict[str, tuple[str, Any]] = {
    "sgd": ("#000000", (0, (1, 1))),
    "momentum": ("#E69F00", (0, (5, 1))),
    "nag": ("#0072B2", "-"),
    "nag-restart": ("#56B4E9", "-"),
    "adam": ("#D55E00", (0, (5, 1))),
    "nadamw": ("#CC79A7", "-"),
    "adan": ("#009E73", "-"),
    "muon": ("#7F7F7F", "-"),
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
        _band(loss, epochs, _thinned(_array(curves["loss"])), result)
        _band(error, epochs, _thinned(100 * (1 - _array(curves["test_accuracy"]))), result)
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
    )
    sensitivity.set_title("training loss at the end (floor 1e-8)")
    _save(figure, results, path)


def draw_problem(problem: Problem, results: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """The path of each optimizer over the contours, the gap by step, the final gap over the rate."""
    from matplotlib.figure import Figure

    columns = min(4, max(2, len(results)))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(12, 2.7 * rows + 4.2), layout="constrained")
    figure.suptitle(title)
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.7 * rows, 3.8))
    upper, lower = parts
    grid = upper.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    x, y, heights = _landscape(problem)
    for axes, result in zip(grid, results, strict=False):
        axes.contour(x, y, heights, levels=14, colors="0.8", linewidths=0.7, linestyles="solid")
        axes.plot(*problem.solution, marker="*", color="#E69F00", ms=11, mec="black", mew=0.5, zorder=3)
        axes.set_title(result["label"], fontsize=10)
        if result["best"] is not None:
            points = _array(result["trials"][result["best"]]["path"])
            color, _ = _STYLES[result["name"]]
            axes.plot(points[:, 0], points[:, 1], "-o", color=color, lw=1, ms=2.2, zorder=2)
        axes.plot(*problem.start, marker="o", color="white", mec="black", ms=6, zorder=3)
        axes.set_xlim(x[0], x[-1])
        axes.set_ylim(y[0], y[-1])
    for axes in grid[len(results) :]:
        axes.set_visible(False)
    gap, sensitivity = lower.subplots(1, 2)
    for result in results:
        if result["best"] is not None:
            values = _array(result["trials"][result["best"]]["gap"])
            _line(gap, np.arange(len(values)), values / values[0], result)
    gap.set_title("gap to the minimum, as a share of that at the start")
    gap.set_xlabel("step")
    gap.set_yscale("log")
    gap.set_ylim(1e-12, 10)
    _bare(gap)
    _sensitivity(
        sensitivity,
        results,
        lambda trial: None if trial["diverged"] else max(trial["final_gap"], 1e-12),
    )
    sensitivity.set_title("gap at the end (below 1e-12 drawn there)")
    _save(lower, results, path, figure)


def _figure(size: tuple[float, float], title: str, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(1, columns)


def _line(axes: Any, x: np.ndarray, y: np.ndarray, result: dict[str, Any]) -> None:
    color, dashes = _STYLES[result["name"]]
    axes.plot(x, y, color=color, ls=dashes, lw=1.6, label=result["label"])


def _band(axes: Any, x: np.ndarray, runs: np.ndarray, result: dict[str, Any]) -> None:
    """The mean over the seeds, and the range from the lowest to the highest."""
    _line(axes, x, runs.mean(0), result)
    if len(runs) > 1:
        color, _ = _STYLES[result["name"]]
        axes.fill_between(x, runs.min(0), runs.max(0), color=color, alpha=0.15, lw=0)


def _sensitivity(axes: Any, results: Sequence[dict[str, Any]], value: Any) -> None:
    """A final value over the learning rate; a ring marks the best, a cross at the top what diverged."""
    finite = []
    for result in results:
        color, dashes = _STYLES[result["name"]]
        kept = [(t["learning_rate"], v) for t in result["trials"] if (v := value(t)) is not None]
        finite += [v for _, v in kept]
        if kept:
            axes.plot(*zip(*kept, strict=True), color=color, ls=dashes, marker="o", ms=3.5, lw=1.4)
        if result["best"] is not None:
            best = result["trials"][result["best"]]
            axes.plot(
                best["learning_rate"], value(best), "o", ms=9, mfc="none", mec=color, mew=1.6, ls="none"
            )
    axes.set_xscale("log")
    axes.set_xlabel("learning rate (○ best, × diverged)")
    _log_y(axes)
    if finite:
        top = 10 ** (math.log10(max(finite)) + 0.08 * math.log10(max(finite) / min(finite) + 1) + 0.1)
        axes.set_ylim(top=2 * top)
        for result in results:
            rates = [t["learning_rate"] for t in result["trials"] if t["diverged"]]
            color = _STYLES[result["name"]][0]
            axes.plot(rates, [top] * len(rates), "x", color=color, ms=7, mew=1.6, ls="none")


def _landscape(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square around start and solution, and the logarithm of the gap there."""
    import jax
    import jax.numpy as jnp

    ends = np.array([problem.start, problem.solution])
    centre, reach = ends.mean(0), 0.8 * max(np.abs(np.subtract(*ends)).max(), 1e-3)
    x, y = (np.linspace(c - reach, c + reach, 201) for c in centre)
    points = jnp.asarray(np.stack(np.meshgrid(x, y), -1))
    heights = np.asarray(jax.vmap(jax.vmap(problem.objective))(points))
    gap = heights - float(problem.objective(jnp.asarray(problem.solution)))
    return x, y, np.log10(np.maximum(gap, 1e-6 * gap.max()))


def _thinned(runs: np.ndarray) -> np.ndarray:
    """Means over neighbouring evaluations, so that the noise of a batch does not hide the curves."""
    window = -(-runs.shape[1] // _POINTS)
    starts = range(0, runs.shape[1], window)
    return np.stack([runs[:, i : i + window].mean(1) for i in starts], 1)


def _array(values: Any) -> np.ndarray:
    return np.array(values, float)


def _log_y(axes: Any) -> None:
    axes.set_yscale("log")
    _bare(axes)


def _bare(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _save(legend_of: Any, results: Sequence[dict[str, Any]], path: Path, figure: Any = None) -> None:
    """One legend below; the file appears complete or not at all."""
    from matplotlib.lines import Line2D

    figure = figure or legend_of
    handles = [
        Line2D([], [], color=_STYLES[r["name"]][0], ls=_STYLES[r["name"]][1], lw=2, label=r["label"])
        for r in results
    ]
    legend_of.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=130, format="png")
    os.replace(partial, path)
