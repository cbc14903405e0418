"""The search for a learning rate. Its grid is small, and grows while the best rate is at the edge."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

Trial = dict[str, Any]
"""The result of one learning rate: at least `learning_rate`, and the fields that the score reads."""

_EXTENSION = 4  # more rungs on each side of the grid, at most


class Search(NamedTuple):
    """The position of the best trial, what a reader should know, and the trials by rising learning rate."""

    best: int | None
    note: str
    trials: list[Trial]


def decade_rung(centre: float) -> Callable[[int], float]:
    """Learning rates … 0.01, 0.03, 0.1, 0.3, 1 …; rung 0 is the one nearest to the centre."""
    nearest = round(2 * math.log10(centre))

    def rung(i: int) -> float:
        decade, half = divmod(nearest + i, 2)
        return float(f"{3 if half else 1}e{decade}")

    return rung


def doubling_rung(centre: float) -> Callable[[int], float]:
    """Learning rates centre·2^i."""
    return lambda i: centre * 2.0**i


def search(
    run: Callable[[Sequence[float]], list[Trial]],
    score: Callable[[Trial], Any],
    rung: Callable[[int], float],
    width: int,
    rates: Literal["auto"] | Sequence[float] = "auto",
) -> Search:
    """Tries `width` rungs on each side of rung 0, and more while the best is the outermost; or these rates.

    A score is smallest at the best, and None for a trial that diverged.
    """
    if rates != "auto":
        return judged(run(sorted(rates)), score)
    low, high = -width, width
    trials = run([rung(i) for i in range(low, high + 1)])
    while True:
        found = judged(trials, score)
        # Where everything diverges, smaller learning rates may not.
        if found.best in (0, None) and low > -width - _EXTENSION:
            low -= 1
            trials = [*run([rung(low)]), *trials]
        elif found.best == len(trials) - 1 and high < width + _EXTENSION:
            high += 1
            trials = [*trials, *run([rung(high)])]
        else:
            return found


def judged(trials: list[Trial], score: Callable[[Trial], Any]) -> Search:
    """The trials, by rising learning rate, with the best of them: the lower rate of two equal ones."""
    scores = [(value, i) for i, trial in enumerate(trials) if (value := score(trial)) is not None]
    best = min(scores)[1] if scores else None
    note = ""
    if best is None:
        note = "diverged at every learning rate tried"
    elif len(trials) > 1 and best in (0, len(trials) - 1):
        edge = "lowest" if best == 0 else "highest"
        note = f"best at the {edge} learning rate tried; one beyond it may be better"
    return Search(best, note, trials)
