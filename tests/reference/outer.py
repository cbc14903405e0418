"""What goes around an optimizer: SNOO, DiLoCo, EMA-Nesterov, GPA, and inner optimizers for them."""

import numpy as np

from tests.reference.common import Array, Gradient, Sequence, Step


def gradient_descent_step(gradient: Gradient, learning_rate: float) -> Step:
    """u(p) = −lr ∇f(p), an inner optimizer for what goes around one."""
    return lambda p: -learning_rate * gradient(p)


def heavy_ball_step(gradient: Gradient, learning_rate: float, momentum: float) -> Step:
    """Polyak, 1964, in the form of torch.optim.SGD: b ← m b + ∇f(p), u = −lr b."""
    b = np.zeros(1)

    def step(p: Array) -> Array:
        nonlocal b
        b = momentum * b + gradient(p)
        return -learning_rate * b

    return step


def adam_step(
    gradient: Gradient, learning_rate: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Step:
    """Kingma and Ba, *Adam*, ICLR 2015, algorithm 1."""
    m, v, t = np.zeros(1), np.zeros(1), 0

    def step(p: Array) -> Array:
        nonlocal m, v, t
        g, t = gradient(p), t + 1
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        return -learning_rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)

    return step


def diloco(
    inners: list[Step],
    start: Array,
    period: int,
    rate: Sequence,
    momentum: Sequence,
    steps: int,
    moved: Array | None = None,
) -> tuple[Array, Array]:
    """Douillard et al., *DiLoCo*, 2023, algorithm 1, with Nesterov's momentum as the outer optimizer. Each
    worker i takes K steps of its inner optimizer from the slow weights w, and then

        s_t = mean_i(w_t − w̃_{i,t,K}),  b_t = μ_t b_{t−1} + s_t,  w_{t+1} = w_t − η_t (s_t + μ_{t+1} b_t),

    with one μ in the paper. `moved` is added to the fast weights before each inner step. Returns the fast
    weights of each worker and the slow ones, after each inner step.
    """
    w = np.asarray(start, np.float64)
    b = np.zeros_like(w)
    workers = [w for _ in inners]
    fast, slow = [], []
    for i in range(steps):
        workers = workers if moved is None else [p + moved[i] for p in workers]
        workers = [p + step(p) for p, step in zip(workers, inners, strict=True)]
        t, k = divmod(i, period)
        if k == period - 1:
            s = np.mean([w - p for p in workers], axis=0)
            b = momentum(t) * b + s
            w = w - rate(t) * (s + momentum(t + 1) * b)
            workers = [w for _ in inners]
        fast.append(np.stack(workers))
        slow.append(w)
    return np.stack(fast), np.stack(slow)


def snoo(
    step: Step,
    start: Array,
    period: int,
    rate: Sequence,
    momentum: Sequence,
    steps: int,
    moved: Array | None = None,
) -> tuple[Array, Array]:
    """Kallusky et al., *SNOO*, 2025, algorithm 1, which is DiLoCo's with one worker."""
    fast, slow = diloco([step], start, period, rate, momentum, steps, moved)
    return fast[:, 0], slow


def ema_nesterov(
    step: Step, start: Array, lookahead: Sequence, decay: Sequence, steps: int
) -> tuple[Array, Array]:
    """Yau et al., *EMA-Nesterov*, 2026, with A(p) = p + u(p) the inner optimizer:

        x_{t+1} = A(x_t + β_t m_t),   m_{t+1} = γ_t m_t + (1 − γ_t)(x_{t+1} − x_t),   m_0 = 0.

    Returns (x_t + β_t m_t for t = 1 … n, x_1 … x_n).
    """
    x = np.asarray(start, np.float64)
    m = np.zeros_like(x)
    ps, xs = [], []
    for t in range(steps):
        p = x + lookahead(t) * m
        new = p + step(p)
        m = decay(t) * m + (1 - decay(t)) * (new - x)
        x = new
        ps.append(x + lookahead(t + 1) * m)
        xs.append(x)
    return np.stack(ps), np.stack(xs)


def gpa(step: Step, start: Array, mu_x: Sequence, mu_y: Sequence, steps: int) -> tuple[Array, Array, Array]:
    """Defazio et al., *Smoothing DiLoCo with primal averaging*, 2025, with u the inner step:

        y_t = μ_y,t x_t + (1 − μ_y,t) z_t,   z_{t+1} = z_t + u(y_t),
        x_{t+1} = μ_x,t x_t + (1 − μ_x,t) z_{t+1},   x_0 = z_0.

    Returns (y_1 … y_n, x_1 … x_n, z_1 … z_n).
    """
    x = z = np.asarray(start, np.float64)
    ys, xs, zs = [], [], []
    for t in range(steps):
        y = mu_y(t) * x + (1 - mu_y(t)) * z
        z = z + step(y)
        x = mu_x(t) * x + (1 - mu_x(t)) * z
        ys.append(mu_y(t + 1) * x + (1 - mu_y(t + 1)) * z)
        xs.append(x)
        zs.append(z)
    return np.stack(ys), np.stack(xs), np.stack(zs)
