"""The optimizers that are compared: the rows of the command line's one table, and variants of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import nag_optax
from nag_optax.compare.options import RESTARTED
from nag_optax.train.catalogue import OPTIMIZERS, Row, Style

Make = Callable[[optax.Schedule], optax.GradientTransformation]


class Contender(NamedTuple):
    """An optimizer of `nag-optax train` with its own defaults in everything but the learning rate."""

    row: Row

    def optimizer(self, learning_rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(self.row.make(learning_rate, **self.row.all_options()))

    def state_bytes(self, params: optax.Params) -> float:
        """Bytes of optimizer state for each parameter."""
        state = jax.eval_shape(self.optimizer(lambda _: 0.0).init, params)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        return size / sum(leaf.size for leaf in jax.tree.leaves(params))


def variant(name: str, label: str, make: Make, **fields: Any) -> Contender:
    """An optimizer in the place of one of the table, whose fields it has where none are given."""
    return Contender(OPTIMIZERS[name]._replace(label=label, make=make, options={}, **fields))


def _nag_restart(learning_rate: optax.Schedule) -> optax.GradientTransformation:
    return nag_optax.nag(learning_rate, nag_optax.momentum.fista(), restart="gradient")


CONTENDERS: dict[str, Contender] = {
    **{name: Contender(row) for name, row in OPTIMIZERS.items()},
    RESTARTED: variant("nag", "NAG with restart", _nag_restart, style=Style("#56B4E9", "-", "d")),
}
