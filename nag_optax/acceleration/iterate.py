"""A state that keeps x itself in the one buffer, for iterates that are exactly sparse or feasible.

In floating point p − w is x only to rounding, and a prox makes zeros that must stay zeros.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nag_optax._dtypes import wide


class IterateState(NamedTuple):
    """State of `fista`.

    Attributes:
        iterate: x, the tree of the parameters; zeros before the first step.
        started: scalar, False before the first step: x is the parameters themselves.
        rule_state: what the momentum rule carries.
        restart_state: what the restart test carries; `()` without one.
        search: what chooses the step size carries: `BacktrackingState`, or the count of steps where
            the learning rate is a schedule, or `()`.
    """

    iterate: Any
    started: jax.Array
    rule_state: Any
    restart_state: Any
    search: Any


def offset_of(state: IterateState, params: Any) -> Any:
    """w = p − x, at least in float32; zero before the first step."""

    def leaf(p: jax.Array, x: jax.Array) -> jax.Array:
        dtype = wide(jnp.result_type(p), x.dtype)
        return jnp.where(state.started, jnp.asarray(p, dtype) - x.astype(dtype), jnp.zeros([], dtype))

    return jax.tree.map(leaf, params, state.iterate)
