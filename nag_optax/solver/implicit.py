"""The derivative of a minimum, without differentiating the loop that found it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from nag_optax._arrays import array_norm, on_auto_axes, varying_with, wide

# How many numbers the Krylov vectors may hold at once. There are at least 50 vectors, and at most as many
# as unknowns. Then: how many products with the matrix until GMRES gives up.
_KRYLOV_NUMBERS, _LEAST_VECTORS, _PRODUCTS = 2**18, 50, 2500
# A stable direct solver leaves a residual within this many roundings of ‖b‖ + ‖x‖.
_ROUNDINGS = 100


def with_derivative(
    solve: Callable[[list[Any]], Any], tangent: Callable[[list[Any], Any, dict[int, Any]], Any]
) -> Callable[[list[Any]], Any]:
    """`solve`, with the derivative `tangent(inputs, result, {number of an input: its tangent})`.

    Inputs that do not move have no tangent. For a part of the result that does not move, `tangent` has None.
    """

    @jax.custom_jvp
    def solution(inputs: list[Any]) -> Any:
        return solve(inputs)

    def rule(primals: Any, tangents: Any) -> Any:
        (inputs,), (directions,) = primals, tangents
        result = solution(inputs)
        moving = {i: d for i, d in enumerate(directions) if not isinstance(d, SymbolicZero)}
        found = tangent(inputs, result, moving)
        return result, jax.tree.map(
            lambda v, t: zero_from_primal(v, symbolic_zeros=True) if t is None else t, result, found
        )

    solution.defjvp(rule, symbolic_zeros=True)
    return solution


def fixed_point_tangent(image: Callable[[Any], Any], x: Any, shift: Any) -> Any:
    """dx of x = image(x), where its other arguments move the image by `shift`: (I − ∂image)⁻¹·shift.

    Neither symmetric nor linear over the complex numbers, so that it is solved by GMRES for one real
    vector. The transposed system serves reverse mode. NaN where GMRES does not get there: a number that is
    merely near would look like a derivative.
    """
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(x))
    _, along = jax.linearize(image, x)

    # A mesh may split the leaves in different ways. The vector is whole on every device.
    def vector(tree: Any) -> jax.Array:
        return on_auto_axes(_as_vector, 0.0, tree)

    def tree(vector: jax.Array) -> Any:
        return on_auto_axes(_as_tree, x, vector, x)

    def matvec(v: jax.Array) -> jax.Array:
        return v - vector(along(tree(v)))

    def gmres(matvec: Callable, b: jax.Array) -> jax.Array:
        return _gmres(matvec, b, eps)

    b = vector(shift)
    return tree(jax.lax.custom_linear_solve(matvec, b, solve=gmres, transpose_solve=gmres))


def _as_vector(tree: Any) -> jax.Array:
    """All numbers of a tree in one real vector, which is wide enough for each."""
    leaves = jax.tree.leaves(tree)
    dtype = jnp.finfo(wide(*(leaf.dtype for leaf in leaves))).dtype
    parts = []
    for leaf in leaves:
        numbers = [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]
        parts += [number.astype(dtype).ravel() for number in numbers]
    return jnp.concatenate(parts)


def _as_tree(vector: jax.Array, like: Any) -> Any:
    leaves, treedef = jax.tree.flatten(like)
    taken = 0

    def take(leaf: jax.Array) -> jax.Array:
        nonlocal taken
        taken += leaf.size
        return vector[taken - leaf.size : taken].reshape(leaf.shape)

    trees = [jax.lax.complex(take(v), take(v)) if jnp.iscomplexobj(v) else take(v) for v in leaves]
    return treedef.unflatten([t.astype(v.dtype) for t, v in zip(trees, leaves, strict=True)])


def _gmres(matvec: Callable, b: jax.Array, eps: float) -> jax.Array:
    """x with matvec(x) = b, by GMRES with restarts; NaN if the residual says that it is none.

    It is solved for b/‖b‖, because a derivative is linear in its direction, at every length.
    """
    if b.size == 0:
        return b
    vectors = min(b.size, max(_LEAST_VECTORS, _KRYLOV_NUMBERS // b.size))
    cycles = -(-_PRODUCTS // vectors)
    length = array_norm(b)
    b = b / jnp.where(length > 0, length, 1)

    def cycle(state: Any) -> Any:
        x, residual, count, _ = state
        x = x + _krylov_step(matvec, residual, vectors, 10 * eps)
        residual = b - matvec(x)
        rest = jnp.linalg.norm(residual)
        # If the rounding of x exceeds b, the matrix is singular, and x solves nothing.
        close = (rest <= _ROUNDINGS * eps * (1 + jnp.linalg.norm(x))) & (rest <= 0.01)
        return x, residual, count + 1, close

    start = varying_with((jnp.zeros_like(b), b, jnp.zeros([], jnp.int32), length == 0), b)
    x, _, _, solved = jax.lax.while_loop(lambda state: ~state[3] & (state[2] < cycles), cycle, start)
    return jnp.where(solved, length * x, jnp.nan)


def _krylov_step(matvec: Callable, residual: jax.Array, vectors: int, tol: float) -> jax.Array:
    """The x with the least residual in the Krylov space of at most so many vectors.

    `left` is orthogonal to the columns of H, the projected matrix, so that 1/‖left‖ is what remains of
    the residual.
    """
    first = jnp.linalg.norm(residual)
    product = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)  # noqa: E731

    def extend(state: Any) -> Any:
        basis, projected, left, k = state
        v = matvec(basis[k])
        # Twice is enough to make it orthogonal.
        once = product(basis, v)
        v = v - product(once, basis)
        again = product(basis, v)
        v = v - product(again, basis)
        column, rest = once + again, jnp.linalg.norm(v)
        last = -product(left, column) / rest
        basis = basis.at[k + 1].set(v / jnp.where(rest > 0, rest, 1))
        projected = projected.at[:, k].set(column.at[k + 1].set(rest))
        return basis, projected, left.at[k + 1].set(last), k + 1

    def goes_on(state: Any) -> jax.Array:
        _, _, left, k = state
        return (k < vectors) & (jnp.linalg.norm(left) * tol < 1)

    basis = jnp.zeros((vectors + 1, residual.size), residual.dtype).at[0].set(residual / first)
    # A vector that is not reached has the coefficient 0.
    projected = jnp.eye(vectors + 1, vectors, -1, residual.dtype)
    left = jnp.zeros(vectors + 1, residual.dtype).at[0].set(1)
    start = varying_with((basis, projected, left, jnp.zeros([], jnp.int32)), residual)
    basis, projected, _, _ = jax.lax.while_loop(goes_on, extend, start)
    q, r = jnp.linalg.qr(projected)
    return product(jax.scipy.linalg.solve_triangular(r, first * q[0]), basis[:-1])
