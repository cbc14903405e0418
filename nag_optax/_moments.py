"""What the adaptive optimizers share: averages of gradients and the root of their squares."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nag_optax._buffers import weighted_sum


def average(decay: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """β·old + (1 − β)·new, in the dtype of the arrays."""
    return weighted_sum(decay, old, 1 - decay, new)


def complement(log_product: jax.Array) -> jax.Array:
    """1 − ∏β, the bias correction, of Σ log β; 1 − 0.999·0.999 in float32 is off by 1e-5 of itself.

    −∞, of a β that was 0, gives 1.
    """
    return -jnp.expm1(log_product)


def root(squares: jax.Array) -> jax.Array:
    """The square root, with a derivative of 0, not NaN, where there was no gradient yet."""
    return jnp.sqrt(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny))


def by_parts(leaf: Callable[..., tuple[jax.Array, ...]]) -> Callable[..., tuple[jax.Array, ...]]:
    """Makes a function of real arrays one of complex arrays: the two parts, each by itself."""

    def either(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        if not jnp.issubdtype(arrays[0].dtype, jnp.complexfloating):
            return leaf(*arrays)
        parts = leaf(*map(jnp.real, arrays)), leaf(*map(jnp.imag, arrays))
        return tuple(map(jax.lax.complex, *parts))

    return either
