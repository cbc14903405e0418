"""The optimizers that are compared: the rows of the command line's one table, and variants of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import nag_optax
from nag_optax.compare.options import RESTARTED
from nag_optax.train.optimizers import core
from nag_optax.train.registry import OPTIMIZERS, all_options
from nag_optax.train.rows import Model, Optimizer, Style

Make = Callable[[optax.Schedule], optax.GradientTransformation]


class Contender(NamedTuple):
    """An optimizer of `nag-optax train` with its own defaults in everything but the learning rate."""

    row: Optimizer
    model: Model | None = None
    """That it trains; None for a problem, which has none."""

    def optimizer(self, learning_rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
        made = core(self.row, learning_rate, all_options(self.row), model=self.model)
        return optax.with_extra_args_support(made)

    def state_bytes(self, params: optax.Params) -> float:
        """Bytes of optimizer state for each parameter."""
        state = jax.eval_shape(self.optimizer(lambda _: 0.0).init, params)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        return size / sum(leaf.size for leaf in jax.tree.leaves(params))


def variant(name: str, label: str, make: Make, **fields: Any) -> Contender:
    """An optimizer in the place of one of the table, whose fields it has where none are given."""
    row = OPTIMIZERS[name]._replace(label=label, make=make, options={}, takes_model=False, **fields)
    return Contender(row)


def _nag_restart(learning_rate: optax.Schedule) -> optax.GradientTransformation:
    return nag_optax.nag(learning_rate, nag_optax.momentum.fista(), restart="gradient")


_RESTARTED = variant("nag", "NAG with restart", _nag_restart, style=Style("#56B4E9", "-", "d"))


def contender_of(name: str, model: Model | None = None) -> Contender:
    """The one of that name, of the registry as it is now."""
    return _RESTARTED if name == RESTARTED else Contender(OPTIMIZERS[name], model)
