"""The step: the one linear recursion that every method here applies to the update and its buffer.

    w⁺ = b·w + k·u      u, the incoming step; w, the one buffer
    Δ  = a·u + c·w⁺     the update that is returned;  x = p + e·w is the iterate to evaluate

A momentum rule has b = β, k = β + γ and a = c = 1, so that w is the lookahead itself. Where the lookahead
is only a part of what w sums (`gpa`, `ema_nesterov`), a schedule may set that part to zero and back, and w
loses nothing. That takes all four numbers: k = β + γ would be the difference of two numbers near 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType

from nag_optax._arrays import owned, step_buffers, varying_with, weighted_sum
from nag_optax.acceleration.momentum.rule import MomentumRule, Scalar, Step


class Recursion(NamedTuple):
    """A method, apart from its step: four coefficients for each step.

    Attributes:
        init: `init() -> state`, a pytree of arrays of fixed shapes and dtypes.
        coefficients: `coefficients(state, step) -> ((b, k, a, c), state)`; a or c None where it is 1.
        evaluation: e, a number or `evaluation(state) -> e`, of the state after the step.
    """

    init: Callable[[], Any]
    coefficients: Callable[[Any, Step], tuple[tuple[Scalar, Scalar, Scalar | None, Scalar | None], Any]]
    evaluation: Scalar | Callable[[Any], Scalar]

    @classmethod
    def of(cls, rule: MomentumRule) -> "Recursion":
        def coefficients(state: Any, step: Step):
            (beta, gamma), state = rule.coefficients(state, step)
            return (beta, beta + gamma, None, None), state

        return cls(rule.init, coefficients, rule.evaluation)

    def start(self, offset: optax.Updates) -> Any:
        """The first state, beside a buffer of zeros."""
        return self.typed(owned(self.init()), offset)

    def typed(self, state: Any, offset: optax.Updates) -> Any:
        """The state, of the type of the next one: inside `shard_map` that may depend on data."""
        if not _inside_shard_map():
            return state
        step = Step(offset, offset, varying_with(jnp.zeros([], float), offset))
        return varying_with(state, self.coefficients(state, step)[1])

    def step(
        self, state: Any, offset: optax.Updates, update: optax.Updates, value: Scalar | None = None
    ) -> tuple[optax.Updates, optax.Updates, Any]:
        """(state, w, u) ↦ (Δ, w⁺, state⁺), pure; with the dtypes of `step_buffers`."""
        (b, k, a, c), following = self.coefficients(state, Step(update, offset, value))
        if _inside_shard_map():
            following = varying_with(following, state)

        # At least in float32: in bfloat16 a momentum of 0.999 would be exactly 1.
        def leaf(u: jax.Array, w: jax.Array):
            w = weighted_sum(b, w, k, u)
            own = u if a is None else jnp.asarray(a, u.dtype) * u
            return own + (w if c is None else jnp.asarray(c, w.dtype) * w), w

        update, offset = step_buffers(leaf, update, offset)
        return update, offset, owned(following)

    def evaluated(self, state: Any, before: jax.Array | None = None) -> jax.Array:
        """e after a step, as an array of its own."""
        if callable(self.evaluation):
            return owned(jnp.asarray(self.evaluation(state), float))
        # A constant is handed on, because a new one would be one more copy in the program.
        return owned(jnp.asarray(self.evaluation, float)) if before is None else before


def _inside_shard_map() -> bool:
    return AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types
