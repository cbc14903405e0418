"""The style of all figures: colours that colour-blind readers tell apart, bare axes, a safe way to save."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Okabe and Ito's, without their yellow, which is lost on white. A grey takes its place, dark enough to
# differ from the purple and the green of those who lack the cones for green.
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY_BLUE, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#595959"
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY_BLUE, BLACK, GREY)

_LABELS, _FINE_LABELS = 8, 5  # At most so many on an axis: powers of ten, and longer labels.


def new_axes(size: tuple[float, float]) -> "Axes":
    """The axes of a new pyplot figure, which notebooks show by themselves."""
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]


def check_mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping from name to values; got {type(value).__name__}")


def colors_of(names: Iterable[str], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A colour for each name: the one given, else the next of the palette that is still free.

    Raises:
        ValueError: if there are more names than colours.
    """
    names, given = list(names), given or {}
    free = [color for color in PALETTE if color not in given.values()]
    missing = [name for name in names if name not in given]
    if len(missing) > len(free):
        raise ValueError(
            f"colors: {len(missing)} of {len(names)} names have none, and the palette has {len(free)} left "
            "that can be told apart; draw fewer, or pass a colour for each"
        )
    chosen = dict(zip(missing, free, strict=False))
    return {name: given[name] if name in given else chosen[name] for name in names}


def bare(axes: "Axes") -> None:
    """A faint grid and no frame."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def log_ticks(axis: "Axis", low: float, high: float) -> None:
    """Labels a logarithmic axis from `low` to `high`: powers of ten or, where it is short, 1, 2, 5 or finer.

    Matplotlib prints the labels between two powers over each other where the axis is short.
    """
    from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullFormatter

    def within(ticks: Any) -> list[float]:
        return [float(tick) for tick in np.ravel(ticks) if low <= tick <= high]

    exponents = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    decades = 10.0**exponents
    every = -(-len(exponents) // _LABELS)
    finer = (
        np.outer(decades, (1, 2, 5)),
        np.outer(decades, range(1, 10)),
        MaxNLocator(4).tick_values(low, high),
    )
    ticks = next(ticks for candidates in finer if len(ticks := within(candidates)) > 1)
    labels = [f"{tick:.4g}" for tick in ticks]
    if len(ticks) > _FINE_LABELS:
        ticks = within(decades[exponents % every == 0])
        labels = [f"$10^{{{round(np.log10(tick))}}}$" for tick in ticks]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter(labels))
    # Between powers that are left out they would be one black bar.
    axis.set_minor_locator(FixedLocator(within(np.outer(decades, range(1, 10))) if every == 1 else []))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Any, path: Path, dpi: int) -> None:
    """As PNG; the file appears complete or not at all."""
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=dpi, format="png")
    os.replace(partial, path)
