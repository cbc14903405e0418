"""The panel of a comparison that shows what each learning rate gives."""

from collections.abc import Callable, Sequence
from typing import Any

from nag_optax.compare.contenders import contender_of
from nag_optax.plot import style

# Shares of the height of the panel: the word above the line, a row below it, all rows at most.
_WORD, _ROW, _ROWS = 0.1, 0.05, 0.3


def draw_sensitivity(
    axes: Any,
    results: Sequence[dict[str, Any]],
    value: Callable[[dict[str, Any]], float | None],
    missing: str,
) -> None:
    """A ring marks the best. What gives no value stands above a line, a row for each optimizer.

    Args:
        axes: where to draw.
        results: of each optimizer.
        value: that of a trial; None if it has none.
        missing: what a trial without a value is called.
    """
    losers = [r for r in results if any(value(trial) is None for trial in r["trials"])]
    row = min(_ROW, _ROWS / max(1, len(losers)))
    line = 1.0 - (_WORD + row * len(losers) if losers else 0.0)
    heights = {id(r): 1.0 - _WORD - row * (i + 0.5) for i, r in enumerate(losers)}
    above = axes.get_xaxis_transform()  # heights from 0 to 1
    found = []
    for result in results:
        color, dashes, marker = contender_of(result["name"]).row.style
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
            0.02,
            1 - _WORD / 2,
            missing,
            transform=axes.transAxes,
            va="center",
            fontsize="small",
            color="0.3",
        )
