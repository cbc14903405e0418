"""The one rule on dtypes: compute wide, round last."""

import functools

import jax
import jax.numpy as jnp


def wide(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype that holds all of these and float32."""
    # Mixed on purpose, so it must work where the user has set strict promotion.
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes, jnp.dtype(jnp.float32))
