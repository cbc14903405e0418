"""The last parts of a ready optimizer: the learning rate, and decoupled weight decay."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import (
    at_step,
    check_flags,
    check_mask,
    check_schedule,
    is_python_number,
    scheduled_value,
)
from nag_optax._arrays import is_none, misfit, wide

Mask = Any | Callable[[optax.Params], Any]


def scale_by_learning_rate(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """As Optax's, except that an array does not change the dtype of the update."""
    if is_python_number(learning_rate):
        # A float, because a NumPy scalar would set the dtype of the product.
        return optax.scale_by_learning_rate(float(learning_rate))
    if callable(learning_rate):
        return optax.scale_by_learning_rate(
            lambda count: scheduled_value("learning_rate", learning_rate, count)
        )
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda u: -jnp.asarray(learning_rate, u.dtype) * u, updates)
    )


class DecayState(NamedTuple):
    """State of weight decay, which moves the iterate to evaluate as it moves the parameters.

    Attributes:
        step: steps taken, int32; None unless there is a schedule to follow.
    """

    step: jax.Array | None


def add_decay(
    weight_decay: optax.ScalarOrSchedule,
    mask: Mask | None,
    learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformation:
    """u + λ·p in front of the learning rate, u − lr·λ·p behind it, where the mask is True."""
    return _decay(lambda u, p, r: u + r * p, weight_decay, mask, learning_rate, sign=-1)


def shrink(
    weight_decay: optax.ScalarOrSchedule, mask: Mask | None, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """p + Δ = (p + u)/(1 + lr·λ), the prox of ½·lr·λ·‖p‖², where the mask is True."""
    return _decay(lambda u, p, r: (u - r * p) / (1 + r), weight_decay, mask, learning_rate, sign=1)


def _decay(
    move: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    weight_decay: optax.ScalarOrSchedule,
    mask: Mask | None,
    learning_rate: optax.ScalarOrSchedule | None,
    sign: int,
) -> optax.GradientTransformation:
    """`move` in the update's dtype, at least float32. Without decay the state is the same."""
    check_schedule("weight_decay", weight_decay, minimum=0)
    check_mask("mask", mask)
    counts = callable(weight_decay) or callable(learning_rate)
    none = is_python_number(weight_decay) and weight_decay == 0

    def init_fn(params: optax.Params) -> Any:
        del params
        return DecayState(jnp.zeros([], jnp.int32) if counts else None)

    def rate(count: jax.Array) -> jax.Array:
        decay = at_step("weight_decay", weight_decay, count)
        scale = 1.0 if learning_rate is None else sign * at_step("learning_rate", learning_rate, count)
        return scale * decay

    def update_fn(updates, state, params=None):
        following: Any = DecayState(jnp.asarray(optax.safe_increment(state.step)) if counts else None)
        if none:
            return updates, following
        if params is None:
            raise ValueError("weight_decay needs the parameters: call update(grads, state, params)")
        factor = rate(state.step)

        def leaf(u: jax.Array | None, p: jax.Array) -> jax.Array | None:
            if u is None:
                return None
            dtype = wide(u.dtype, jnp.result_type(p))
            return move(u.astype(dtype), jnp.asarray(p, dtype), jnp.asarray(factor, dtype)).astype(u.dtype)

        def subtree(decays: bool, u: optax.Updates, p: optax.Params) -> optax.Updates:
            return jax.tree.map(leaf, u, p, is_leaf=is_none) if decays else u

        # The mask is made for the parameters. optax.masked would take the updates, which may hold None.
        decays = True if mask is None else mask(params) if callable(mask) else mask
        check_flags("mask", decays)
        try:
            updates = jax.tree.map(subtree, decays, updates, params)
        except ValueError:
            raise ValueError(
                f"mask must be a tree of booleans that the parameters extend; {misfit(decays, params)}"
            ) from None
        return updates, following

    return optax.GradientTransformation(init_fn, update_fn)
