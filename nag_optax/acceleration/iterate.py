"""How a state holds the iterate to evaluate: x itself, or what leads from the parameters to it.

x itself where it must be exact: in floating point p − w is x only to rounding, and a prox makes zeros
that must stay zeros; slow weights outlive the fast ones that are the parameters.
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


class StoredIterate(NamedTuple):
    """x itself.

    Attributes:
        iterate: x, the tree of the parameters; zeros before the first step.
        started: scalar, False before the first step: x is the parameters themselves.
    """

    iterate: Any
    started: jax.Array


class Lookahead(NamedTuple):
    """What leads to x = p + evaluation·offset.

    Attributes:
        offset: the tree of the parameters; None where x is p.
        evaluation: scalar; None where x is p.
    """

    offset: Any
    evaluation: jax.Array | None


class OuterState(NamedTuple):
    """State of `snoo`, `ema_nesterov` and `gpa`, which go around an inner optimizer.

    Attributes:
        evaluated: the iterate to evaluate, a `StoredIterate` or a `Lookahead`. That of an inner
            accelerator is not looked for.
        method_state: what else the method carries: scalars, and the momentum of `snoo`.
        inner_state: that of the inner optimizer.
    """

    evaluated: Any
    method_state: Any
    inner_state: Any


def offset_of(state: IterateState, params: Any) -> Any:
    """w = p − x, at least in float32; zero before the first step."""

    def leaf(p: jax.Array, x: jax.Array) -> jax.Array:
        dtype = wide(jnp.result_type(p), x.dtype)
        return jnp.where(state.started, jnp.asarray(p, dtype) - x.astype(dtype), jnp.zeros([], dtype))

    return jax.tree.map(leaf, params, state.iterate)
