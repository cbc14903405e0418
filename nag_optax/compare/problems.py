"""The comparison on a function of two variables, with many descents in one compiled program, in float64."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nag_optax.acceleration.evaluation import eval_params
from nag_optax.compare.figures import draw_problem
from nag_optax.compare.report import counted
from nag_optax.compare.search import Trial, doubling_rung, search
from nag_optax.compare.spec import GAPS, GOAL, ProblemName, ProblemSpec
from nag_optax.train.optimizers import check_update, core, decay_schedule
from nag_optax.train.rows import Optimizer


class Problem(NamedTuple):
    """An `objective` to minimise from `start`, whose minimum is known."""

    title: str
    objective: Callable[[jax.Array], jax.Array]
    start: tuple[float, float]
    solution: tuple[float, float]
    curvature: float
    """L, the largest curvature, everywhere or, for Rosenbrock's function, at the minimum.

    The grid of gradient descent has its centre at 1/L."""

    def learning_rate(self, row: Optimizer) -> float:
        """The centre of an optimizer's grid: 1/L, or a twentieth of the way if its rate is a length."""
        if row.scale_free:
            return math.dist(self.start, self.solution) / 20
        return 1 / self.curvature


_WIDTH = 3  # rungs of the grid on each side of its centre, to begin with


class Descents:
    """Descends once at each learning rate. The best needs the fewest steps."""

    data, source = None, ""

    def __init__(self, spec: ProblemSpec):
        problem = self.problem = make_problem(spec.problem)
        self.spec = spec
        self.title = f"{problem.title}: {counted(spec.num_steps, 'step')}"
        self.facts = {"start": problem.start, "solution": problem.solution, "curvature": problem.curvature}
        self.explanation = (
            "The columns count the steps after which f(x) − f* stays within that share of f(x₀) − f*. The "
            f"learning rate is the one that needs the fewest to {GOAL}, or else ends lowest. Gradients "
            f"are exact, in float64, from x₀ = {problem.start}, and x is the iterate to evaluate."
        )

    def check(self, row: Optimizer) -> None:
        optimizer = core(row, lambda _: 1.0, option="--optimizers")
        check_update(optimizer, jnp.array(self.problem.start), f"--optimizers {row.label}")

    def result(self, row: Optimizer, advance: Callable[[float], None]) -> dict[str, Any]:
        spec, rung = self.spec, doubling_rung(self.problem.learning_rate(row))

        def trials(rates: Sequence[float]) -> list[Trial]:
            found = descend(self.problem, row, spec.schedule, spec.num_steps, rates)
            advance(len(rates) / (2 * _WIDTH + 1))
            return found

        return search(trials, score, rung, _WIDTH, spec.learning_rates)._asdict()

    def measure(self, results: list[dict[str, Any]], look: Callable[[], None]) -> None:
        """Nothing more is measured."""

    def ending(self, result: dict[str, Any]) -> str:
        best = result["trials"][result["best"]]
        steps = best["steps_to_gap"][GOAL]
        reached = "not reached" if steps is None else f"after {steps} steps"
        return f"learning rate {best['learning_rate']:<9.3g} gap {GOAL} {reached}"

    def draw(self, results: list[dict[str, Any]], path: Path) -> None:
        problem = self.problem
        draw_problem(problem.objective, problem.start, problem.solution, results, self.title, path)


def make_problem(name: ProblemName) -> Problem:
    return {"quadratic": _quadratic, "rosenbrock": _rosenbrock, "logistic": _logistic}[name]()


