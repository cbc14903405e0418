"""The derivative of a minimum, without differentiating the loop that found it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nag_optax._meshes import varying_with
from nag_optax._trees import norm
from nag_optax.solver.loop import Limits, Problem, Report, forward_backward, gradient_of, run

# Krylov vectors held at once: this many numbers in all, but 50 vectors at least and no more than there
# are unknowns; and products with the matrix until GMRES gives up.
_KRYLOV_NUMBERS, _LEAST_VECTORS, _PRODUCTS = 2**18, 50, 2500
# A residual within this many roundings of ‖b‖ + ‖x‖ is what a stable direct solver leaves.
_ROUNDINGS = 100


def solve(
    problem: Problem, init_params: Any, limits: Limits, history_length: int | None
) -> tuple[Any, Report]:
    """x and the report; x has the derivatives of the fixed point x = prox(x − s·∇f(x), s).

    `custom_root` differentiates with respect to everything that f and the prox close over. s is part
    of the root, because only the loop knows it; its own equation is s = s.
    """

    def residual(root: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        x, s = root
        fixed = jax.lax.stop_gradient(s)
        image = forward_backward(problem.prox, x, gradient_of(problem.value_fn, x), fixed)
        return jax.tree.map(jnp.subtract, x, image), s - fixed

    def find(_: Callable, root: tuple[Any, jax.Array]) -> tuple[Any, Report]:
        x, s, report = run(problem, root[0], limits, history_length)
        # The loop's counters as bits: custom_root gives integers no tangent that JAX accepts.
        return (x, s), _with_counters(report, jnp.float32)

    start = init_params, varying_with(jnp.ones([], float), init_params)
    (x, _), report = jax.lax.custom_root(residual, start, find, _solve_linear, has_aux=True)
    return x, _with_counters(report, jnp.int32)


def _with_counters(report: Report, dtype: Any) -> Report:
    names = ("steps", "value_evaluations", "gradient_evaluations", "reason")
    bits = {name: jax.lax.bitcast_convert_type(getattr(report, name), dtype) for name in names}
    return report._replace(**bits)


def _solve_linear(linear: Callable, right: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
    """(I − ∂prox·(I − s·H))⁻¹ right. Not symmetric, so GMRES; its transpose serves reverse mode.

    NaN where GMRES does not get there: a number that is merely near would look like a derivative.
    """
    right_x, right_s = right
    leaves = jax.tree.leaves(right_x)
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves)
    size = sum(leaf.size for leaf in leaves)
    vectors = min(size, max(_LEAST_VECTORS, _KRYLOV_NUMBERS // max(size, 1)))
    cycles = -(-_PRODUCTS // max(vectors, 1))

    def gmres(matvec: Callable, b: Any) -> Any:
        find = jax.scipy.sparse.linalg.gmres

        def cycle(state: Any) -> Any:
            x, count, _ = state
            x, _ = find(matvec, b, x, tol=10 * eps, restart=vectors, maxiter=1, solve_method="incremental")
            residual = norm(jax.tree.map(jnp.subtract, b, matvec(x)))
            length = norm(b)
            # An x so long that its rounding exceeds b is that of a singular matrix, and solves nothing.
            close = (residual <= _ROUNDINGS * eps * (length + norm(x))) & (residual <= 0.01 * length)
            return x, count + 1, close

        start = jax.tree.map(jnp.zeros_like, b), jnp.zeros([], jnp.int32), jnp.zeros([], bool)
        x, _, solved = jax.lax.while_loop(lambda state: ~state[2] & (state[1] < cycles), cycle, start)
        return jax.tree.map(lambda leaf: jnp.where(solved, leaf, jnp.asarray(jnp.nan, leaf.dtype)), x)

    # Once more around it, because the tolerance inside depends on the right-hand side, which has no
    # transpose.
    x = jax.lax.custom_linear_solve(
        lambda dx: linear((dx, jnp.zeros_like(right_s)))[0], right_x, solve=gmres, transpose_solve=gmres
    )
    return x, right_s
