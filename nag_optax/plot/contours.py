"""Paths of optimizers over the contours of a function of two variables."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nag_optax.plot.checks import as_numbers
from nag_optax.plot.style import ORANGE, check_mapping, colors_of, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 201  # of the grid, a side
_MARGIN = 0.15  # around everything that is drawn, as a share of its extent


class Landscape(NamedTuple):
    """The grid x (n,), y (n,), and the logarithm of the gap to the lowest value there, (n, n)."""

    x: np.ndarray
    y: np.ndarray
    heights: np.ndarray


def landscape(
    objective: Callable[[Any], Any],
    x_limits: tuple[float, float],
    y_limits: tuple[float, float],
    minimum: Any = None,
) -> Landscape:
    """Evaluates the objective on a grid; without a minimum the lowest point of the grid is taken for it."""
    import jax
    import jax.numpy as jnp

    x, y = (np.linspace(*limits, _POINTS) for limits in (x_limits, y_limits))
    points = jnp.asarray(np.stack(np.meshgrid(x, y), -1))
    values = np.asarray(jax.jit(jax.vmap(jax.vmap(objective)))(points))
    lowest = values.min() if minimum is None else float(objective(jnp.asarray(minimum, float)))
    gap = values - lowest
    return Landscape(x, y, np.log10(np.maximum(gap, 1e-6 * gap.max())))


def draw_landscape(axes: "Axes", ground: Landscape, minimum: Any = None) -> None:
    """Contours, and a star at the minimum."""
    axes.contour(*ground, levels=14, colors="0.8", linewidths=0.7, linestyles="solid")
    if minimum is not None:
        x, y = minimum
        axes.plot(x, y, "*", color=ORANGE, ms=14, mec="black", mew=0.6, zorder=4, label="minimum")
    axes.set_xlim(ground.x[0], ground.x[-1])
    axes.set_ylim(ground.y[0], ground.y[-1])


def draw_path(axes: "Axes", points: np.ndarray, color: Any, label: str | None = None, above: int = 0) -> None:
    """A dot for each iterate. It is the wider, the more paths come above it, so that all are seen."""
    width, dot = 1.2 + 1.4 * above, 2.4 + 1.6 * above
    axes.plot(points[:, 0], points[:, 1], "-o", color=color, lw=width, ms=dot, zorder=2, label=label)


def draw_start(axes: "Axes", start: Any) -> None:
    axes.plot(*start, "o", color="white", mec="black", ms=6, zorder=3)


def trajectories(
    objective: Callable[[Any], Any],
    paths: Mapping[str, Any],
    *,
    minimum: Any = None,
    limits: tuple[tuple[float, float], tuple[float, float]] | None = None,
    colors: Mapping[str, Any] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws paths over the contours of a function of two variables.

    The contours are those of log10(f − f*), so that a narrow valley shows. A white disc marks the start
    of each path, a square its end, a star the minimum.

    Args:
        objective: `objective(x) -> f`, x of shape (2,); evaluated under `vmap`.
        paths: iterates by name, each of shape (steps, 2). A path ends before its first point that is
            not finite.
        minimum: the minimiser, of shape (2,); None draws no star.
        limits: ((left, right), (bottom, top)); None takes those of paths and minimum, with a margin.
        colors: by name; None takes colours that colour-blind readers tell apart.
        ax: where to draw; None makes a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: if there is no path, one is not of shape (steps, 2) or does not start at a finite
            point, or there are more paths than colours.
        TypeError: if paths is no mapping, or a value is no number.

    Example:
        >>> import numpy as np, nag_optax
        >>> path = 0.8 ** np.arange(20)[:, None] * np.array([1.0, 0.5])
        >>> axes = nag_optax.plot.trajectories(
        ...     lambda x: x[0] ** 2 + 10 * x[1] ** 2, {"straight": path}, minimum=(0, 0)
        ... )
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['minimum', 'straight']
    """
    check_mapping("paths", paths)
    finite = {name: _finite(name, path) for name, path in paths.items()}
    if not finite:
        raise ValueError("paths must hold at least one path; got none")
    shades = colors_of(finite, colors)
    ax = new_axes((5.6, 4.2)) if ax is None else ax
    x_limits, y_limits = limits or _limits([*finite.values()], minimum)
    draw_landscape(ax, landscape(objective, x_limits, y_limits, minimum), minimum)
    for above, (name, points) in zip(reversed(range(len(finite))), finite.items(), strict=True):
        draw_path(ax, points, shades[name], name, above)
        draw_start(ax, points[0])
        ax.plot(*points[-1], "s", color=shades[name], mec="black", ms=6, zorder=5)
    ax.set(xlabel="x[0]", ylabel="x[1]")
    ax.legend(fontsize="small")
    return ax


def _limits(paths: list[np.ndarray], minimum: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    everything = np.concatenate([*paths, *([] if minimum is None else [np.asarray(minimum, float)[None]])])
    low, high = everything.min(0), everything.max(0)
    # A path along an axis has no extent across it, a point none at all.
    margin = np.maximum(_MARGIN * (high - low), 0.05 * (high - low).max() or 1.0)
    low, high = low - margin, high + margin
    return (low[0], high[0]), (low[1], high[1])


def _finite(name: str, path: Any) -> np.ndarray:
    points = as_numbers(f"paths: {name!r}", path)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"paths: {name!r} must be of shape (steps, 2); got {points.shape}")
    lost = np.flatnonzero(~np.isfinite(points).all(1))
    points = points[: lost[0]] if len(lost) else points
    if not len(points):
        raise ValueError(f"paths: {name!r} must start at a finite point")
    return points
