"""Convex problems of real size, in float64: this package beside JAXopt, scikit-learn and skglm.

    python -m benchmarks.convex.large --json benchmarks/results/large.json

A sparse logistic regression and a group lasso of 20,000 examples by 2,000 features, and a path of a hundred
lassos. Each solver takes ever smaller tolerances of its own until (F(x) − F*)/(F(0) − F*) is small enough;
F* is the lowest value that any of them finds, ours with its smallest tolerance. The times are of calls with
the tolerance that first did it, medians in turns, without compilation.
"""

import argparse
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.options import Parser, positive

GAPS = (1e-4, 1e-6)
TOLERANCES = tuple(10.0**-k for k in range(1, 12))
GROUP = 10
COLUMNS = ("problem", "solver", *(f"s to a gap of {gap:g}" for gap in GAPS), "coefficients that are not 0")
LEGEND = [
    "gap: (F(x) − min F)/(F(0) − min F), where min F is the lowest value that any solver found. On the path "
    "it is the largest gap of all problems.",
    "s: median of whole calls in turns, without compilation. Each solver has the loosest tolerance of 0.1, "
    "0.01, … that reaches the gap.",
    "The strength of the penalty is a twentieth of the one at which every coefficient is 0. On the path it "
    "goes from a half to a hundredth of it.",
    "nag_optax and JAXopt backtrack. One call under vmap solves the whole path from zero; lasso_path goes on "
    "from each solution to the next.",
]

Solve = Callable[[float], np.ndarray]
"""Coefficients at a tolerance."""


class Problem(NamedTuple):
    """Something to minimise.

    Attributes:
        name: in the table.
        start: coefficients of zero.
        objective: F of coefficients; (number,) or (problems,).
        solvers: by name.
    """

    name: str
    start: np.ndarray
    objective: Callable[[np.ndarray], np.ndarray]
    solvers: dict[str, Solve]


def logistic(examples: int, features: int) -> Problem:
    """(1/n)·Σ log(1 + exp(−bᵢ·aᵢᵀx)) + λ‖x‖₁."""
    import jax
    import jax.numpy as jnp
    import jaxopt  # pyright: ignore[reportMissingImports] (extra "bench")
    from skglm import SparseLogisticRegression  # pyright: ignore[reportMissingImports] (extra "bench")
    from sklearn.linear_model import LogisticRegression

    import nag_optax

    a, truth, rng = _data(examples, features)
    b = np.where(rng.random(examples) < 1 / (1 + np.exp(-a @ truth)), 1.0, -1.0)
    strength = np.abs(a.T @ b).max() / (2 * examples) / 20
    matrix, labels = jnp.asarray(a), jnp.asarray(b)

    def smooth(x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.logaddexp(0.0, -labels * (matrix @ x)))

    def objective(x: np.ndarray) -> np.ndarray:
        return np.array([np.logaddexp(0.0, -b * (a @ x)).mean() + strength * np.abs(x).sum()])

    def sklearn(tolerance: float) -> np.ndarray:
        model = LogisticRegression(
            l1_ratio=1.0,
            C=1 / (strength * examples),
            solver="saga",
            fit_intercept=False,
            tol=tolerance,
            max_iter=2000,
            random_state=0,
        )
        return model.fit(a, b).coef_[0]

    def skglm(tolerance: float) -> np.ndarray:
        model = SparseLogisticRegression(alpha=strength, tol=tolerance, fit_intercept=False)
        return model.fit(a, b).coef_.ravel()

    shrink = lambda x, _, scaling=1.0: jaxopt.prox.prox_lasso(x, strength, scaling)  # noqa: E731
    solvers = {
        "nag_optax.minimize": _ours(smooth, nag_optax.prox.l1(strength), features),
        "jaxopt.ProximalGradient": _jaxopt(smooth, shrink, features),
        "sklearn LogisticRegression, saga": sklearn,
        "skglm SparseLogisticRegression": skglm,
    }
    return Problem(
        f"sparse logistic regression {examples}×{features}", np.zeros(features), objective, solvers
    )


