"""Problems with known solutions, on which the tests hold a method to its proven bound."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

import nag_optax
from tests.helpers import trajectory


@dataclasses.dataclass(frozen=True)
class Problem:
    """F = f + g with its minimum. `gradient`, of f, takes arrays of NumPy and of JAX.

    Attributes:
        name: in the test's id.
        objective: F.
        gradient: ∇f.
        smoothness: L, of f.
        convexity: μ, of f.
        start: where the method begins.
        solution: a minimiser.
        strength: of the L1 norm in g.
        prox_convexity: strength of ½‖x‖² in g.
    """

    name: str
    objective: Callable[[np.ndarray], float]
    gradient: Callable[[Any], Any]
    smoothness: float
    convexity: float
    start: np.ndarray
    solution: np.ndarray
    strength: float = 0.0
    prox_convexity: float = 0.0

    @property
    def distance(self) -> float:
        return float(np.linalg.norm(self.start - self.solution))

    def gaps(self, xs: np.ndarray) -> np.ndarray:
        """F(x) − F* of each x."""
        return np.array([self.objective(x) for x in xs]) - self.objective(self.solution)

    def prox(self, z: Any, step_size: float) -> Any:
        """Of g; NumPy or JAX."""
        threshold = step_size * self.strength
        return (z - z.clip(-threshold, threshold)) / (1 + step_size * self.prox_convexity)

    def solve(self, rule: nag_optax.momentum.Momentum, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """(parameters, iterates of `eval_params`) of the rule with steps of length 1/L."""
        step_size = 1 / self.smoothness

        def proximal(updates: Any, params: Any) -> Any:
            return self.prox(params + updates, step_size) - params

        descent = optax.sgd(step_size)
        if self.strength or self.prox_convexity:
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
        lambda x: float(0.5 * x @ hessian @ x - linear @ x),
        lambda x: hessian @ x - linear,
        smoothness,
        convexity,
        np.zeros(size),
        np.linalg.solve(hessian, linear),
    )


def huber(threshold: float = 0.01, smoothness: float = 3.0, convexity: float = 0.0) -> Problem:
    """A parabola that is a straight line beyond the threshold, begun at distance 1."""
    curvature = smoothness - convexity

    def objective(x: np.ndarray) -> float:
        near = np.clip(x, -threshold, threshold)
        return float(curvature * near * (x - near / 2) + convexity * x**2 / 2)

    return Problem(
        f"huber-{threshold:.2g}",
        objective,
        lambda x: curvature * x.clip(-threshold, threshold) + convexity * x,
        smoothness,
        convexity,
        np.array(1.0),
        np.array(0.0),
    )


def parabola(curvature: float, smoothness: float, convexity: float) -> Problem:
    """½·curvature·x²: as flat or as steep as the class allows."""
    return Problem(
        f"parabola-{curvature:g}",
        lambda x: float(curvature * x**2 / 2),
        lambda x: curvature * x,
        smoothness,
        convexity,
        np.array(1.0),
        np.array(0.0),
    )


def quadratic(convexity: float = 0.01, smoothness: float = 3.0, size: int = 30) -> Problem:
    """Random directions, eigenvalues from μ to L."""
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    hessian = basis * np.geomspace(convexity, smoothness, size) @ basis.T
    solution = rng.standard_normal(size)

    def objective(x: np.ndarray) -> float:
        return float(0.5 * (x - solution) @ hessian @ (x - solution))

    return Problem(
        "quadratic",
        objective,
        lambda x: hessian @ (x - solution),
        smoothness,
        convexity,
        rng.standard_normal(size),
        solution,
    )


def lasso(strength: float = 0.1, prox_convexity: float = 0.0) -> Problem:
    """½‖Ax − y‖² + strength·‖x‖₁ + ½·prox_convexity·‖x‖², y made so that x* is known and sparse."""
    rng = np.random.default_rng(3)
    left = np.linalg.qr(rng.standard_normal((40, 20)))[0]
    right = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    spectrum = np.geomspace(0.05, 1.5, 20)
    matrix = left * spectrum @ right.T
    solution = rng.standard_normal(20) * (rng.random(20) < 0.4)
    # −Aᵀ(Ax* − y) is a subgradient of g at x*: sign(x*) where x* ≠ 0, inside (−1, 1) elsewhere.
    sign = np.where(solution == 0, rng.uniform(-0.9, 0.9, 20), np.sign(solution))
    subgradient = strength * sign + prox_convexity * solution
    y = matrix @ solution + left / spectrum @ (right.T @ subgradient)

    def objective(x: np.ndarray) -> float:
        smooth = 0.5 * np.sum((matrix @ x - y) ** 2)
        return float(smooth + strength * np.sum(np.abs(x)) + 0.5 * prox_convexity * np.sum(x**2))

    return Problem(
        "elastic-net" if prox_convexity else "lasso",
        objective,
        lambda x: matrix.T @ (matrix @ x - y),
        float(spectrum[-1] ** 2),
        float(spectrum[0] ** 2),
        np.zeros(20),
        solution,
        strength,
        prox_convexity,
    )


def assert_below(actual: np.ndarray, bound: np.ndarray) -> None:
    """On every step, up to the rounding of float64."""
    assert actual.shape == bound.shape
    excess = actual - bound * (1 + 1e-9) - 1e-13
    worst = int(np.argmax(excess))
    assert excess[worst] <= 0, f"step {worst + 1}: {actual[worst]} above the bound {bound[worst]}"
