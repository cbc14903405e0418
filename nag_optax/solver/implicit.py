"""The derivative of a minimum, without differentiating the loop that found it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nag_optax.solver.loop import Problem, Report, forward_backward, gradient_of, run


def solve(
    problem: Problem, init_params: Any, tol: jax.Array, max_steps: Any, history_length: int | None
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
        x, s, report = run(problem, root[0], tol, max_steps, history_length)
        # The loop's counters as bits: custom_root gives integers no tangent that JAX accepts.
        return (x, s), _with_counters(report, jnp.float32)

    start = init_params, jnp.ones([], float)
    (x, _), report = jax.lax.custom_root(residual, start, find, _solve_linear, has_aux=True)
    return x, _with_counters(report, jnp.int32)


def _with_counters(report: Report, dtype: Any) -> Report:
    names = ("steps", "value_evaluations", "gradient_evaluations", "reason")
    bits = {name: jax.lax.bitcast_convert_type(getattr(report, name), dtype) for name in names}
    return report._replace(**bits)


def _solve_linear(linear: Callable, right: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
    """(I − ∂prox·(I − s·H))⁻¹ right. Not symmetric, so GMRES; its transpose serves reverse mode."""
    right_x, right_s = right
    leaves = jax.tree.leaves(right_x)
    tol = 10 * max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves)
    restart = min(sum(leaf.size for leaf in leaves), 50)

    def gmres(matvec: Callable, b: Any) -> Any:
        find = jax.scipy.sparse.linalg.gmres
        return find(matvec, b, tol=tol, restart=restart, maxiter=50, solve_method="incremental")[0]

    # Once more around it, because the tolerance inside depends on the right-hand side, which has no
    # transpose.
    x = jax.lax.custom_linear_solve(
        lambda dx: linear((dx, jnp.zeros_like(right_s)))[0], right_x, solve=gmres, transpose_solve=gmres
    )
    return x, right_s