def descend(
    problem: Problem, row: Optimizer, schedule: str, num_steps: int, learning_rates: Sequence[float]
) -> list[Trial]:
    """Descends at each learning rate; a trial holds gaps and path (num_steps + 1,) of the iterates."""

    def lane(rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        unit = decay_schedule(schedule, num_steps)
        # The parameters are a vector, which no weight decay moves.
        optimizer = core(row, lambda count: rate * unit(count))
        params = jnp.array(problem.start)

        def body(carry: tuple[Any, Any], _: None):
            params, state = carry
            value, grads = jax.value_and_grad(problem.objective)(params)
            updates, state = optimizer.update(grads, state, params, value=value)
            params = jnp.asarray(optax.apply_updates(params, updates))
            return (params, state), eval_params(state, params)

        _, path = jax.lax.scan(body, (params, optimizer.init(params)), None, length=num_steps)
        path = jnp.concatenate([params[None], jnp.asarray(path)])
        return path, jax.vmap(problem.objective)(path) - problem.objective(jnp.array(problem.solution))

    # In float32 rounding would hide a gap of a millionth.
    with _float64():
        paths, gaps = jax.jit(jax.vmap(lane))(jnp.array(learning_rates, float))
        # Computed apart from each other, the two values may differ by a rounding.
        gaps = np.maximum(np.asarray(gaps), 0.0)
        paths = np.asarray(paths)
    return [
        {
            "learning_rate": float(rate),
            "diverged": not bool(np.isfinite(gap).all() and gap[-1] <= gap[0]),
            "final_gap": float(gap[-1] / gap[0]),
            "steps_to_gap": {name: _steps_to(gap, share) for name, share in GAPS.items()},
            "gap": gap,
            "path": path,
        }
        for rate, gap, path in zip(learning_rates, gaps, paths, strict=True)
    ]


@contextmanager
def _float64() -> Iterator[None]:
    """Computes in double precision within. `jax.enable_x64` does the same, but came with JAX 0.8."""
    before = jnp.result_type(float) == jnp.float64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def score(trial: Trial) -> tuple[float, float] | None:
    """The number of steps to the smallest of the gaps. Trials that never get there follow, by their gap."""
    if trial["diverged"]:
        return None
    steps = trial["steps_to_gap"][GOAL]
    return (math.inf if steps is None else steps, trial["final_gap"])


def _steps_to(gap: np.ndarray, share: float) -> int | None:
    """The number of steps after which the gap stays within this share of the first one."""
    outside = np.flatnonzero(~(gap <= share * gap[0]))
    first = 0 if not len(outside) else int(outside[-1]) + 1
    return first if first < len(gap) else None


def _quadratic() -> Problem:
    curvatures = (1.0, 100.0)

    def objective(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(jnp.array(curvatures, x.dtype) * x**2)

    return Problem("quadratic, condition number 100", objective, (1.0, 0.3), (0.0, 0.0), max(curvatures))


def _rosenbrock() -> Problem:
    def objective(x: jax.Array) -> jax.Array:
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    # Its Hessian at (1, 1) is [[802, -400], [-400, 200]].
    curvature = float(np.linalg.eigvalsh([[802.0, -400.0], [-400.0, 200.0]])[1])
    return Problem("Rosenbrock's function", objective, (-1.2, 1.0), (1.0, 1.0), curvature)


def _logistic() -> Problem:
    """Whether a tumour is benign, from two correlated measurements of scikit-learn's breast-cancer data."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression

    everything, benign = load_breast_cancer(return_X_y=True)
    features = everything[:, [0, 2]]  # mean radius and mean perimeter
    features = (features - features.mean(0)) / features.std(0)
    signed = features * (2.0 * benign - 1.0)[:, None]
    decay = 1e-3

    def objective(x: jax.Array) -> jax.Array:
        margins = jnp.asarray(signed, x.dtype) @ x
        return jnp.mean(jax.nn.softplus(-margins)) + 0.5 * decay * jnp.sum(x**2)

    curvature = float(np.linalg.eigvalsh(signed.T @ signed / len(signed))[-1]) / 4 + decay
    # C weighs the sum of the losses against half the squared norm. Newton's steps end within rounding.
    fit = LogisticRegression(
        C=1 / (decay * len(signed)), fit_intercept=False, solver="newton-cholesky", tol=1e-13
    )
    first, second = fit.fit(features, benign).coef_[0].tolist()
    return Problem("logistic regression, two measurements", objective, (0.0, 0.0), (first, second), curvature)
