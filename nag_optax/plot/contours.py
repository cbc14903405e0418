"""Paths of optimizers over the contours of a function of two variables."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nag_optax.plot.checks import as_numbers
from nag_optax.plot.style import ORANGE, check_mapping, colors_of, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 201  # of the grid, a side
_MARGIN = 0.15  # around everything that is drawn, as a share of its extent
_WIDEST = 4.2  # points by which the lowest path is wider than the highest, at most


class Landscape(NamedTuple):
    """The grid x (n,), y (n,), and the logarithm of the gap to the lowest value there, (n, n).

    It is NaN, which has no contours, outside of the objective's domain.
    """

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
    values = np.where(np.isfinite(values), values, np.nan)
    lowest = np.nanmin(values) if minimum is None else float(objective(jnp.asarray(minimum, float)))
    gap = values - lowest
    return Landscape(x, y, np.log10(np.maximum(gap, 1e-6 * np.nanmax(gap))))


def draw_landscape(axes: "Axes", ground: Landscape, minimum: Any = None) -> None:
    """Contours, and a star at the minimum."""
    axes.contour(*ground, levels=14, colors="0.8", linewidths=0.7, linestyles="solid")
    if minimum is not None:
        x, y = minimum
        axes.plot(x, y, "*", color=ORANGE, ms=14, mec="black", mew=0.6, zorder=4, label="minimum")
    axes.set_xlim(ground.x[0], ground.x[-1])
    axes.set_ylim(ground.y[0], ground.y[-1])


def draw_path(
    axes: "Axes", points: np.ndarray, color: Any, label: str | None = None, wider: float = 0
) -> None:
    """A dot for each iterate; `wider` is in points."""
    width, dot = 1.2 + wider, 2.4 + 1.15 * wider
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

    The contours show log10(f − f*), so that a narrow valley is seen. A white disc marks the start of
    each path, a square its end, and a star the minimum.

    Args:
        objective: `objective(x) -> f`, x of shape (2,); evaluated under `vmap`.
        paths: iterates by name, each of shape (steps, 2). A path ends before its first point that is
            not finite.
        minimum: the minimiser, of shape (2,); None draws no star.
        limits: ((left, right), (bottom, top)); None takes them from paths and minimum, with a margin. A
            path that ends higher than it starts may leave them.
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
    x_limits, y_limits = limits or limits_of(objective, [*finite.values()], minimum)
    draw_landscape(ax, landscape(objective, x_limits, y_limits, minimum), minimum)
    # A path is the wider the more paths lie above it, so that all are seen.
    extra = np.minimum(1.4 * np.arange(len(finite)), np.linspace(0, _WIDEST, len(finite)))[::-1]
    for wider, (name, points) in zip(extra, finite.items(), strict=True):
        draw_path(ax, points, shades[name], name, wider)
        draw_start(ax, points[0])
        ax.plot(*points[-1], "s", color=shades[name], mec="black", ms=6, zorder=5)
    ax.set(xlabel="x[0]", ylabel="x[1]")
    ax.legend(fontsize="small")
    return ax


def limits_of(
    objective: Callable[[Any], Any], paths: Sequence[np.ndarray], minimum: Any = None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of paths and minimum, with a margin. Rising paths would shrink the rest, and are left out."""
    import jax
    import jax.numpy as jnp

    ends = jnp.asarray(np.stack([[path[0], path[-1]] for path in paths]))
    first, last = np.asarray(jax.vmap(jax.vmap(objective))(ends)).T
    kept = [path if falls else path[:1] for path, falls in zip(paths, last <= first, strict=True)]
    kept += [] if minimum is None else [np.asarray(minimum, float)[None]]
    low, high = _box(np.concatenate(kept))
    if (low < high).any():
        margin = 2 * _margin(low, high)
        low, high = _box(np.clip(np.concatenate([*kept, *paths]), low - margin, high + margin))
    else:
        # All paths rise.
        low, high = _box(np.concatenate(paths))
    margin = _margin(low, high)
    low, high = low - margin, high + margin
    return (low[0], high[0]), (low[1], high[1])


def _box(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points.min(0), points.max(0)


def _margin(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    # A path along an axis has no extent across it, a point none at all.
    return np.maximum(_MARGIN * (high - low), 0.05 * (high - low).max() or 1.0)


def _finite(name: str, path: Any) -> np.ndarray:
    points = as_numbers(f"paths: {name!r}", path)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"paths: {name!r} must be of shape (steps, 2); got {points.shape}")
    lost = np.flatnonzero(~np.isfinite(points).all(1))
    points = points[: lost[0]] if len(lost) else points
    if not len(points):
        raise ValueError(f"paths: {name!r} must start at a finite point")
    return points
