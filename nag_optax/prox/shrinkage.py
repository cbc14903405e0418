"""Penalties of each coordinate: l1 and the elastic net."""

import jax
import jax.numpy as jnp

from nag_optax._arguments import check_numbers
from nag_optax.prox.base import Prox, Strength
from nag_optax.prox.leafwise import leafwise


def l1(strength: Strength) -> Prox:
    """The l1 penalty, whose prox is soft thresholding: exact zeros.

    ```
    g(z) = Σ λᵢ|zᵢ|        prox(p)ᵢ = sign(pᵢ)·max(|pᵢ| − s·λᵢ, 0)
    ```

    A complex coordinate keeps its phase, and its modulus shrinks.

    Args:
        strength: λ ≥ 0; a number, an array that broadcasts to the parameter (one strength a
            coordinate), or a tree of these that is a prefix of the parameters. May be traced.

    Returns:
        A `Prox`.

    Raises:
        ValueError: if a Python number or NumPy array in `strength` is negative, infinite or NaN.
        TypeError: if a leaf of `strength` is not a real number or array.

    Example:
        >>> import jax.numpy as jnp, nag_optax
        >>> prox = nag_optax.prox.l1({"w": jnp.array([1.0, 0.1]), "b": 0.0})
        >>> prox({"w": jnp.array([0.5, -0.5]), "b": jnp.array(3.0)}, 1.0)
        {'b': Array(3., dtype=float32), 'w': Array([ 0. , -0.4], dtype=float32)}

    Source: Donoho, *De-noising by soft-thresholding*, 1995; Parikh and Boyd, *Proximal algorithms*,
    2014, section 6.5.2.
    """
    check_numbers("strength", strength, minimum=0)
    return _l1(strength)


@leafwise(penalty=lambda z, strength: jnp.sum(strength * jnp.abs(z)))
def _l1(p: jax.Array, step_size: jax.Array, strength: jax.Array) -> jax.Array:
    return soft_threshold(p, step_size * strength)


def elastic_net(l1_strength: Strength, l2_strength: Strength) -> Prox:
    """The elastic net: l1 and half the squares; with l1_strength 0, ridge.

    ```
    g(z) = Σ λᵢ|zᵢ| + ½ Σ μᵢ|zᵢ|²        prox(p)ᵢ = sign(pᵢ)·max(|pᵢ| − s·λᵢ, 0) / (1 + s·μᵢ)
    ```

    Args:
        l1_strength: λ ≥ 0; a number, an array that broadcasts to the parameter, or a tree of these
            that is a prefix of the parameters. May be traced.
        l2_strength: μ ≥ 0, likewise.

    Returns:
        A `Prox`.

    Raises:
        ValueError: if a Python number or NumPy array in a strength is negative, infinite or NaN.
        TypeError: if a leaf of a strength is not a real number or array.

    Example:
        >>> import jax.numpy as jnp, nag_optax
        >>> nag_optax.prox.elastic_net(1.0, 1.0)(jnp.array([3.0, -0.5]), 1.0)
        Array([1., 0.], dtype=float32)

    Source: Zou and Hastie, *Regularization and variable selection via the elastic net*, 2005;
    Parikh and Boyd, *Proximal algorithms*, 2014, section 6.5.3.
    """
    check_numbers("l1_strength", l1_strength, minimum=0)
    check_numbers("l2_strength", l2_strength, minimum=0)
    return _elastic_net(l1_strength, l2_strength)


def _elastic_net_value(z: jax.Array, l1_strength: jax.Array, l2_strength: jax.Array) -> jax.Array:
    modulus = jnp.abs(z)
    return jnp.sum(l1_strength * modulus) + 0.5 * jnp.sum(l2_strength * jnp.square(modulus))


@leafwise(penalty=_elastic_net_value)
def _elastic_net(
    p: jax.Array, step_size: jax.Array, l1_strength: jax.Array, l2_strength: jax.Array
) -> jax.Array:
    divisor = 1.0 + step_size * l2_strength
    return soft_threshold(p, step_size * l1_strength) / divisor.astype(p.dtype)


def soft_threshold(p: jax.Array, threshold: jax.Array) -> jax.Array:
    """p with its modulus less `threshold`, exactly zero where that would be negative."""
    if jnp.iscomplexobj(p):
        return shrink(p, jnp.abs(p), threshold)
    modulus = jnp.abs(p)
    # The minimum keeps 0·inf out.
    return jnp.where(_falls(modulus, threshold), 0.0, p - jnp.sign(p) * jnp.minimum(modulus, threshold))


def shrink(p: jax.Array, norm: jax.Array, threshold: jax.Array) -> jax.Array:
    """p·max(1 − threshold/norm, 0), with finite derivatives where the norm is zero."""
    falls = _falls(norm, threshold)
    factor = jnp.where(falls, 0.0, 1.0 - threshold / jnp.where(falls | (norm == 0), 1.0, norm))
    return p * factor.astype(p.dtype)


def _falls(norm: jax.Array, threshold: jax.Array) -> jax.Array:
    """Where the result is zero, whatever p is.

    Not where the threshold is 0: the operator is then the identity, and has its derivative at p = 0 too. A
    NaN does not fall, so that it is seen in the result.
    """
    return (norm <= threshold) & (threshold > 0)
