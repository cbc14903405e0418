"""The optimizers that are compared, and the search for the learning rate of each.

The grid is small. The search extends it while the best rate is at its edge.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax

import nag_optax
from nag_optax.compare.spec import RESTARTED
from nag_optax.train.optimizers import core
from nag_optax.train.registry import OPTIMIZERS, all_options
from nag_optax.train.rows import Model, Optimizer, Style

Make = Callable[[optax.Schedule], optax.GradientTransformation]


class Contender(NamedTuple):
    """An optimizer of `nag-optax train` with its own defaults in everything but the learning rate."""

    row: Optimizer
    model: Model | None = None
    """The model that it trains; None for a problem."""

    def optimizer(self, learning_rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
        made = core(self.row, learning_rate, all_options(self.row), model=self.model)
        return optax.with_extra_args_support(made)

    def state_bytes(self, params: optax.Params) -> float:
        """Bytes of optimizer state for each parameter."""
        state = jax.eval_shape(self.optimizer(lambda _: 0.0).init, params)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        return size / sum(leaf.size for leaf in jax.tree.leaves(params))


def variant(name: str, label: str, make: Make, **fields: Any) -> Contender:
    """An optimizer that takes the place of one in the table, with its fields where none are given."""
    row = OPTIMIZERS[name]._replace(label=label, make=make, options={}, of_run=(), **fields)
    return Contender(row)


def _nag_restart(learning_rate: optax.Schedule) -> optax.GradientTransformation:
    return nag_optax.nag(learning_rate, nag_optax.momentum.fista(), restart="gradient")


_RESTARTED = variant("nag", "NAG with restart", _nag_restart, style=Style("#56B4E9", "-", "d"))


def contender_of(name: str, model: Model | None = None) -> Contender:
    """The contender of that name in the registry as it is now."""
    return _RESTARTED if name == RESTARTED else Contender(OPTIMIZERS[name], model)


Trial = dict[str, Any]
"""The result of one learning rate: at least `learning_rate`, and the fields that the score reads."""

_WIDTH = 2  # rungs on each side of the centre
_EXTENSION = 4  # more rungs on each side, at most


class Search(NamedTuple):
    """The trials by rising learning rate, the position of the best, and what a reader should know."""

    trials: list[Trial]
    best: int | None
    note: str


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
    width: int = _WIDTH,
) -> Search:
    """Tries the grid around rung 0, then further rungs while the best is the outermost.

    A score is smallest at the best, and None for a trial that diverged.
    """
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
    return Search(trials, best, note)
