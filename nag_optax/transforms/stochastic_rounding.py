"""`stochastic_rounding`: bfloat16 parameters that lose no small update; and the random numbers for it."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import check_number
from nag_optax._arrays import is_none


class StochasticRoundingState(NamedTuple):
    """State of `stochastic_rounding`.

    Attributes:
        step: steps taken, int32.
    """

    step: jax.Array


def stochastic_rounding(seed: int = 0) -> optax.GradientTransformationExtraArgs:
    """Rounds bfloat16 parameters up or down at random; goes last in the chain.

    ```
    p⁺ = p + u rounded up with probability (p + u − below)/(above − below), else down
    Δ  = p⁺ − p, in float32
    ```

    Here below and above are the two bfloat16 numbers next to p + u. The mean of p⁺ is p + u, so that
    updates smaller than half a rounding, which bfloat16 parameters would lose, add up as they should.
    `optax.apply_updates` lands on p⁺ exactly. Parameters of other dtypes are left alone.

    Args:
        seed: an integer in [0, 2³²). The random numbers are a hash of seed, step, leaf and index, so that a
            run that is resumed goes on with the same ones, and no key is carried.

    Returns:
        A transformation whose update is float32 for bfloat16 parameters. Its state is a counter. Extra
        arguments are ignored. `optax.apply_if_finite` lets no dtype change within it, so it goes in
        front: `optax.chain(optax.apply_if_finite(inner, 5), stochastic_rounding())`.

    Raises:
        ValueError: if seed is out of range, or the parameters are missing.
        TypeError: if seed is no integer.

    Example:
        >>> import jax.numpy as jnp, optax, nag_optax
        >>> optimizer = optax.chain(optax.sgd(1.0), nag_optax.stochastic_rounding())
        >>> params = jnp.ones(1000, jnp.bfloat16)
        >>> state = optimizer.init(params)
        >>> for _ in range(100):  # Steps of a quarter of the distance to the next number.
        ...     updates, state = optimizer.update(jnp.full(1000, -(2.0**-9)), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(f"{params.astype(float).mean():.2f}")  # 1 + 100·2⁻⁹; without it, 1.
        1.20

    Source: Gupta, Agrawal, Gopalakrishnan, Narayanan, *Deep learning with limited numerical precision*,
    ICML 2015; for bfloat16 parameters, Zamirai, Zhang, Aberger, De Sa, *Revisiting BFloat16 training*, 2020.
    """
    check_number("seed", seed, minimum=0, below=2**32, integer=True)

    def init_fn(params: optax.Params) -> StochasticRoundingState:
        del params
        return StochasticRoundingState(jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError("stochastic_rounding needs the parameters: call update(updates, state, params)")
        leaves, treedef = jax.tree.flatten(updates, is_leaf=is_none)
        ps = treedef.flatten_up_to(params)
        rounded = [
            _rounded_update(u, p, random_bits(jnp.shape(p), state.step, k, seed)) if _is_bfloat16(p) else u
            for k, (u, p) in enumerate(zip(leaves, ps, strict=True))
        ]
        step = jnp.asarray(optax.safe_increment(state.step))
        return treedef.unflatten(rounded), StochasticRoundingState(step)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _is_bfloat16(p: jax.typing.ArrayLike) -> bool:
    return jnp.result_type(p) == jnp.bfloat16


def _rounded_update(u: jax.Array | None, p: jax.Array, bits: jax.Array) -> jax.Array | None:
    if u is None:
        return None
    p = p.astype(jnp.float32)
    return to_bfloat16(p + jnp.asarray(u, jnp.float32), bits).astype(jnp.float32) - p


def to_bfloat16(x: jax.Array, bits: jax.Array) -> jax.Array:
    """float32 to bfloat16: 16 random bits below the end of the mantissa, and a cut."""
    noisy = jax.lax.bitcast_convert_type(x, jnp.uint32) + (bits & jnp.uint32(0xFFFF))
    cut = jax.lax.bitcast_convert_type(noisy & jnp.uint32(0xFFFF0000), jnp.float32)
    # A NaN would become a number by the carry.
    return jnp.where(jnp.isfinite(x), cut, x).astype(jnp.bfloat16)


def random_bits(shape: tuple[int, ...], step: jax.Array, leaf: int, seed: jax.typing.ArrayLike) -> jax.Array:
    """32 bits for each index of an array: a hash of the counters, a fifth of the cost of `jax.random`.

    The finalizer is Wellons' `lowbias32`; the multipliers of index, step and leaf are odd, so that
    each is a permutation of 32 bits.
    """
    h = step.astype(jnp.uint32) * jnp.uint32(0x85EBCA77) + jnp.uint32(leaf * 0xC2B2AE3D % 2**32)
    # The seed may be traced, as `inject_hyperparams` does with each number.
    h = h + jnp.uint32(seed) * jnp.uint32(0x27D4EB2F)
    # The product is built axis by axis. A flat range would have to be reshaped, and split on a mesh.
    for axis, size in enumerate(shape):
        stride = math.prod(shape[axis + 1 :])
        index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        h = h + index * jnp.uint32(stride * 0x9E3779B1 % 2**32) if size > 1 else h
    h = jnp.broadcast_to(h, shape)
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
    return h ^ (h >> 16)


def uniform(bits: jax.Array) -> jax.Array:
    """float32 in [0, 1), from the upper 24 bits."""
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)
