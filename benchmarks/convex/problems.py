"""The convex problems: their data, f and g, and the minimum."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import nag_optax

# Gaps are relative to F(0) − F*, so that they mean the same on every problem.
GAPS = (1e-6, 1e-9)


class Problem(NamedTuple):
    """F = f + g over R^size, begun at 0.

    Attributes:
        name: in the table.
        smooth: f.
        penalty: the strength of g = strength·‖x‖₁, "nonnegative", or None where g = 0.
        smoothness: L of ∇f.
        size: number of coordinates.
        data: what solvers need that take no function: matrix, target, and the strength of ½‖x‖² in f.
    """

    name: str
    smooth: Callable[[jax.Array], jax.Array]
    penalty: float | str | None
    smoothness: float
    size: int
    data: tuple[np.ndarray, np.ndarray, float]

    @property
    def prox(self) -> Any:
        """Of the package."""
        if self.penalty is None:
            return None
        if self.penalty == "nonnegative":
            return nag_optax.prox.nonnegative()
        return nag_optax.prox.l1(self.penalty)

    def objective(self, x: jax.Array) -> jax.Array:
        strength = self.penalty if isinstance(self.penalty, float) else 0.0
        return self.smooth(x) + strength * jnp.sum(jnp.abs(x))

    @property
    def is_lasso(self) -> bool:
        return isinstance(self.penalty, float)


def problems() -> Iterator[Problem]:
    """All of them, in float64."""
    yield lasso("lasso 500×600", 500, 600)
    yield lasso("lasso 100×5000", 100, 5000)
    yield logistic(1.0)
    yield logistic(0.01)
    yield nonnegative_least_squares(600, 200)
    yield worst_function(100)


def lasso(name: str, rows: int, columns: int, scale: float | None = None, dtype: Any = np.float64) -> Problem:
    """½‖Ax − b‖² + λ‖x‖₁: neighbouring columns correlated by 0.6, λ a tenth of that which gives zero.

    A fifth of the true coefficients is not zero, the signal is three times the noise. With `scale`,
    A and b are multiplied so that L is that number.
    """
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((rows, columns))
    for j in range(1, columns):
        matrix[:, j] = 0.6 * matrix[:, j - 1] + 0.8 * matrix[:, j]
    coefficients = np.zeros(columns)
    support = rng.choice(columns, columns // 5, replace=False)
    coefficients[support] = rng.standard_normal(len(support))
    signal, noise = matrix @ coefficients, rng.standard_normal(rows)
    target = signal + noise * np.linalg.norm(signal) / np.linalg.norm(noise) / 3
    smoothness = float(np.linalg.norm(matrix, 2) ** 2)
    if scale is not None:
        matrix, target = (np.sqrt(scale / smoothness) * array for array in (matrix, target))
        smoothness = scale
    strength = 0.1 * float(np.abs(matrix.T @ target).max())
    matrix, target = matrix.astype(dtype), target.astype(dtype)
    a, b = jnp.asarray(matrix), jnp.asarray(target)
    return Problem(
        name,
        lambda x: 0.5 * jnp.sum((a @ x - b) ** 2),
        strength,
        smoothness,
        columns,
        (matrix, target, 0.0),
    )


def logistic(strength: float) -> Problem:
    """Σ log(1 + exp(−b·Ax)) + λ/2·‖x‖² on the breast-cancer data, each column with mean 0 and variance 1."""
    from sklearn.datasets import load_breast_cancer

    matrix, labels = load_breast_cancer(return_X_y=True)
    matrix = (matrix - matrix.mean(0)) / matrix.std(0)
    target = 2.0 * labels - 1.0
    a, b = jnp.asarray(matrix), jnp.asarray(target)
    return Problem(
        f"logistic λ={strength:g}",
        lambda x: jnp.sum(jnp.logaddexp(0.0, -b * (a @ x))) + 0.5 * strength * jnp.sum(x**2),
        None,
        float(np.linalg.norm(matrix, 2) ** 2 / 4 + strength),
        matrix.shape[1],
        (matrix, target, strength),
    )


def nonnegative_least_squares(rows: int, columns: int) -> Problem:
    """½‖Ax − b‖² over x ≥ 0, with a matrix of |N(0, 1)|, so that L is far above the other eigenvalues."""
    rng = np.random.default_rng(0)
    matrix = np.abs(rng.standard_normal((rows, columns)))
    target = matrix @ np.maximum(rng.standard_normal(columns), 0.0) + rng.standard_normal(rows)
    a, b = jnp.asarray(matrix), jnp.asarray(target)
    return Problem(
        f"NNLS {rows}×{columns}",
        lambda x: 0.5 * jnp.sum((a @ x - b) ** 2),
        "nonnegative",
        float(np.linalg.norm(matrix, 2) ** 2),
        columns,
        (matrix, target, 0.0),
    )


def worst_function(size: int) -> Problem:
    """Nesterov's worst function for first-order methods, L = 4."""
    matrix = 2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)
    first = np.eye(size)[0]
    a, b = jnp.asarray(matrix), jnp.asarray(first)
    return Problem(
        f"Nesterov's worst, n={size}",
        lambda x: 0.5 * (x @ (a @ x)) - b @ x,
        None,
        4.0,
        size,
        (matrix, first, 0.0),
    )


def minimum(problem: Problem) -> float:
    """F* to the precision of float64."""
    x: Any = nag_optax.minimize(
        problem.smooth, jnp.zeros(problem.size), prox=problem.prox, tol=1e-14, max_steps=100_000
    ).params
    if problem.penalty == "nonnegative":
        from scipy.optimize import nnls

        x = jnp.asarray(nnls(*problem.data[:2])[0])
    elif problem.penalty is None:
        hessian, gradient = jax.jit(jax.hessian(problem.smooth)), jax.jit(jax.grad(problem.smooth))
        for _ in range(3):
            x = x - jnp.linalg.solve(hessian(x), gradient(x))
    return float(problem.objective(x))