def group_lasso(examples: int, features: int) -> Problem:
    """(1/2n)·‖Ax − b‖² + λ·Σ‖x_G‖₂, groups of ten neighbours."""
    import jax
    import jax.numpy as jnp
    import jaxopt  # pyright: ignore[reportMissingImports]
    from skglm import GroupLasso  # pyright: ignore[reportMissingImports]

    import nag_optax

    a, truth, rng = _data(examples, features)
    b = a @ truth + rng.standard_normal(examples)
    norms = np.linalg.norm((a.T @ b).reshape(-1, GROUP), axis=1)
    strength = norms.max() / examples / 20
    matrix, target = jnp.asarray(a), jnp.asarray(b)

    def smooth(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.mean((matrix @ x.reshape(-1) - target) ** 2)

    def objective(x: np.ndarray) -> np.ndarray:
        penalty = strength * np.linalg.norm(x.reshape(-1, GROUP), axis=1).sum()
        return np.array([0.5 * np.mean((a @ x.reshape(-1) - b) ** 2) + penalty])

    def shrink(x: jax.Array, _: Any, scaling: float = 1.0) -> jax.Array:
        return jax.vmap(lambda group: jaxopt.prox.prox_group_lasso(group, strength, scaling))(x)

    def skglm(tolerance: float) -> np.ndarray:
        model = GroupLasso(groups=GROUP, alpha=strength, tol=tolerance, fit_intercept=False)
        return model.fit(a, b).coef_

    shape = (features // GROUP, GROUP)
    solvers = {
        "nag_optax.minimize": _ours(smooth, nag_optax.prox.group_l2(strength, axis=1), shape),
        "jaxopt.ProximalGradient": _jaxopt(smooth, shrink, shape),
        "skglm GroupLasso": skglm,
    }
    return Problem(f"group lasso {examples}×{features}", np.zeros(features), objective, solvers)


def path(examples: int, features: int, count: int) -> Problem:
    """(1/2n)·‖Ax − b‖² + λ‖x‖₁ for each λ."""
    import jax
    import jax.numpy as jnp
    from sklearn.linear_model import Lasso, lasso_path

    import nag_optax

    a, truth, rng = _data(examples, features)
    b = a @ truth + rng.standard_normal(examples)
    strengths = np.abs(a.T @ b).max() / examples * np.geomspace(0.5, 0.01, count)
    matrix, target = jnp.asarray(a), jnp.asarray(b)

    def smooth(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.mean((matrix @ x - target) ** 2)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def solve(strength: jax.Array, tolerance: float) -> Any:
        prox = nag_optax.prox.l1(strength)
        return nag_optax.minimize(smooth, jnp.zeros(features), prox=prox, tol=tolerance).params

    def objective(x: np.ndarray) -> np.ndarray:
        residuals = a @ x.T - b[:, None]
        return 0.5 * np.mean(residuals**2, axis=0) + strengths * np.abs(x).sum(1)

    def one_by_one(tolerance: float) -> np.ndarray:
        fits = (Lasso(s, fit_intercept=False, tol=tolerance, max_iter=100_000).fit(a, b) for s in strengths)
        return np.stack([fit.coef_ for fit in fits])

    def warm(tolerance: float) -> np.ndarray:
        return lasso_path(a, b, alphas=strengths, tol=tolerance, max_iter=100_000)[1].T

    solvers = {
        "nag_optax.minimize under vmap": lambda tolerance: np.asarray(solve(strengths, tolerance)),
        "sklearn Lasso, one by one": one_by_one,
        "sklearn lasso_path": warm,
    }
    return Problem(f"{count} lassos {examples}×{features}", np.zeros((count, features)), objective, solvers)


def measure(problem: Problem, repeats: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Seconds of each solver to each gap."""
    start = problem.objective(problem.start)
    best = problem.objective(next(iter(problem.solvers.values()))(TOLERANCES[-1]))
    found: dict[str, list[tuple[float, np.ndarray, int]]] = {}
    for name, solve in problem.solvers.items():
        found[name] = []
        for tolerance in TOLERANCES:
            x = solve(tolerance)
            value = problem.objective(x)
            found[name].append((tolerance, value, int(np.count_nonzero(x))))
            best = np.minimum(best, value)
            if np.max((value - best) / (start - best)) <= GAPS[-1]:
                break
        advance()
    scale = start - best
    chosen: dict[tuple[str, float], tuple[float, int]] = {}
    for name, trials in found.items():
        for gap in GAPS:
            reached = [(t, count) for t, value, count in trials if np.max((value - best) / scale) <= gap]
            if reached:
                chosen[name, gap] = reached[0]
    samples: dict[tuple[str, float], list[float]] = {key: [] for key in chosen}
    for _ in range(repeats):
        for (name, gap), (tolerance, _) in chosen.items():
            start = time.perf_counter()
            problem.solvers[name](tolerance)
            samples[name, gap].append(time.perf_counter() - start)
        advance()
    solvers = {
        name: {
            f"{gap:g}": {
                "tolerance": chosen[name, gap][0],
                "seconds": statistics.median(samples[name, gap]),
                "nonzero": chosen[name, gap][1],
            }
            for gap in GAPS
            if (name, gap) in chosen
        }
        for name in found
    }
    return {"problem": problem.name, "solvers": solvers}


def rows(entry: dict[str, Any]) -> list[tuple[str, ...]]:
    """One for each solver."""
    table = []
    for name, gaps in entry["solvers"].items():
        seconds = (f"{gaps[key]['seconds']:.3g}" if (key := f"{gap:g}") in gaps else "—" for gap in GAPS)
        last = gaps.get(f"{GAPS[-1]:g}")
        table.append(
            ("" if table else entry["problem"], name, *seconds, str(last["nonzero"]) if last else "")
        )
    return table


def _data(examples: int, features: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Neighbouring features are correlated by a half; one group of twenty has coefficients."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((examples, features))
    for j in range(1, features):
        a[:, j] = 0.5 * a[:, j - 1] + 0.75**0.5 * a[:, j]
    truth = np.zeros((features // GROUP, GROUP))
    truth[::20] = rng.standard_normal(truth[::20].shape)
    return np.asfortranarray(a), truth.reshape(-1), rng


def _ours(smooth: Callable, prox: Any, shape: Any) -> Solve:
    import jax
    import jax.numpy as jnp

    import nag_optax

    run = jax.jit(lambda start, tol: nag_optax.minimize(smooth, start, prox=prox, tol=tol).params)
    return lambda tolerance: np.asarray(run(jnp.zeros(shape), tolerance))


def _jaxopt(smooth: Callable, prox: Callable, shape: Any) -> Solve:
    import jax
    import jax.numpy as jnp
    import jaxopt  # pyright: ignore[reportMissingImports]

    @jax.jit
    def run(start: jax.Array, tolerance: float) -> jax.Array:
        solver = jaxopt.ProximalGradient(smooth, prox, maxiter=10_000, tol=tolerance, implicit_diff=False)
        return solver.run(start, hyperparams_prox=None).params

    return lambda tolerance: np.asarray(run(jnp.zeros(shape), tolerance))


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.convex.large",
        description="Large convex problems: this package beside JAXopt, scikit-learn and skglm.",
    )
    parser.add_argument("--examples", type=positive, default=20_000, metavar="N", help="default: 20000")
    parser.add_argument("--features", type=positive, default=2_000, metavar="N", help="default: 2000")
    parser.add_argument(
        "--repeats", type=positive, default=3, metavar="N", help="samples of each time (default: 3)"
    )
    parser.add_json()
    options = parser.parse_args(args)
    if options.features % (4 * GROUP):
        parser.error(f"--features must be a multiple of {4 * GROUP}; got {options.features}")
    return options


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    for name in ("jaxopt", "skglm"):
        if importlib.util.find_spec(name) is None:
            raise SystemExit(f"benchmarks.convex.large: {name} is not installed; pip install '.[bench]'")
    import jax

    jax.config.update("jax_enable_x64", True)
    from benchmarks import report

    warnings.simplefilter("ignore")  # Solvers warn where a loose tolerance or a budget ends them.
    small = (options.examples // 20, options.features // 4)
    makers = (
        partial(logistic, options.examples, options.features),
        partial(group_lasso, options.examples, options.features),
        partial(path, *small, 100),
    )
    result: dict[str, Any] = report.environment() | {"repeats": options.repeats, "problems": []}
    for make in makers:
        problem = make()
        total = len(problem.solvers) + options.repeats
        with report.progress(problem.name, total) as advance:
            entry = measure(problem, options.repeats, advance)
        result["problems"].append(entry)
        report.show(problem.name, COLUMNS, [rows(entry)])
        if options.json:
            report.write_json(options.json, result)


if __name__ == "__main__":
    main()
