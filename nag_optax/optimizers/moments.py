"""What the adaptive optimizers share: averages of gradients and the root of their squares."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nag_optax._arrays import weighted_sum


def average(decay: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """β·old + (1 − β)·new, in the dtype of the arrays."""
    return weighted_sum(decay, old, 1 - decay, new)


class Decay(NamedTuple):
    """The share of its start that an average still holds after some steps.

    Attributes:
        product: ∏β.
        complement: 1 − ∏β, the bias correction.
    """

    product: jax.Array
    complement: jax.Array

    @classmethod
    def start(cls) -> "Decay":
        return cls(jnp.ones([], float), jnp.zeros([], float))

    def times(self, beta: jax.Array) -> "Decay":
        """Both without the difference of near numbers: in float32 1 − 0.999·0.999 is off by 1e-5 of itself.

        The complement is the average of ones until half is gone: then the difference is the exacter one,
        while the average would never reach 1. Not by logarithms, which have no derivative at β = 0.
        """
        product = beta * self.product
        average_of_ones = (1 - beta) + beta * self.complement
        return Decay(product, jnp.where(product < 0.5, 1 - product, average_of_ones))


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
