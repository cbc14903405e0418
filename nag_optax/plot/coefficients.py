"""Coefficients over the strength of the penalty that shrinks them."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nag_optax.plot.checks import as_numbers
from nag_optax.plot.style import PALETTE, bare, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS: tuple[Any, ...] = ":", "-.", (0, (6, 3)), (0, (1, 4))


def regularization_path(
    strengths: Any,
    coefficients: Any,
    names: Sequence[str],
    *,
    marks: Mapping[str, float] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws the coefficients of a penalised problem over the strength of its penalty.

    The ninth line and those after it repeat the colours with dashes.

    Args:
        strengths: (n,), positive; on a logarithmic scale.
        coefficients: (n, features).
        names: one for each feature; at most 16.
        marks: strengths to mark by a vertical line, by name; the dashes of the first four differ.
        ax: where to draw; None makes a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: if the shapes do not fit each other, or there are more than 16 features.
        TypeError: if strengths or coefficients is no array of numbers.

    Example:
        >>> import numpy as np, nag_optax
        >>> strengths = np.logspace(-2, 1, 30)
        >>> shrunk = np.maximum(np.array([5.0, 2.0]) - strengths[:, None], 0.0)
        >>> axes = nag_optax.plot.regularization_path(
        ...     strengths, shrunk, ["age", "bmi"], marks={"chosen": 1.0}
        ... )
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['age', 'bmi', 'chosen']
    """
    strengths, coefficients = as_numbers("strengths", strengths), as_numbers("coefficients", coefficients)
    if coefficients.shape != (len(strengths), len(names)):
        raise ValueError(
            f"coefficients must be of shape (strengths, names) = {(len(strengths), len(names))}; "
            f"got {coefficients.shape}"
        )
    styles = [(color, dashes) for dashes in ("-", "--") for color in PALETTE]
    if len(names) > len(styles):
        raise ValueError(f"names: at most {len(styles)} lines can be told apart; got {len(names)}")
    ax = new_axes((7.2, 4.2)) if ax is None else ax
    marker = "o" if len(strengths) == 1 else None  # of one point a line shows nothing
    for name, values, (color, dashes) in zip(names, coefficients.T, styles, strict=False):
        ax.plot(strengths, values, dashes, color=color, lw=1.6, marker=marker, label=name)
    for (name, strength), dashes in zip((marks or {}).items(), itertools.cycle(_MARKS)):
        ax.axvline(strength, color="0.3", ls=dashes, lw=1.4, label=name)
    ax.set_xscale("log")
    ax.set(xlabel="strength of the penalty", ylabel="coefficient")
    bare(ax)
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
