"""The optimizers that are compared: one table."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

import nag_optax
from nag_optax.acceleration.evaluation import eval_params
from nag_optax.compare.config import ContenderName

WEIGHT_DECAY = 1e-4
"""On data; on a problem it would move the solution."""


class Contender(NamedTuple):
    """An optimizer with its own defaults in everything but learning rate and decay."""

    label: str
    make: Callable[[optax.Schedule, float], optax.GradientTransformation]
    """Of a learning rate and a weight decay, for those that have one by name."""
    learning_rate: float
    """Centre of the grid on data."""
    scale_free: bool = False
    """Whether the learning rate is the length of a step, whatever the gradient's."""
    at_x: bool = False
    """Whether to evaluate at `eval_params`; else at the parameters themselves."""

    def optimizer(
        self, learning_rate: optax.Schedule, weight_decay: float = WEIGHT_DECAY
    ) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(self.make(learning_rate, weight_decay))

    def iterate(self, opt_state: optax.OptState, params: optax.Params) -> optax.Params:
        """The parameters to evaluate."""
        return eval_params(opt_state, params) if self.at_x else params

    def state_bytes(self, params: optax.Params) -> float:
        """Bytes of optimizer state for each parameter."""
        state = jax.eval_shape(self.optimizer(lambda _: 0.0).init, params)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        return size / sum(leaf.size for leaf in jax.tree.leaves(params))


CONTENDERS: dict[ContenderName, Contender] = {
    "sgd": Contender("gradient descent", lambda lr, _: optax.sgd(lr), 0.3),
    "momentum": Contender("heavy-ball momentum", lambda lr, _: optax.sgd(lr, 0.9), 0.1),
    "nag": Contender("NAG", lambda lr, _: nag_optax.nag(lr, 0.9), 0.1, at_x=True),
    "nag-restart": Contender(
        "NAG with restart",
        lambda lr, _: nag_optax.nag(lr, nag_optax.momentum.fista(), restart="gradient"),
        0.1,
        at_x=True,
    ),
    "adam": Contender("Adam", lambda lr, _: optax.adam(lr), 3e-3, scale_free=True),
    "nadamw": Contender(
        "NAdamW", lambda lr, decay: optax.nadamw(lr, weight_decay=decay), 3e-3, scale_free=True
    ),
    "adan": Contender("Adan", lambda lr, _: optax.adan(lr), 1e-2, scale_free=True),
    "muon": Contender("Muon", lambda lr, _: optax.contrib.muon(lr), 1e-2, scale_free=True),
}
