"""The nuclear norm: matrices of low rank."""

from typing import Any

import jax
import jax.numpy as jnp

from nag_optax._arguments import check_numbers
from nag_optax._arrays import on_auto_axes
from nag_optax.prox.base import Leaf, Params, Prox, Strength, leaves_of, narrowed, spread, total


def nuclear_norm(strength: Strength) -> Prox:
    """The sum of singular values, whose prox thresholds them: matrices of low rank.

    ```
    g(Z) = λ·Σ σᵢ(Z)        prox(U·diag(σ)·Vᴴ) = U·diag(max(σ − s·λ, 0))·Vᴴ
    ```

    Dimensions before the last two are a batch of matrices. The derivative is the closed form for
    spectral functions, finite where singular values are equal or zero.

    Args:
        strength: λ ≥ 0; a number, an array that broadcasts to the batch dimensions, or a tree of these
            that is a prefix of the parameters. May be traced.

    Returns:
        A `Prox` for parameters of at least two dimensions.

    Raises:
        ValueError: if a Python number or NumPy array in `strength` is negative, infinite or NaN; when
            called, if a parameter has fewer than two dimensions.
        TypeError: if a leaf of `strength` is not a real number or array.

    Example:
        >>> import jax.numpy as jnp, nag_optax
        >>> prox = nag_optax.prox.nuclear_norm(1.0)
        >>> print(prox(jnp.diag(jnp.array([3.0, 0.5])), 1.0))
        [[2. 0.]
         [0. 0.]]

    Source: Cai, Candès and Shen, *A singular value thresholding algorithm for matrix completion*,
    2010; the derivative after Candès, Sing-Long and Trzasko, *Unbiased risk estimates for singular
    value thresholding and spectral estimators*, 2013.
    """
    check_numbers("strength", strength, minimum=0)
    return Prox("nuclear_norm", _nuclear_norm, _nuclear_norm_value, (strength,))


def _matrices(params: Params, strength: Strength) -> tuple[list[Leaf], Any, list[jax.Array]]:
    leaves, treedef = leaves_of(params, "nuclear_norm")
    for leaf in leaves:
        if leaf.array.ndim < 2:
            raise ValueError(
                f"nuclear_norm needs parameters of two dimensions or more; parameter {leaf.name} has shape "
                f"{leaf.array.shape}: keep it out with separable or optax.masked"
            )
    return leaves, treedef, spread("strength", strength, params, leaves, [x.array.shape[:-2] for x in leaves])


def _nuclear_norm(params: Params, step_size: jax.typing.ArrayLike, strength: Strength) -> Params:
    leaves, treedef, strengths = _matrices(params, strength)
    low = [
        on_auto_axes(
            singular_value_threshold, leaf.array, leaf.array, jnp.asarray(step_size, leaf.real_dtype) * s
        )
        if leaf.array.size
        else leaf.array
        for leaf, s in zip(leaves, strengths, strict=True)
    ]
    return narrowed(treedef, leaves, low)


def _nuclear_norm_value(params: Params, strength: Strength) -> jax.Array:
    leaves, _, strengths = _matrices(params, strength)

    def weighted(matrix: jax.Array, strength: jax.Array) -> jax.Array:
        return jnp.sum(strength * jnp.sum(jnp.linalg.svd(matrix, compute_uv=False), axis=-1))

    return total(
        [
            on_auto_axes(weighted, 0.0, leaf.array, s)
            for leaf, s in zip(leaves, strengths, strict=True)
            if leaf.array.size
        ]
    )


@jax.custom_jvp
def singular_value_threshold(matrix: jax.Array, threshold: jax.Array) -> jax.Array:
    """U·diag(max(σ − t, 0))·Vᴴ for one threshold t a matrix."""
    u, values, vh = jnp.linalg.svd(matrix, full_matrices=False)
    return _product(u, jnp.maximum(values - threshold[..., None], 0.0), vh)


@singular_value_threshold.defjvp
def _singular_value_threshold_jvp(primals, tangents):
    """The derivative of the spectral function f(σ) = max(σ − t, 0). With B = Uᴴ·dA·V,

        dF = U(Γ₊∘(B + Bᴴ)/2 + Γ₋∘(B − Bᴴ)/2)Vᴴ + (1 − UUᴴ)·dA·V·diag(f/σ)·Vᴴ
             + U·diag(f/σ)·Uᴴ·dA·(1 − VVᴴ) − U·diag(σ ≥ t)·Vᴴ·dt,
        Γ₊ = (f(σᵢ) − f(σⱼ))/(σᵢ − σⱼ),   Γ₋ = (f(σᵢ) + f(σⱼ))/(σᵢ + σⱼ).

    That of the SVD itself divides by σᵢ² − σⱼ², which may be zero.
    """
    (matrix, threshold), (d_matrix, d_threshold) = primals, tangents
    u, values, vh = jnp.linalg.svd(matrix, full_matrices=False)
    threshold = threshold[..., None]
    kept, above = jnp.maximum(values - threshold, 0.0), values >= threshold
    ratio = _ratio(kept, values, above)

    def pairs(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        shape = x.shape + x.shape[-1:]
        return jnp.broadcast_to(x[..., :, None], shape), jnp.broadcast_to(x[..., None, :], shape)

    (f_i, f_j), (s_i, s_j), (above_i, above_j) = pairs(kept), pairs(values), pairs(above)
    mixed = above_i ^ above_j
    slope = (f_i - f_j) / jnp.where(mixed, s_i - s_j, 1.0)
    gamma_plus = jnp.where(mixed, slope, above_i.astype(values.dtype))
    gamma_minus = _ratio(f_i + f_j, s_i + s_j, above_i)

    uh, v = _adjoint(u), _adjoint(vh)
    b = _dot(uh, _dot(d_matrix, v))
    inner = gamma_plus.astype(b.dtype) * (b + _adjoint(b)) / 2
    inner += gamma_minus.astype(b.dtype) * (b - _adjoint(b)) / 2
    derivative = _dot(u, _dot(inner, vh)) - _product(
        u, above.astype(values.dtype) * d_threshold[..., None], vh
    )
    rows, columns = matrix.shape[-2:]
    if rows > columns:
        derivative += _product(_dot(d_matrix, v) - _dot(u, b), ratio, vh)
    if columns > rows:
        derivative += _product(u, ratio, _dot(uh, d_matrix) - _dot(b, vh))
    return _product(u, kept, vh), derivative


def _ratio(kept: jax.Array, values: jax.Array, above: jax.Array) -> jax.Array:
    """kept/values. A zero above the threshold has 1, because the threshold is 0 then and f the identity."""
    zero = values == 0.0
    return jnp.where(zero, above.astype(values.dtype), kept / jnp.where(zero, 1.0, values))


def _product(u: jax.Array, diagonal: jax.Array, vh: jax.Array) -> jax.Array:
    """U·diag·Vᴴ."""
    return _dot(u * diagonal[..., None, :].astype(u.dtype), vh)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    # An accelerator would multiply in less than float32 by default.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _adjoint(a: jax.Array) -> jax.Array:
    return jnp.conj(jnp.swapaxes(a, -1, -2))
