"""`orthogonalize`: nearly the nearest orthogonal matrix, by Newton–Schulz steps."""

import collections
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nag_optax._arguments import buffer_dtype, check_number, check_numbers
from nag_optax._arrays import on_auto_axes, wide
from nag_optax.transforms.matrices import Matrices, Matrix, from_stack, matrices_of, shape_of, to_stack
from nag_optax.transforms.newton_schulz import newton_schulz, shared_out

Coefficients = Sequence[float] | Sequence[Sequence[float]] | np.ndarray | jax.Array

# Jordan's coefficients: of those that keep the singular values near 1, the steepest at zero.
QUINTIC = (3.4445, -4.7750, 2.0315)


class OrthogonalizeState(NamedTuple):
    """State of `orthogonalize`: only a name, by which `eval_params` knows what the step went through."""


def orthogonalize(
    steps: int = 5,
    *,
    coefficients: Coefficients = QUINTIC,
    eps: jax.typing.ArrayLike = 1e-7,
    matrices: Matrices | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Brings each matrix UΣVᵀ near its orthogonal polar factor UVᵀ.

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
        coefficients: (a, b, c), or one such triple for each step. The last triple serves all further
            steps.
        eps: > 0; a matrix of a smaller norm is not scaled up all the way.
        matrices: how the arrays hold matrices: a `Matrix` for all of them, a tree that the updates
            extend, or a function, as in `muon`. The answer for an array is a `Matrix`; True for one
            matrix (…·m, n) of an array (…, m, n), such as a convolution (height, width, in, out);
            False or None for an array that stays as it is. Without `matrices` it is True for every array.
        dtype: the dtype of X and A; None takes the update's, at least float32. Products and sums are
            in float32 at least either way, as far as `jax.default_matmul_precision` allows.
            `torch.optim.Muon` uses bfloat16, which is faster where the hardware has it.

    Returns:
        A transformation whose update has the shape and dtype of the incoming one. Matrices of one
        shape are one batch. On a mesh, the devices share the batch: each works on its own matrices,
        after one exchange and before another. Inside `jax.shard_map` each device works on its part.

    Raises:
        ValueError: if a Python number or the coefficients are out of range, or an array lacks an
            axis that `matrices` names, or has fewer than two.
        TypeError: if steps is no integer, or `matrices` holds something else.

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
    check_number("steps", steps, minimum=1, below=2**31, integer=True)
    check_number("eps", eps, minimum=0, open_minimum=True)
    triples = _triples(coefficients)
    compute_dtype = buffer_dtype(dtype, "dtype")
    chosen = functools.partial(matrices_of, _every_array if matrices is None else matrices)

    def kept(own: jnp.dtype) -> jnp.dtype:
        found = wide(own) if compute_dtype is None else compute_dtype
        return wide(found, jnp.complex64) if jnp.issubdtype(own, jnp.complexfloating) else found

    def one_stack(x: jax.Array) -> jax.Array:
        return newton_schulz(x, kept(x.dtype), steps, triples, eps).astype(x.dtype)

    def batch(held: Sequence[Matrix], *updates: jax.Array) -> list[jax.Array]:
        """Arrays whose matrices have one shape, dtype and mesh."""
        stacks = [to_stack(u, matrix) for u, matrix in zip(updates, held, strict=True)]
        mesh = jax.typeof(updates[0]).sharding.mesh
        done = shared_out(one_stack, mesh, jnp.concatenate(stacks))
        parts = jnp.split(done, np.cumsum([len(x) for x in stacks])[:-1])
        return [from_stack(x, matrix, u.shape) for x, matrix, u in zip(parts, held, updates, strict=True)]

    def init_fn(params: optax.Params) -> OrthogonalizeState:
        chosen(params)
        return OrthogonalizeState()

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, updates))
        batches = collections.defaultdict(list)
        held = chosen(updates)
        for i, (u, matrix) in enumerate(zip(leaves, held, strict=True)):
            if matrix is not None and u.size:
                _, *sides = shape_of(u.shape, matrix)
                batches[tuple(sides), u.dtype, jax.typeof(u).sharding.mesh].append(i)
        for indices in batches.values():
            own = [leaves[i] for i in indices]
            done = on_auto_axes(functools.partial(batch, [held[i] for i in indices]), own, *own)
            for i, u in zip(indices, done, strict=True):
                leaves[i] = u
        return treedef.unflatten(leaves), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


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


def _every_array(path: Any, leaf: jax.Array) -> bool:
    del path, leaf
    return True
