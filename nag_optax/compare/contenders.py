"""The optimizers that are compared: those of the command line's one table, by their labels."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

import nag_optax
from nag_optax.compare.config import ContenderName
from nag_optax.train.catalogue import OPTIMIZERS
from nag_optax.train.config import TrainConfig


class Contender(NamedTuple):
    """An optimizer of `nag-optax train` with its own defaults in everything but the learning rate."""

    label: str
    name: str
    """In the table of the command line."""
    scale_free: bool = False
    """Whether the learning rate is the length of a step, whatever the gradient's."""
    make: Callable[[optax.Schedule], optax.GradientTransformation] | None = None
    """In place of the table's factory."""

    def optimizer(self, learning_rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
        if self.make is not None:
            return optax.with_extra_args_support(self.make(learning_rate))
        config = TrainConfig(optimizer=self.name).resolved()
        return optax.with_extra_args_support(OPTIMIZERS[self.name].make(config, learning_rate))

    def learning_rate(self, dataset: str, model: str) -> float:
        """Centre of the grid on data: the trainer's default."""
        return OPTIMIZERS[self.name].learning_rates[dataset, model]

    def state_bytes(self, params: optax.Params) -> float:
        """Bytes of optimizer state for each parameter."""
        state = jax.eval_shape(self.optimizer(lambda _: 0.0).init, params)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        return size / sum(leaf.size for leaf in jax.tree.leaves(params))


def _nag_restart(learning_rate: optax.Schedule) -> optax.GradientTransformation:
    return nag_optax.nag(learning_rate, nag_optax.momentum.fista(), restart="gradient")


CONTENDERS: dict[ContenderName, Contender] = {
    "sgd": Contender("gradient descent", "sgd"),
    "momentum": Contender("heavy-ball momentum", "momentum"),
    "nag": Contender("NAG", "nag"),
    "nag-restart": Contender("NAG with restart", "nag", make=_nag_restart),
    "adam": Contender("Adam", "adam", scale_free=True),
    "nadamw": Contender("NAdamW", "nadamw", scale_free=True),
    "adan": Contender("Adan", "adan", scale_free=True),
    "muon": Contender("Muon", "muon", scale_free=True),
    "adamw": Contender("AdamW", "adamw", scale_free=True),
    "nadam": Contender("NAdam", "nadam", scale_free=True),
    "snoo": Contender("SNOO around AdamW", "snoo", scale_free=True),
    "ema_nesterov": Contender("EMA-Nesterov around AdamW", "ema_nesterov", scale_free=True),
    "gpa": Contender("GPA around AdamW", "gpa", scale_free=True),
}
