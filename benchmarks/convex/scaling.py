"""One lasso in other units: who converges, who returns NaN, who stalls, who claims too much."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nag_optax
from benchmarks.convex.problems import Problem, lasso
from benchmarks.convex.solvers import jaxopt_prox

SCALES = tuple(10.0**k for k in range(-1, 10))
TOLERANCE = 1e-6
MAX_STEPS = 10_000
# A claim of convergence is false where the gradient mapping, in float64, is beyond the tolerance by
# more than what float32 rounds of it.
_SLACK = {"float32": 30.0, "float64": 2.0}


def measure(on_step: Callable[[], None]) -> list[dict[str, Any]]:
    """An entry for each precision, scale and solver."""
    entries = []
    for dtype in (np.float32, np.float64):
        for scale in SCALES:
            problem = lasso("lasso 500×600", 500, 600, scale, dtype)
            exact = lasso("lasso 500×600", 500, 600, scale)
            for name, solve in _SOLVERS.items():
                x, claims, steps = solve(problem, jnp.zeros(problem.size, dtype))
                entries.append(
                    {
                        "precision": np.dtype(dtype).name,
                        "smoothness": scale,
                        "solver": name,
                        "outcome": outcome(exact, np.dtype(dtype).name, np.asarray(x, float), claims),
                        "iterations": steps,
                    }
                )
            on_step()
    return entries


def _mapping_norm(problem: Problem, x: np.ndarray) -> float:
    """‖x − prox(x − ∇f(x)/L)‖·L in float64."""
    step_size = 1 / problem.smoothness
    target = problem.prox(x - step_size * jax.grad(problem.smooth)(jnp.asarray(x)), step_size)
    return float(jnp.linalg.norm(target - x) / step_size)


def outcome(exact: Problem, precision: str, x: np.ndarray, claims: bool) -> str:
    """What became of a run that ended at x and says that it converged, or that it did not."""
    if not np.all(np.isfinite(x)):
        return "NaN"
    if not claims:
        return "stalled"
    start = float(jnp.linalg.norm(jax.grad(exact.smooth)(jnp.zeros(exact.size))))
    reached = _mapping_norm(exact, x) / start
    return "converged" if reached <= _SLACK[precision] * TOLERANCE else "false claim"


def _ours(problem: Problem, start: jax.Array) -> tuple[Any, bool, int]:
    solution = nag_optax.minimize(
        problem.smooth, start, prox=problem.prox, tol=TOLERANCE, max_steps=MAX_STEPS
    )
    return solution.params, bool(solution.converged), int(solution.steps)


def _jaxopt(problem: Problem, start: jax.Array) -> tuple[Any, bool, int]:
    import jaxopt  # pyright: ignore[reportMissingImports] (extra "bench")

    # Its tolerance is absolute: the same one, in the units of this problem.
    tol = TOLERANCE * float(jnp.linalg.norm(jax.grad(problem.smooth)(start)))
    solver = jaxopt.ProximalGradient(
        problem.smooth, jaxopt_prox(problem), maxiter=MAX_STEPS, tol=tol, implicit_diff=False
    )
    x, state = solver.run(start, hyperparams_prox=None)
    return x, bool(state.error <= tol), int(state.iter_num)


_SOLVERS = {"JAXopt FISTA, line search": _jaxopt, "nag_optax, backtracking": _ours}
