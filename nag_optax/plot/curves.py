"""Convergence: curves over the steps, and the bounds that were proven for them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nag_optax.plot.checks import as_numbers
from nag_optax.plot.style import bare, check_mapping, colors_of, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_runs(axes: "Axes", x: np.ndarray, runs: np.ndarray, color: Any, **line: Any) -> None:
    """The mean over the runs, and the range from the lowest to the highest."""
    mean = runs.mean(0)
    single = np.isfinite(mean).sum() == 1  # A line through one point shows nothing.
    axes.plot(x, mean, color=color, marker="o" if single else None, ms=5, **line)
    if len(runs) > 1:
        axes.fill_between(x, runs.min(0), runs.max(0), color=color, alpha=0.15, lw=4 if single else 0)


def convergence(
    curves: Mapping[str, Any],
    bounds: Mapping[str, Any] | None = None,
    *,
    steps: Any = None,
    log_steps: bool = False,
    xlabel: str = "step",
    ylabel: str = "f(x) − f*",
    colors: Mapping[str, Any] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws values over the steps on a logarithmic scale, with proven bounds dashed.

    A bound has the colour of its curve. Values that are not positive have no logarithm, and are left out.

    Args:
        curves: values by name, each of shape (steps,), or (runs, steps) for the mean over runs with a
            band from the lowest to the highest.
        bounds: for some of the names, of shape (steps,).
        steps: the steps that the values belong to, (steps,); None counts from 0, each curve by itself.
        log_steps: whether the steps are on a logarithmic scale too, which leaves out step 0.
        xlabel: what the steps are.
        ylabel: what the values are.
        colors: by name; None takes colours that colour-blind readers tell apart.
        ax: where to draw; None makes a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: if there is no curve, a shape is wrong, a bound has no curve, or there are more
            curves than colours.
        TypeError: if curves or bounds is no mapping, or a value is no number.

    Example:
        >>> import numpy as np, nag_optax
        >>> n = np.arange(50)
        >>> axes = nag_optax.plot.convergence({"FISTA": 0.7**n}, {"FISTA": 2 / (n + 1) ** 2})
        >>> curve, bound = axes.get_lines()
        >>> bound.get_color() == curve.get_color(), bound.get_linestyle()
        (True, '--')
    """
    bounds = {} if bounds is None else bounds
    check_mapping("curves", curves)
    check_mapping("bounds", bounds)
    if not curves:
        raise ValueError("curves must hold at least one curve; got none")
    if unknown := [name for name in bounds if name not in curves]:
        raise ValueError(f"bounds: {unknown[0]!r} is not among the curves {', '.join(map(repr, curves))}")
    # Before anything is drawn.
    if steps is not None:
        as_numbers("steps", steps)
    runs = {name: _runs("curves", name, values, steps) for name, values in curves.items()}
    dashed = {name: _runs("bounds", name, values, steps) for name, values in bounds.items()}
    shades = colors_of(curves, colors)
    ax = new_axes((6.4, 4.0)) if ax is None else ax
    for name, values in runs.items():
        draw_runs(ax, _steps(steps, values), values, shades[name], lw=1.7, label=name)
    for name, values in dashed.items():
        marker = "_" if values.size == 1 else None
        ax.plot(_steps(steps, values), values[0], "--", color=shades[name], lw=1.1, marker=marker, ms=12)
    ax.set_yscale("log", nonpositive="mask")
    if log_steps:
        ax.set_xscale("log", nonpositive="mask")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    bare(ax)
    handles = ax.get_legend_handles_labels()[0]
    if bounds:
        from matplotlib.lines import Line2D

        handles.append(Line2D([], [], color="0.4", ls="--", lw=1.1, label="proven bound"))
    ax.legend(handles=handles, frameon=False, fontsize="small")
    return ax


def _runs(argument: str, name: str, values: Any, steps: Any) -> np.ndarray:
    """(runs, steps)."""
    array = as_numbers(f"{argument}: {name!r}", values)
    allowed = (1, 2) if argument == "curves" else (1,)
    if array.ndim not in allowed or not array.size:
        shapes = "(steps,) or (runs, steps)" if argument == "curves" else "(steps,)"
        raise ValueError(f"{argument}: {name!r} must be of shape {shapes}; got {array.shape}")
    if steps is not None and array.shape[-1] != len(steps):
        raise ValueError(f"{argument}: {name!r} has {array.shape[-1]} values for {len(steps)} steps")
    return np.atleast_2d(array)


def _steps(steps: Any, values: np.ndarray) -> np.ndarray:
    return np.arange(values.shape[1]) if steps is None else np.asarray(steps)
