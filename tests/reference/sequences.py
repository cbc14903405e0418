"""Nesterov's method, the velocity form of deep learning, and adaptive restart."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from tests.reference.common import Array, Gradient, Sequence


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


def keras_sgd(
    gradient: Gradient, start: Array, learning_rate: Sequence, momentum: float, steps: int
) -> Array:
    """keras.optimizers.SGD(nesterov=True) of Keras 3: v ← m v − lr g, p ← p + m v − lr g.

    Returns p_1 … p_n.
    """
    p = np.asarray(start, np.float64)
    velocity, points = np.zeros_like(p), []
    for t in range(steps):
        step = learning_rate(t) * gradient(p)
        velocity = momentum * velocity - step
        p = p + momentum * velocity - step
        points.append(p)
    return np.stack(points)
