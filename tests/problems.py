"""Convex problems f + g with known solutions, on which the tests hold a method to its proven bound."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import nag_optax
from tests.helpers import trajectory


@dataclasses.dataclass(frozen=True)
class Problem:
    """F = f + g. The functions take arrays of NumPy and of JAX.

    Attributes:
        name: in the test's id.
        smooth: f.
        gradient: ∇f.
        smoothness: L, of f.
        start: where the method begins.
        convexity: μ, of f.
        known: a minimiser; None where `solution` has to look for it.
        penalty: g.
        prox: of g, in NumPy or JAX.
        operator: the same for the package; None where g = 0.
        prox_convexity: strength of ½‖x‖² in g.
        data: A and b, where f is `half_squares(x, A, b)`, for one program of many problems.
    """

    name: str
    smooth: Callable[[Any], Any]
    gradient: Callable[[Any], Any]
    smoothness: float
    start: np.ndarray
    convexity: float = 0.0
    known: np.ndarray | None = None
    penalty: Callable[[Any], Any] = lambda x: 0.0
    prox: Callable[[Any, float], Any] = lambda z, step_size: z
    operator: Any = None
    prox_convexity: float = 0.0
    data: tuple[np.ndarray, ...] = ()

    @property
    def size(self) -> int:
        return self.start.size

    @functools.cached_property
    def solution(self) -> np.ndarray:
        """x*, known or to the precision of float64 by restarted FISTA."""
        if self.known is not None:
            return self.known
        x = y = np.zeros(self.size)
        t = 1.0
        for _ in range(6000):
            new = self.prox(y - self.gradient(y) / self.smoothness, 1 / self.smoothness)
            if (y - new) @ (new - x) > 0:
                t = 1.0
            following = (1 + np.sqrt(1 + 4 * t**2)) / 2
            x, y, t = new, new + (t - 1) / following * (new - x), following
        return x

    @property
    def distance(self) -> float:
        return float(np.linalg.norm(self.start - self.solution))

    def objective(self, x: np.ndarray) -> float:
        return float(self.smooth(x) + self.penalty(x))

    def gaps(self, xs: np.ndarray) -> np.ndarray:
        """F(x) − F* of each x."""
        return np.array([self.objective(x) for x in xs]) - self.objective(self.solution)

    def solve(self, rule: nag_optax.momentum.Momentum, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """(parameters, iterates of `eval_params`) of the rule with steps of length 1/L."""
        step_size = 1 / self.smoothness

        def proximal(updates: Any, params: Any) -> Any:
            return self.prox(params + updates, step_size) - params

        descent = optax.sgd(step_size)
        if self.operator is not None:
            descent = optax.chain(descent, optax.stateless(proximal))
        optimizer = optax.chain(descent, nag_optax.accelerate(rule))
        return trajectory(optimizer, self.gradient, self.start, steps)


def worst_function(size: int = 400, smoothness: float = 3.0, convexity: float = 0.0) -> Problem:
    """Nesterov's: until step `size` no method sees more than one further coordinate a step."""
    scale = (smoothness - convexity) / 4
    hessian = scale * (2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)) + convexity * np.eye(size)
    linear = np.zeros(size)
    linear[0] = scale
    return Problem(
        "worst-function",
        lambda x: 0.5 * (x @ (hessian @ x)) - linear @ x,
        lambda x: hessian @ x - linear,
        smoothness,
        np.zeros(size),
        convexity,
        np.linalg.solve(hessian, linear),
    )


def huber(threshold: float = 0.01, smoothness: float = 3.0, convexity: float = 0.0) -> Problem:
    """A parabola that is a straight line beyond the threshold, begun at distance 1."""
    curvature = smoothness - convexity

    def smooth(x: Any) -> Any:
        near = x.clip(-threshold, threshold)
        return curvature * near * (x - near / 2) + convexity * x**2 / 2

    return Problem(
        f"huber-{threshold:.2g}",
        smooth,
        lambda x: curvature * x.clip(-threshold, threshold) + convexity * x,
        smoothness,
        np.array(1.0),
        convexity,
        np.array(0.0),
    )


def parabola(curvature: float, smoothness: float, convexity: float) -> Problem:
    """½·curvature·x²: as flat or as steep as the class allows."""
    return Problem(
        f"parabola-{curvature:g}",
        lambda x: curvature * x**2 / 2,
        lambda x: curvature * x,
        smoothness,
        np.array(1.0),
        convexity,
        np.array(0.0),
    )


