"""The last parts of a ready optimizer: the learning rate, and decoupled weight decay."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nag_optax._dtypes import wide
from nag_optax._schedules import scheduled_value
from nag_optax._trees import is_none, misfit
from nag_optax._validate import check_flags, is_python_number

Mask = Any | Callable[[optax.Params], Any]


def scale_by_learning_rate(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Optax's, except that an array keeps the dtype of what it scales."""
    if is_python_number(learning_rate):
        # float: a NumPy scalar would set the dtype of the product.
        return optax.scale_by_learning_rate(float(learning_rate))
    if callable(learning_rate):
        return optax.scale_by_learning_rate(
            lambda count: scheduled_value("learning_rate", learning_rate, count)
        )
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda u: -jnp.asarray(learning_rate, u.dtype) * u, updates)
    )


def add_decay(
    rate: Callable[[jax.Array], jax.typing.ArrayLike], mask: Mask | None
) -> optax.GradientTransformation:
    """Adds rate(step)·p, at least in float32 and in the dtype of the update, where the mask is True."""
    return _decay(lambda u, p, r: u + r * p, rate, mask)


def shrink(
    rate: Callable[[jax.Array], jax.typing.ArrayLike], mask: Mask | None
) -> optax.GradientTransformation:
    """p + Δ = (p + u)/(1 + rate(step)), the prox of ½·rate·‖p‖², where the mask is True."""
    return _decay(lambda u, p, r: (u - r * p) / (1 + r), rate, mask)


def _decay(
    move: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    rate: Callable[[jax.Array], jax.typing.ArrayLike],
    mask: Mask | None,
) -> optax.GradientTransformation:
    def init_fn(params: optax.Params) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None):
        if params is None:
            raise ValueError("weight_decay needs the parameters: call update(grads, state, params)")
        factor = rate(state.count)

        def leaf(u: jax.Array | None, p: jax.Array) -> jax.Array | None:
            if u is None:
                return None
            dtype = wide(u.dtype, jnp.result_type(p))
            return move(u.astype(dtype), jnp.asarray(p, dtype), jnp.asarray(factor, dtype)).astype(u.dtype)

        def subtree(decays: bool, u: optax.Updates, p: optax.Params) -> optax.Updates:
            return jax.tree.map(leaf, u, p, is_leaf=is_none) if decays else u

        # Of the parameters, not of the updates as optax.masked would: those may hold None.
        decays = True if mask is None else mask(params) if callable(mask) else mask
        check_flags("mask", decays)
        try:
            updates = jax.tree.map(subtree, decays, updates, params)
        except ValueError:
            raise ValueError(
                f"mask must be a tree of booleans that the parameters extend; {misfit(decays, params)}"
            ) from None
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init_fn, update_fn)
