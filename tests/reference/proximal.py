"""FISTA, with a constant step size, with backtracking, and written out for the lasso."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tests.reference.common import Array, Gradient, Sequence
from tests.reference.operators import soft_threshold


def fista(
    gradient: Gradient,
    start: Array,
    step_size: float,
    steps: int,
    prox: Callable[[Array, float], Array] = lambda z, step_size: z,
) -> tuple[Array, Array]:
    """Beck and Teboulle, *A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems*, 2009, with constant step size; t_1 = 1, y_1 = x_0:

        x_k = prox(y_k − s ∇f(y_k)),   t_{k+1} = (1 + √(1 + 4 t_k²))/2,
        y_{k+1} = x_k + (t_k − 1)/t_{k+1} (x_k − x_{k−1}).

    Returns (y_2 … y_{n+1}, x_1 … x_n).
    """
    x = y = np.asarray(start, np.float64)
    t, ys, xs = 1.0, [], []
    for _ in range(steps):
        new = prox(y - step_size * gradient(y), step_size)
        following = (1 + np.sqrt(1 + 4 * t**2)) / 2
        y = new + (t - 1) / following * (new - x)
        x, t = new, following
        ys.append(y)
        xs.append(x)
    return np.stack(ys), np.stack(xs)


class Backtracked(NamedTuple):
    """One step of `fista_with_backtracking`: y and x, the step size s, t, and gradients so far."""

    y: Array
    x: Array
    step_size: float
    t: float
    gradients: int


def fista_with_backtracking(
    objective: Callable[[Array], float],
    gradient: Gradient,
    start: Array,
    first_step_size: float,
    steps: int,
    prox: Callable[[Array, float], Array] = lambda z, step_size: z,
    growth: Callable[[int], float] = lambda successes: min(1.05 ** (successes + 1), 2.0),
    shrink: float = 0.5,
    restart: bool = False,
) -> list[Backtracked]:
    """Scheinberg, Goldfarb and Bai, *Fast first-order methods for composite convex optimization with
    backtracking*, 2014, algorithm 4 (FISTA with full backtracking):

        t_k = (1 + √(1 + 4 (s_{k−1}/s_k) t_{k−1}²))/2,
        y_k = x_{k−1} + (t_{k−1} − 1)/t_k (x_{k−1} − x_{k−2}),
        x_k = prox(y_k − s_k ∇f(y_k), s_k),   s_k halved, and t_k and y_k formed anew, until
        f(x_k) ≤ f(y_k) + ⟨∇f(y_k), x_k − y_k⟩ + ‖x_k − y_k‖²/(2 s_k).

    t_1 = 1. The first trial of each step is the last step size times `growth` of the number of steps
    since one was rejected.

    With `restart`, t_{k+1} = 1 and y_{k+1} = x_k where ⟨y_k − x_k, x_k − x_{k−1}⟩ > 0 (O'Donoghue and
    Candès, 2015). As y_{k+1} is then the same for every step size, s_{k+1} is doubled until it is rejected,
    then halved.
    """
    previous = x = np.asarray(start, np.float64)
    t, s, gradients, records = 0.0, first_step_size / growth(-1), 0, []
    successes, fresh = -1, False
    for _ in range(steps):
        trial = growth(successes) * s
        while True:
            t_new = (1 + np.sqrt(1 + 4 * (s / trial) * t**2)) / 2
            y = x + (t - 1) / t_new * (x - previous)
            g = gradient(y)

            def excess(step: float, y: Array = y, g: Array = g) -> float:
                """f(x) − f(y) − ⟨g, d⟩ − ‖d‖²/(2 step)."""
                d = prox(y - step * g, step) - y
                return objective(y + d) - objective(y) - float(g @ d + d @ d / (2 * step))

            gradients += 1
            if fresh:
                while excess(trial) <= 0:
                    trial *= 2
                while excess(trial) > 0:
                    trial *= shrink
            if excess(trial) <= 0:
                break
            successes = -1
            trial *= shrink
        x_new = prox(y - trial * g, trial)
        successes = 0 if fresh else successes + 1
        fresh = restart and bool((y - x_new) @ (x_new - x) > 0)
        previous, x, t, s = x, x_new, t_new, trial
        records.append(Backtracked(y, x, s, t, gradients))
        if fresh:
            # So that the next t is 1 at every step size, and the next y is x.
            t, previous = 0.0, x
    return records


def lasso_fista(
    matrix: Array, target: Array, strength: float, learning_rate: Sequence, momentum: Sequence, steps: int
) -> tuple[Array, Array]:
    """Beck and Teboulle, *A fast iterative shrinkage-thresholding algorithm*, 2009, section 4, for
    ½‖Ax − b‖² + λ‖x‖₁: x_k = S(y_k − s Aᵀ(A y_k − b), s λ), y_{k+1} = x_k + β_k (x_k − x_{k−1}).

    With β = 0 it is ISTA. Returns (y_2 … y_{n+1}, x_1 … x_n).
    """
    x = y = np.zeros(matrix.shape[1])
    ys, xs = [], []
    for t in range(steps):
        s = learning_rate(t)
        new = soft_threshold(y - s * matrix.T @ (matrix @ y - target), s * strength)
        y = new + momentum(t + 1) * (new - x)
        x = new
        ys.append(y)
        xs.append(x)
    return np.stack(ys), np.stack(xs)
