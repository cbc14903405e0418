"""`orthogonalize`: the nearest orthogonal matrix, nearly, by Newton–Schulz steps."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nag_optax._arguments import buffer_dtype, check_number, check_numbers
from nag_optax._arrays import on_auto_axes, wide

LeadingAxes = Literal["flatten", "batch"]
Coefficients = Sequence[float] | Sequence[Sequence[float]] | np.ndarray | jax.Array

# Jordan's: the steepest at zero of those that keep the singular values near 1.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalize(
    steps: int = 5,
    *,
    coefficients: Coefficients = QUINTIC,
    eps: jax.typing.ArrayLike = 1e-7,
    leading_axes: LeadingAxes = "flatten",
    dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces each matrix by nearly its orthogonal polar factor: UVᵀ, where it was UΣVᵀ.

    ```
    X₀ = G / max(‖G‖_F, eps)
    X ← a·X + (b·A + c·A²)·X,   A = X·Xᴴ,   `steps` times
    ```

    A step maps each singular value σ to aσ + bσ³ + cσ⁵ and keeps the singular vectors. With the
    default coefficients, five steps take every σ ≥ 0.002 of X₀ into [0.68, 1.21], not to 1; with
    (1.875, −1.25, 0.375) σ tends to 1, more slowly. The scale of G does not matter above eps; a
    matrix of zeros stays zero. X is transposed where that makes A smaller. No state.

    Args:
        steps: how many, at least 1. A traced number compiles to a loop without reverse-mode
            derivative.
        coefficients: (a, b, c), or one such triple for each step, the last of which serves all
            further steps.
        eps: > 0, the norm below which a matrix is scaled up no further.
        leading_axes: what an array of shape (…, m, n) is: "flatten", one matrix (…·m, n), as of a
            convolution kernel (height, width, in, out); "batch", a stack of matrices (m, n), as of
            the kernels of scanned layers.
        dtype: in which X and A are kept; None takes the update's, at least float32. Products and
            sums are in float32 at least either way, as far as `jax.default_matmul_precision`
            allows; bfloat16 is what `torch.optim.Muon` uses, and faster where the hardware has it.

    Returns:
        A transformation whose update has the shape and dtype of the incoming one. Give it matrices
        alone: `muon` chooses them, or `optax.masked`.

    Raises:
        ValueError: if a Python number or the coefficients are out of range, an option is unknown, or
            a leaf has fewer than two axes.
        TypeError: if steps is no integer.

    Example:
        >>> import jax.numpy as jnp, nag_optax
        >>> polar = nag_optax.orthogonalize(steps=20, coefficients=(1.875, -1.25, 0.375))
        >>> updates = jnp.array([[0.0, 3.0], [-2.0, 0.0]])
        >>> updates, _ = polar.update(updates, polar.init(updates))
        >>> print(updates.round(3))
        [[ 0.  1.]
         [-1.  0.]]

    Source: Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024; the
    iteration after Björck and Bowie, *An iterative algorithm for computing the best estimate of an
    orthogonal matrix*, 1971. A triple for each step: Amsel, Persson, Musco and Gower, *The Polar
    Express*, 2025.
    """
    check_number("steps", steps, minimum=1, integer=True)
    check_number("eps", eps, minimum=0, open_minimum=True)
    triples = _triples(coefficients)
    compute_dtype = buffer_dtype(dtype, "dtype")
    if leading_axes not in get_args(LeadingAxes):
        raise ValueError(f'leading_axes must be "flatten" or "batch"; got {leading_axes!r}')

    def leaf(u: jax.Array) -> jax.Array:
        x = u.reshape(matrix_shape(u.shape, leading_axes))
        kept = wide(u.dtype) if compute_dtype is None else compute_dtype
        if jnp.issubdtype(u.dtype, jnp.complexfloating):
            kept = wide(kept, jnp.complex64)
        return _newton_schulz(x, kept, steps, triples, eps).reshape(u.shape).astype(u.dtype)

    def init_fn(params: optax.Params) -> optax.EmptyState:
        _check_ranks(params)
        return optax.EmptyState()

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        _check_ranks(updates)
        updates = jax.tree.map(jnp.asarray, updates)
        return jax.tree.map(lambda u: on_auto_axes(leaf, u, u), updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def matrix_shape(shape: tuple[int, ...], leading_axes: LeadingAxes) -> tuple[int, ...]:
    """(…, m, n) of the matrices that an array of this shape holds."""
    return shape if leading_axes == "batch" else (math.prod(shape[:-1]), shape[-1])


def _newton_schulz(
    x: jax.Array,
    dtype: jnp.dtype,
    steps: jax.typing.ArrayLike,
    triples: np.ndarray | jax.Array,
    eps: jax.typing.ArrayLike,
) -> jax.Array:
    if x.size == 0:
        return x
    tall = x.shape[-2] > x.shape[-1]
    x = _normalized(x.mT if tall else x, dtype, eps)
    sums = wide(dtype)

    def product(first: jax.Array, second: jax.Array) -> jax.Array:
        return jnp.matmul(first, second, preferred_element_type=sums)

    table = jnp.asarray(triples)

    def step(i: jax.Array, x: jax.Array) -> jax.Array:
        a, b, c = table[jnp.minimum(i, len(table) - 1)].astype(sums)
        gram = product(x, jnp.conj(x.mT)).astype(x.dtype)
        polynomial = (b * gram.astype(sums) + c * product(gram, gram)).astype(x.dtype)
        return (a * x.astype(sums) + product(polynomial, x)).astype(x.dtype)

    # A loop, not `steps` copies of it: models have many matrices, and compile time counts.
    x = jax.lax.fori_loop(0, steps, step, x)
    return x.mT if tall else x


def _normalized(x: jax.Array, dtype: jnp.dtype, eps: jax.typing.ArrayLike) -> jax.Array:
    """X / max(‖X‖_F, eps), rounded to `dtype` at the end: a narrow one does not hold every X."""
    x = x.astype(wide(x.dtype, dtype))
    tiny = jnp.finfo(x.dtype).tiny
    # Entries of about 1 first: their squares neither overflow nor vanish. The bounds are those of numbers
    # with a reciprocal. No derivative, because the result is the same for any number here.
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    largest = jax.lax.stop_gradient(jnp.clip(largest, tiny, 1 / tiny))
    # No division: of two in a row XLA makes one, by a product that overflows.
    x = x * (1 / largest).astype(x.dtype)
    square = jnp.sum(jnp.square(jnp.abs(x)), axis=(-2, -1), keepdims=True)
    # At least 1 but for zeros, where the root has no derivative.
    norm = jnp.sqrt(jnp.maximum(square, 0.25))
    norm = jnp.maximum(norm, jnp.asarray(eps, norm.dtype) / largest)
    return (x * (1 / norm).astype(x.dtype)).astype(dtype)


def _triples(coefficients: Coefficients) -> np.ndarray | jax.Array:
    allowed = "coefficients must be a triple (a, b, c) of numbers or a triple for each step"
    if isinstance(coefficients, str) or not isinstance(coefficients, Sequence | np.ndarray | jax.Array):
        raise TypeError(f"{allowed}; got {coefficients!r} of type {type(coefficients).__name__}")
    table = coefficients
    if not isinstance(coefficients, jax.Array):
        # Numbers may be traced one by one.
        leaves = jax.tree.leaves(coefficients)
        traced = any(isinstance(leaf, jax.Array) for leaf in leaves)
        if not traced:
            check_numbers("coefficients", coefficients)
        try:
            table = jnp.asarray(coefficients) if traced else np.asarray(coefficients, np.float64)
        except ValueError:
            table = np.zeros(0)
    assert isinstance(table, np.ndarray | jax.Array)
    if table.ndim not in (1, 2) or table.shape[-1] != 3 or len(table) == 0:
        raise ValueError(f"{allowed}; got {coefficients!r}")
    return table.reshape(-1, 3)


def _check_ranks(tree: optax.Updates) -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if jnp.ndim(leaf) < 2:
            raise ValueError(
                f"orthogonalize takes arrays of two axes or more; {jax.tree_util.keystr(path) or 'the root'} "
                f"has shape {jnp.shape(leaf)}: leave it to another transformation, as muon does"
            )
