"""Convex problems with a smooth part f, a prox for the rest, and a known minimum: NumPy and JAX alike."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import nag_optax


class Problem(NamedTuple):
    """F = f + g. `smooth` and `penalty` take arrays of NumPy and of JAX; so does `prox`.

    Attributes:
        smooth: f.
        gradient: ∇f.
        penalty: g.
        prox: its prox in NumPy.
        operator: its prox for the package, None where g = 0.
        smoothness: L of ∇f.
        size: number of coordinates.
    """

    smooth: Callable[[Any], Any]
    gradient: Callable[[Any], Any]
    penalty: Callable[[Any], Any]
    prox: Callable[[np.ndarray, float], np.ndarray]
    operator: Any
    smoothness: float
    size: int

    def objective(self, x: Any) -> Any:
        return self.smooth(x) + self.penalty(x)

    def minimizer(self, steps: int = 20_000) -> np.ndarray:
        """x* to the precision of float64, by restarted FISTA."""
        x = y = np.zeros(self.size)
        t = 1.0
        for _ in range(steps):
            new = self.prox(y - self.gradient(y) / self.smoothness, 1 / self.smoothness)
            if (y - new) @ (new - x) > 0:
                t = 1.0
            following = (1 + np.sqrt(1 + 4 * t**2)) / 2
            x, y, t = new, new + (t - 1) / following * (new - x), following
        return x


def soft_threshold(z: np.ndarray, threshold: float) -> np.ndarray:
    return np.sign(z) * np.maximum(np.abs(z) - threshold, 0.0)


def lasso(rows: int = 50, columns: int = 60, scale: float = 1.0, dtype: Any = np.float64) -> Problem:
    """½‖Ax − b‖² + λ‖x‖₁ with λ a tenth of that which gives zero, scaled so that L = `scale`."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((rows, columns))
    matrix *= np.sqrt(scale) / np.linalg.norm(matrix, 2)
    target = matrix @ (rng.standard_normal(columns) * (rng.random(columns) < 0.2))
    target += 0.01 * np.linalg.norm(target) / np.sqrt(rows) * rng.standard_normal(rows)
    strength = 0.1 * float(np.abs(matrix.T @ target).max())
    matrix, target = matrix.astype(dtype), target.astype(dtype)
    return Problem(
        lambda x: 0.5 * ((matrix @ x - target) ** 2).sum(),
        lambda x: matrix.T @ (matrix @ x - target),
        lambda x: strength * abs(x).sum(),
        lambda z, s: soft_threshold(z, s * strength),
        nag_optax.prox.l1(strength),
        scale,
        columns,
    )


def worst(size: int = 60, smoothness: float = 3.0) -> Problem:
    """Nesterov's worst function for first-order methods."""
    matrix = 2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)
    first = np.eye(size)[0]
    return Problem(
        lambda x: smoothness / 4 * (0.5 * (x @ (matrix @ x)) - first @ x),
        lambda x: smoothness / 4 * (matrix @ x - first),
        lambda x: 0.0 * x[0],
        lambda z, s: z,
        None,
        smoothness,
        size,
    )


def nonnegative(rows: int = 40, columns: int = 30) -> Problem:
    """Nonnegative least squares, with bounds that hold at the minimum."""
    rng = np.random.default_rng(3)
    matrix = np.abs(rng.standard_normal((rows, columns)))
    target = matrix @ np.maximum(rng.standard_normal(columns), 0) + rng.standard_normal(rows)
    return Problem(
        lambda x: 0.5 * ((matrix @ x - target) ** 2).sum(),
        lambda x: matrix.T @ (matrix @ x - target),
        lambda x: 0.0 * x[0],
        lambda z, s: np.maximum(z, 0.0),
        lambda params, step_size: jnp.maximum(params, 0.0),
        float(np.linalg.norm(matrix, 2) ** 2),
        columns,
    )


PROBLEMS = {"lasso": lasso, "worst": worst, "nonnegative": nonnegative}