def quadratic(convexity: float = 0.01, smoothness: float = 3.0, size: int = 30) -> Problem:
    """Random directions, eigenvalues from μ to L."""
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    hessian = basis * np.geomspace(convexity, smoothness, size) @ basis.T
    solution = rng.standard_normal(size)
    return Problem(
        "quadratic",
        lambda x: 0.5 * ((x - solution) @ (hessian @ (x - solution))),
        lambda x: hessian @ (x - solution),
        smoothness,
        rng.standard_normal(size),
        convexity,
        solution,
    )


def half_squares(x: Any, matrix: Any, target: Any) -> Any:
    return 0.5 * ((matrix @ x - target) ** 2).sum()


def _least_squares(matrix: np.ndarray, target: np.ndarray) -> tuple[Callable, Callable]:
    """f = ½‖Ax − b‖², and ∇f."""
    return lambda x: half_squares(x, matrix, target), lambda x: matrix.T @ (matrix @ x - target)


def _soft_threshold(z: Any, threshold: float) -> Any:
    return z - z.clip(-threshold, threshold)


def elastic_net(strength: float = 0.1, prox_convexity: float = 0.0) -> Problem:
    """½‖Ax − b‖² + strength·‖x‖₁ + ½·prox_convexity·‖x‖², b made so that x* is known and sparse."""
    rng = np.random.default_rng(3)
    left = np.linalg.qr(rng.standard_normal((40, 20)))[0]
    right = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    spectrum = np.geomspace(0.05, 1.5, 20)
    matrix = left * spectrum @ right.T
    solution = rng.standard_normal(20) * (rng.random(20) < 0.4)
    # −Aᵀ(Ax* − b) is a subgradient of g at x*: sign(x*) where x* ≠ 0, inside (−1, 1) elsewhere.
    sign = np.where(solution == 0, rng.uniform(-0.9, 0.9, 20), np.sign(solution))
    subgradient = strength * sign + prox_convexity * solution
    target = matrix @ solution + left / spectrum @ (right.T @ subgradient)
    smooth, gradient = _least_squares(matrix, target)
    return Problem(
        "elastic-net" if prox_convexity else "lasso",
        smooth,
        gradient,
        float(spectrum[-1] ** 2),
        np.zeros(20),
        float(spectrum[0] ** 2),
        solution,
        lambda x: strength * abs(x).sum() + 0.5 * prox_convexity * (x**2).sum(),
        lambda z, s: _soft_threshold(z, s * strength) / (1 + s * prox_convexity),
        nag_optax.prox.elastic_net(strength, prox_convexity),
        prox_convexity,
    )


def lasso(rows: int = 50, columns: int = 60, scale: float = 1.0, dtype: Any = np.float64) -> Problem:
    """½‖Ax − b‖² + λ‖x‖₁, wider than high, with λ a tenth of that which gives zero; L = `scale`."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((rows, columns))
    matrix *= np.sqrt(scale) / np.linalg.norm(matrix, 2)
    target = matrix @ (rng.standard_normal(columns) * (rng.random(columns) < 0.2))
    target += 0.01 * np.linalg.norm(target) / np.sqrt(rows) * rng.standard_normal(rows)
    strength = 0.1 * float(np.abs(matrix.T @ target).max())
    data = matrix.astype(dtype), target.astype(dtype)
    smooth, gradient = _least_squares(*data)
    return Problem(
        "lasso",
        smooth,
        gradient,
        scale,
        np.zeros(columns, dtype),
        penalty=lambda x: strength * abs(x).sum(),
        prox=lambda z, s: _soft_threshold(z, s * strength),
        operator=nag_optax.prox.l1(strength),
        data=data,
    )


def nonnegative(rows: int = 40, columns: int = 30) -> Problem:
    """Nonnegative least squares, with bounds that hold at the minimum. The operator knows no penalty."""
    rng = np.random.default_rng(3)
    matrix = np.abs(rng.standard_normal((rows, columns)))
    target = matrix @ np.maximum(rng.standard_normal(columns), 0) + rng.standard_normal(rows)
    smooth, gradient = _least_squares(matrix, target)
    return Problem(
        "nonnegative",
        smooth,
        gradient,
        float(np.linalg.norm(matrix, 2) ** 2),
        np.zeros(columns),
        prox=lambda z, s: z.clip(0.0),
        operator=lambda params, step_size: jnp.maximum(params, 0.0),
    )


COMPOSITE = {"lasso": lasso, "worst": functools.partial(worst_function, 60), "nonnegative": nonnegative}
"""With a prox, without one, and with one that is a plain function."""


def assert_below(actual: np.ndarray, bound: np.ndarray) -> None:
    """On every step, up to the rounding of float64."""
    assert actual.shape == bound.shape
    excess = actual - bound * (1 + 1e-9) - 1e-13
    worst = int(np.argmax(excess))
    assert excess[worst] <= 0, f"step {worst + 1}: {actual[worst]} above the bound {bound[worst]}"
