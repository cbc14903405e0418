"""How much a result depends on learning rate and momentum."""

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from nag_optax.plot.checks import as_numbers
from nag_optax.plot.style import VERMILION, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS = 20  # of learning rates, at most
_ROOM = 45  # characters in a line below a new figure


def sensitivity(
    learning_rates: Any,
    momenta: Any,
    losses: Any,
    *,
    label: str = "final loss",
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws the final loss as a heat map of learning rate by momentum.

    The colours show the logarithm of the loss, darker where it is lower, in an order that colour-blind
    readers see too. A ring marks the lowest loss, and a cross on grey marks a run that diverged.

    Args:
        learning_rates: (n,), rising; one column each.
        momenta: (m,), rising; one row each, from below.
        losses: (m, n), positive; not finite where the run diverged.
        label: what the losses are.
        ax: where to draw; None makes a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: if the shapes do not fit each other, a loss is not positive, or all diverged.
        TypeError: if one of them is no array of numbers.

    Example:
        >>> import numpy as np, nag_optax
        >>> losses = np.array([[0.9, 0.5, 0.2], [0.6, 0.1, np.nan]])
        >>> axes = nag_optax.plot.sensitivity([0.01, 0.1, 1.0], [0.0, 0.9], losses)
        >>> axes.get_xlabel(), [tick.get_text() for tick in axes.get_yticklabels()]
        ('learning rate (○ best, × diverged)', ['0', '0.9'])
    """
    from matplotlib.colors import LogNorm

    learning_rates, momenta = as_numbers("learning_rates", learning_rates), as_numbers("momenta", momenta)
    losses = as_numbers("losses", losses)
    if losses.shape != (len(momenta), len(learning_rates)):
        raise ValueError(
            f"losses must be of shape (momenta, learning rates) = {(len(momenta), len(learning_rates))}; "
            f"got {losses.shape}"
        )
    finite = np.isfinite(losses)
    if not finite.any():
        raise ValueError("losses must have a finite value; all diverged")
    if (losses[finite] <= 0).any():
        raise ValueError(f"losses must be positive; got {losses[finite].min():g}")
    ax = new_axes((6.0, 3.8)) if ax is None else ax
    ax.set_facecolor("0.85")
    # White lines between the cells.
    grid = np.arange(len(learning_rates) + 1) - 0.5, np.arange(len(momenta) + 1) - 0.5
    shown = np.ma.masked_where(~finite, losses)
    mesh = ax.pcolormesh(*grid, shown, norm=LogNorm(), cmap="cividis", edgecolors="white", lw=0.8)
    bar = ax.figure.colorbar(mesh, ax=ax, label=label)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue] (a Spine, which its stub does not say)
    rows, columns = np.nonzero(~finite)
    ax.plot(columns, rows, "x", color="black", ms=8, mew=1.6, ls="none", label="diverged")
    best = np.unravel_index(np.argmin(np.where(finite, losses, np.inf)), losses.shape)
    ax.plot(best[1], best[0], "o", ms=14, mfc="none", mec=VERMILION, mew=2.2, ls="none", label="best")
    # More labels, or long ones that are not turned, would overlap.
    labelled = range(0, len(learning_rates), -(-len(learning_rates) // _LABELS))
    labels = [f"{learning_rates[i]:.3g}" for i in labelled]
    tight = any(len(a + b) / 2 + 0.5 > _ROOM / len(labels) for a, b in itertools.pairwise(labels))
    turned: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(labelled, labels, **turned if tight else {})
    ax.set_yticks(range(len(momenta)), [f"{momentum:g}" for momentum in momenta])
    ax.set(xlabel="learning rate (○ best, × diverged)", ylabel="momentum")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax
