"""The papers in float64 NumPy, in the papers' own variables. Nothing here imports the package."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

Array = np.ndarray
Gradient = Callable[[Array], Array]
Sequence = Callable[[int], float]


def nesterov(
    gradient: Gradient,
    start: Array,
    learning_rate: Sequence,
    momentum: Sequence,
    steps: int,
    weight_decay: float = 0.0,
) -> tuple[Array, Array]:
    """Nesterov, *A method for solving the convex programming problem with convergence rate O(1/k²)*,
    1983, as two sequences:

        y_t = x_t + m_t (x_t − x_{t−1}),   x_{t+1} = y_t − lr_t ∇f(y_t),   x_0 = x_{−1}.

    Decoupled decay (Loshchilov and Hutter, ICLR 2019) moves the new point by −lr_t λ y_t and leaves
    the difference that carries the momentum alone. Returns (y_1 … y_n, x_1 … x_n).
    """
    x = y = np.asarray(start, np.float64)
    ys, xs = [], []
    for t in range(steps):
        undecayed = y - learning_rate(t) * gradient(y)
        decay = -learning_rate(t) * weight_decay * y
        y = undecayed + decay + momentum(t + 1) * (undecayed - x)
        x = undecayed + decay
        ys.append(y)
        xs.append(x)
    return np.stack(ys), np.stack(xs)


def sutskever_momentum(t: int, ceiling: float) -> float:
    """Sutskever, Martens, Dahl, Hinton, ICML 2013, equation 5."""
    return float(min(1.0 - 2.0 ** (-1.0 - np.log2(np.floor(t / 250) + 1.0)), ceiling))


def sutskever_velocity(
    gradient: Gradient, start: Array, learning_rate: Sequence, momentum: Sequence, steps: int
) -> tuple[Array, Array]:
    """Sutskever, Martens, Dahl, Hinton, ICML 2013, equations 3 and 4, the velocity form:

        v_{t+1} = μ_t v_t − ε_t ∇f(θ_t + μ_t v_t),   θ_{t+1} = θ_t + v_{t+1}.

    Returns (θ_t + μ_t v_t for t = 1 … n, θ_1 … θ_n).
    """
    theta, v = np.asarray(start, np.float64), np.zeros_like(start, np.float64)
    lookaheads, thetas = [], []
    for t in range(steps):
        v = momentum(t) * v - learning_rate(t) * gradient(theta + momentum(t) * v)
        theta = theta + v
        lookaheads.append(theta + momentum(t + 1) * v)
        thetas.append(theta)
    return np.stack(lookaheads), np.stack(thetas)


def nesterov_with_restart(
    objective: Callable[[Array], float],
    gradient: Gradient,
    start: Array,
    learning_rate: Sequence,
    momentum: Sequence,
    steps: int,
    scheme: Literal["gradient", "speed", "value"],
    resets_momentum: bool,
) -> tuple[Array, Array, list[int]]:
    """O'Donoghue and Candès, *Adaptive restart for accelerated gradient schemes*, 2015, section 3.2,
    and the speed scheme of Su, Boyd and Candès, JMLR 2016, section 5. After x_{t+1} is known,

        gradient: ∇f(y_t)ᵀ(x_{t+1} − x_t) > 0;   speed: ‖x_{t+1} − x_t‖ < ‖x_t − x_{t−1}‖;
        value: the objective rose, here at y_t, where the gradient is known.

    On a restart y = x_{t+1}, and where `resets_momentum` the sequence m begins again; the speed of
    the step that restarted is forgotten. Returns (y_1 … y_n, x_1 … x_n, the steps that restarted).
    """
    x = y = np.asarray(start, np.float64)
    index, speed, value = 0, 0.0, np.inf
    ys, xs, restarts = [], [], []
    for t in range(steps):
        new = y - learning_rate(t) * gradient(y)
        new_speed, new_value = float(np.linalg.norm(new - x)), objective(y)
        harmful = {
            "gradient": float(np.vdot(gradient(y), new - x)) > 0,
            "speed": new_speed < speed,
            "value": new_value > value,
        }[scheme]
        index = 0 if harmful and resets_momentum else index + 1
        y = new if harmful else new + momentum(index) * (new - x)
        x, value = new, new_value
        speed = 0.0 if harmful else new_speed
        if harmful:
            restarts.append(t)
        ys.append(y)
        xs.append(x)
    return np.stack(ys), np.stack(xs), restarts


def torch_nesterov(
    gradient: Gradient, start: Array, learning_rate: Sequence, momentum: float, steps: int
) -> Array:
    """torch.optim.SGD(nesterov=True) and optax.sgd(nesterov=True), after Sutskever et al., ICML 2013:

        b ← m b + g,   p ← p − lr (g + m b),   b = 0 at the start.

    Returns p_1 … p_n.
    """
    p, b = np.asarray(start, np.float64), np.zeros_like(start, np.float64)
    ps = []
    for t in range(steps):
        g = gradient(p)
        b = momentum * b + g
        p = p - learning_rate(t) * (g + momentum * b)
        ps.append(p)
    return np.stack(ps)


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
    growth: float = 1 / 0.9,
    shrink: float = 0.5,
) -> list[Backtracked]:
    """Scheinberg, Goldfarb and Bai, *Fast first-order methods for composite convex optimization with
    backtracking*, 2014, algorithm 4 (FISTA with full backtracking):

        t_k = (1 + √(1 + 4 (s_{k−1}/s_k) t_{k−1}²))/2,
        y_k = x_{k−1} + (t_{k−1} − 1)/t_k (x_{k−1} − x_{k−2}),
        x_k = prox(y_k − s_k ∇f(y_k), s_k),   s_k halved, and t_k and y_k formed anew, until
        f(x_k) ≤ f(y_k) + ⟨∇f(y_k), x_k − y_k⟩ + ‖x_k − y_k‖²/(2 s_k).

    t_1 = 1. The first trial of each step is the last step size times `growth`.
    """
    previous = x = np.asarray(start, np.float64)
    t, s, gradients, records = 0.0, first_step_size / growth, 0, []
    for _ in range(steps):
        trial = growth * s
        while True:
            t_new = (1 + np.sqrt(1 + 4 * (s / trial) * t**2)) / 2
            y = x + (t - 1) / t_new * (x - previous)
            g = gradient(y)
            gradients += 1
            x_new = prox(y - trial * g, trial)
            d = x_new - y
            if objective(x_new) <= objective(y) + g @ d + d @ d / (2 * trial):
                break
            trial *= shrink
        previous, x, t, s = x, x_new, t_new, trial
        records.append(Backtracked(y, x, s, t, gradients))
    return records


def triple_momentum(
    gradient: Gradient, start: Array, convexity: float, smoothness: float, steps: int
) -> tuple[Array, Array]:
    """Van Scoy, Freeman, Lynch, *The fastest known globally convergent first-order method for
    minimizing strongly convex functions*, 2018, with the one difference sequence δ:

        δ⁺ = b δ − α ∇f(p),   p⁺ = p + (1 + c) δ⁺ − c δ,   x⁺ = p⁺ + (d − c) δ⁺.

    Returns (p_1 … p_n, x_1 … x_n).
    """
    rho = 1.0 - np.sqrt(convexity / smoothness)
    alpha, b = (1.0 + rho) / smoothness, rho**2 / (2.0 - rho)
    c, d = rho**2 / ((1.0 + rho) * (2.0 - rho)), rho**2 / (1.0 - rho**2)
    p, delta = np.asarray(start, np.float64), np.zeros_like(start, np.float64)
    ps, xs = [], []
    for _ in range(steps):
        new = b * delta - alpha * gradient(p)
        p = p + (1.0 + c) * new - c * delta
        delta = new
        ps.append(p)
        xs.append(p + (d - c) * delta)
    return np.stack(ps), np.stack(xs)


def soft_threshold(p: Array, threshold: Array | float) -> Array:
    """Donoho, *De-noising by soft-thresholding*, 1995: towards zero by the threshold, coordinate by
    coordinate; a complex one keeps its phase."""
    flat = np.ravel(np.asarray(p))
    thresholds = np.ravel(np.broadcast_to(threshold, np.shape(p)))
    shrunk = [0.0 if abs(z) <= t else z - t * z / abs(z) for z, t in zip(flat, thresholds, strict=True)]
    return np.reshape(np.asarray(shrunk, flat.dtype), np.shape(p))


def elastic_net_prox(p: Array, l1: Array | float, l2: Array | float, step: float) -> Array:
    """Parikh and Boyd, *Proximal algorithms*, 2014, section 6.5.3, for λ‖x‖₁ + (μ/2)‖x‖₂²."""
    return soft_threshold(p, step * np.asarray(l1)) / (1.0 + step * np.asarray(l2))


def block_soft_threshold(p: Array, threshold: float) -> Array:
    """Parikh and Boyd, 2014, section 6.5.1, of one group: (1 − λ/‖v‖₂)₊ v."""
    norm = np.sqrt(np.sum(np.abs(p) ** 2))
    return np.zeros_like(p) if norm <= threshold else (1.0 - threshold / norm) * p


def singular_value_threshold(matrix: Array, threshold: float) -> Array:
    """Cai, Candès and Shen, 2010, equation 2.2, through the eigenvalues of the Gram matrix: the
    shrinkage of σ multiplies the matrix by Σ (1 − λ/σ)₊ v vᴴ from the right."""
    eigenvalues, v = np.linalg.eigh(matrix.conj().T @ matrix)
    sigma = np.sqrt(np.maximum(eigenvalues, 1e-300))
    return matrix @ (v * np.maximum(1.0 - threshold / sigma, 0.0)) @ v.conj().T


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
