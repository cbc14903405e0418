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
    growth: Callable[[int], float] = lambda successes: min(1.03 ** (successes + 1), 2.0),
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
    Candès, 2015). As y_{k+1} is then that of every step size, s_{k+1} is doubled until it is rejected,
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


def chambolle_dossal(
    gradient: Gradient, start: Array, step_size: float, a: float, steps: int
) -> tuple[Array, Array]:
    """Chambolle and Dossal, *On the convergence of the iterates of the fast iterative
    shrinkage/thresholding algorithm*, 2015, with t_n = (n + a − 1)/a and y_0 = x_0:

        x_n = y_{n−1} − s ∇f(y_{n−1}),   y_n = x_n + (t_n − 1)/t_{n+1} (x_n − x_{n−1}).

    Returns (y_1 … y_n, x_1 … x_n).
    """
    x = y = np.asarray(start, np.float64)
    ys, xs = [], []
    for n in range(1, steps + 1):
        new = y - step_size * gradient(y)
        y = new + ((n + a - 1) / a - 1) / ((n + a) / a) * (new - x)
        x = new
        ys.append(y)
        xs.append(x)
    return np.stack(ys), np.stack(xs)


def gfista(
    gradient: Gradient,
    start: Array,
    step_size: float,
    convexity: float,
    prox_convexity: float,
    steps: int,
    prox: Callable[[Array, float], Array] = lambda z, step_size: z,
) -> tuple[Array, Array]:
    """Chambolle and Pock, *An introduction to continuous optimization for imaging*, 2016, the
    accelerated method for strongly convex parts, with t_0 = 0 and x_{−1} = x_0:

        q = τμ/(1 + τμ_g),   t_{k+1} = (1 − q t_k² + √((1 − q t_k²)² + 4 t_k²))/2,
        β_k = (t_k − 1)/t_{k+1} · (1 + τμ_g − t_{k+1} τμ)/(1 − τμ_f),
        y_k = x_k + β_k (x_k − x_{k−1}),   x_{k+1} = prox(y_k − τ ∇f(y_k)).

    Returns (y_1 … y_n, x_1 … x_n).
    """
    tau, mu = step_size, convexity + prox_convexity
    q = tau * mu / (1 + tau * prox_convexity)
    x = last = np.asarray(start, np.float64)
    t, ys, xs = 0.0, [], []
    for k in range(steps + 1):
        following = (1 - q * t**2 + np.sqrt((1 - q * t**2) ** 2 + 4 * t**2)) / 2
        beta = (t - 1) / following * (1 + tau * prox_convexity - following * tau * mu) / (1 - tau * convexity)
        y = x + beta * (x - last)
        if k > 0:
            ys.append(y)
            xs.append(x)
        x, last, t = prox(y - tau * gradient(y), tau), x, following
    return np.stack(ys), np.stack(xs)


def constant_step_scheme(
    gradient: Gradient, start: Array, convexity: float, smoothness: float, steps: int
) -> tuple[Array, Array]:
    """Nesterov, *Introductory lectures on convex optimization*, 2004, section 2.2.1: the general
    scheme with γ_0 = μ, so that α = √(μ/L), and its sequence v of minimisers of the estimates:

        y_k = (x_k + α v_k)/(1 + α),   x_{k+1} = y_k − ∇f(y_k)/L,
        v_{k+1} = (1 − α) v_k + α y_k − (α/μ) ∇f(y_k).

    Returns (y_1 … y_n, x_1 … x_n).
    """
    alpha = np.sqrt(convexity / smoothness)
    x = v = np.asarray(start, np.float64)
    ys, xs = [], []
    for _ in range(steps):
        y = (x + alpha * v) / (1 + alpha)
        x = y - gradient(y) / smoothness
        v = (1 - alpha) * v + alpha * y - alpha / convexity * gradient(y)
        ys.append((x + alpha * v) / (1 + alpha))
        xs.append(x)
    return np.stack(ys), np.stack(xs)


def ogm(
    gradient: Gradient, start: Array, smoothness: float, steps: int, last: bool
) -> tuple[Array, Array, list[float]]:
    """Kim and Fessler, *Optimized first-order methods for smooth convex minimization*, 2016, in the
    form OGM2, which sums the gradients; θ_0 = 1, x_0 = z_0 = start:

        y_{i+1} = x_i − ∇f(x_i)/L,   z_{i+1} = x_0 − (1/L) Σ_{k ≤ i} 2 θ_k ∇f(x_k),
        θ_{i+1} = (1 + √(1 + 4 θ_i²))/2, with 8 in place of 4 for the last one where `last`,
        x_{i+1} = (1 − 1/θ_{i+1}) y_{i+1} + (1/θ_{i+1}) z_{i+1}.

    Returns (x_1 … x_n, y_1 … y_n, θ_0 … θ_n).
    """
    x = z = np.asarray(start, np.float64)
    thetas, xs, ys = [1.0], [], []
    for i in range(steps):
        g = gradient(x)
        y = x - g / smoothness
        z = z - 2 * thetas[-1] / smoothness * g
        thetas.append((1 + np.sqrt(1 + (8 if last and i == steps - 1 else 4) * thetas[-1] ** 2)) / 2)
        x = (1 - 1 / thetas[-1]) * y + z / thetas[-1]
        xs.append(x)
        ys.append(y)
    return np.stack(xs), np.stack(ys), thetas


def triple_momentum(
    gradient: Gradient, start: Array, convexity: float, smoothness: float, steps: int
) -> tuple[Array, Array]:
    """Van Scoy, Freeman, Lynch, *The fastest known globally convergent first-order method for
    minimizing strongly convex functions*, 2018, with ξ_0 = ξ_{−1} = start:

        y_k = (1 + γ) ξ_k − γ ξ_{k−1},   ξ_{k+1} = (1 + β) ξ_k − β ξ_{k−1} − α ∇f(y_k),
        x_k = (1 + δ) ξ_k − δ ξ_{k−1}.

    Returns (y_1 … y_n, x_1 … x_n).
    """
    rho = 1.0 - np.sqrt(convexity / smoothness)
    alpha, beta = (1.0 + rho) / smoothness, rho**2 / (2.0 - rho)
    gamma, delta = rho**2 / ((1.0 + rho) * (2.0 - rho)), rho**2 / (1.0 - rho**2)
    xi = last = np.asarray(start, np.float64)
    ys, xs = [], []
    for _ in range(steps):
        y = (1 + gamma) * xi - gamma * last
        xi, last = (1 + beta) * xi - beta * last - alpha * gradient(y), xi
        ys.append((1 + gamma) * xi - gamma * last)
        xs.append((1 + delta) * xi - delta * last)
    return np.stack(ys), np.stack(xs)


def item(
    gradient: Gradient, start: Array, convexity: float, smoothness: float, steps: int
) -> tuple[Array, Array, list[float]]:
    """Taylor and Drori, *An optimal gradient method for smooth strongly convex minimization*, 2022,
    with A_0 = 0, x_0 = z_0 = start, q = μ/L:

        A_{k+1} = ((1 + q) A_k + 2 (1 + √((1 + A_k)(1 + q A_k))))/(1 − q)²,
        β_k = A_k/((1 − q) A_{k+1}),   δ_k = ½ ((1 − q)² A_{k+1} − (1 + q) A_k)/(1 + q + q A_k),
        y_k = (1 − β_k) z_k + β_k x_k,   x_{k+1} = y_k − ∇f(y_k)/L,
        z_{k+1} = (1 − q δ_k) z_k + q δ_k y_k − (δ_k/L) ∇f(y_k).

    Returns (y_1 … y_n, z_1 … z_n, A_0 … A_n).
    """
    q = convexity / smoothness
    x = z = np.asarray(start, np.float64)
    a, ys, zs, all_a = 0.0, [], [], []
    for k in range(steps + 1):
        all_a.append(a)
        following = ((1 + q) * a + 2 * (1 + np.sqrt((1 + a) * (1 + q * a)))) / (1 - q) ** 2
        beta = a / ((1 - q) * following)
        delta = ((1 - q) ** 2 * following - (1 + q) * a) / (1 + q + q * a) / 2
        y = (1 - beta) * z + beta * x
        if k > 0:
            ys.append(y)
            zs.append(z)
        g = gradient(y)
        x = y - g / smoothness
        z = (1 - q * delta) * z + q * delta * y - delta / smoothness * g
        a = following
    return np.stack(ys), np.stack(zs), all_a


def scheduled_restart(
    gradient: Gradient, start: Array, step_size: float, period: int, steps: int
) -> tuple[Array, Array]:
    """Wang et al., *Scheduled restart momentum for accelerated stochastic gradient descent*, 2020:

        v_{t+1} = w_t − s ∇f(w_t),
        w_{t+1} = v_{t+1} + (t mod F)/((t mod F) + 3) (v_{t+1} − v_t).

    Returns (w_1 … w_n, v_1 … v_n).
    """
    w = v = np.asarray(start, np.float64)
    ws, vs = [], []
    for t in range(steps):
        new = w - step_size * gradient(w)
        w = new + (t % period) / (t % period + 3) * (new - v)
        v = new
        ws.append(w)
        vs.append(v)
    return np.stack(ws), np.stack(vs)


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


def torch_nadam(
    gradient: Gradient,
    start: Array,
    learning_rate: Sequence,
    b1: float,
    b2: float,
    eps: float,
    momentum_decay: float,
    steps: int,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> Array:
    """The algorithm in the documentation of torch.optim.NAdam, t = 1, 2, …:

        decoupled: θ ← θ − γλθ;  else: g ← g + λθ
        μ_t = β₁(1 − ½·0.96^{tψ}),  μ_{t+1} = β₁(1 − ½·0.96^{(t+1)ψ})
        m = β₁m + (1 − β₁)g,  v = β₂v + (1 − β₂)g²
        m̂ = μ_{t+1} m/(1 − ∏_{i≤t+1} μ_i) + (1 − μ_t) g/(1 − ∏_{i≤t} μ_i),  v̂ = v/(1 − β₂ᵗ)
        θ ← θ − γ m̂/(√v̂ + ε)

    with g taken before the decay. Returns θ_1 … θ_n.
    """
    theta = np.asarray(start, np.float64)
    m, v, product, thetas = np.zeros_like(theta), np.zeros_like(theta), 1.0, []
    for t in range(1, steps + 1):
        g, rate = gradient(theta), learning_rate(t - 1)
        if decoupled:
            theta = theta - rate * weight_decay * theta
        else:
            g = g + weight_decay * theta
        mu, following = (b1 * (1 - 0.5 * 0.96 ** (i * momentum_decay)) for i in (t, t + 1))
        product *= mu
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        m_hat = following * m / (1 - product * following) + (1 - mu) * g / (1 - product)
        theta = theta - rate * m_hat / (np.sqrt(v / (1 - b2**t)) + eps)
        thetas.append(theta)
    return np.stack(thetas)


def keras_nadam(
    gradient: Gradient, start: Array, learning_rate: Sequence, b1: float, b2: float, eps: float, steps: int
) -> Array:
    """keras.optimizers.Nadam of Keras 3: u_t = β₁(1 − ½·0.96ᵗ), m += (g − m)(1 − β₁),
    v += (g² − v)(1 − β₂). Returns the variable after each step."""
    variable = np.asarray(start, np.float64)
    m, v, variables = np.zeros_like(variable), np.zeros_like(variable), []
    u = [b1 * (1.0 - 0.5 * 0.96**i) for i in range(1, steps + 2)]
    for i in range(steps):
        g = gradient(variable)
        m = m + (g - m) * (1 - b1)
        v = v + (g**2 - v) * (1 - b2)
        u_product, u_product_next = np.prod(u[: i + 1]), np.prod(u[: i + 2])
        m_hat = u[i + 1] * m / (1 - u_product_next) + (1 - u[i]) * g / (1 - u_product)
        v_hat = v / (1 - b2 ** (i + 1))
        variable = variable - m_hat * learning_rate(i) / (np.sqrt(v_hat) + eps)
        variables.append(variable)
    return np.stack(variables)


def dozat_nadam(
    gradient: Gradient,
    start: Array,
    learning_rate: Sequence,
    mu: Sequence,
    nu: Sequence,
    eps: float,
    steps: int,
    weight_decay: Sequence = lambda t: 0.0,
) -> Array:
    """Dozat, *Incorporating Nesterov momentum into Adam*, 2016, algorithm 2, with a schedule of μ
    (t = 1, 2, … as there) and without its factor ν on n̂, which no implementation has:

        m = μ_t m + (1 − μ_t) g,   m̄ = μ_{t+1} m/(1 − ∏_{i≤t+1} μ_i) + (1 − μ_t) g/(1 − ∏_{i≤t} μ_i).

    A schedule of ν replaces νᵗ by the product; the decay is decoupled. Constant μ and ν give
    optax.nadam and optax.nadamw. Returns θ_1 … θ_n.
    """
    theta = np.asarray(start, np.float64)
    m, n, thetas = np.zeros_like(theta), np.zeros_like(theta), []
    for t in range(1, steps + 1):
        g = gradient(theta)
        m = mu(t) * m + (1 - mu(t)) * g
        n = nu(t) * n + (1 - nu(t)) * g * g
        m_hat = m / (1 - np.prod([mu(i) for i in range(1, t + 2)]))
        g_hat = g / (1 - np.prod([mu(i) for i in range(1, t + 1)]))
        n_hat = n / (1 - np.prod([nu(i) for i in range(1, t + 1)]))
        direction = ((1 - mu(t)) * g_hat + mu(t + 1) * m_hat) / (np.sqrt(n_hat) + eps)
        theta = theta - learning_rate(t - 1) * (direction + weight_decay(t) * theta)
        thetas.append(theta)
    return np.stack(thetas)


def algoperf_nadamw(
    gradient: Gradient,
    start: Array,
    learning_rate: Sequence,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    steps: int,
) -> Array:
    """Choi et al., *On empirical comparisons of optimizers for deep learning*, 2019, table 1, NAdam,
    as MLCommons' AlgoPerf has it: m averages once more with g, and one t corrects both. The decay is
    decoupled. Returns θ_1 … θ_n."""
    theta = np.asarray(start, np.float64)
    m, v, thetas = np.zeros_like(theta), np.zeros_like(theta), []
    for t in range(1, steps + 1):
        g = gradient(theta)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        m_hat = (b1 * m + (1 - b1) * g) / (1 - b1**t)
        update = m_hat / (np.sqrt(v / (1 - b2**t)) + eps)
        theta = theta - learning_rate(t - 1) * (update + weight_decay * theta)
        thetas.append(theta)
    return np.stack(thetas)


def adan(
    gradient: Gradient,
    start: Array,
    learning_rate: Sequence,
    betas: tuple[Sequence, Sequence, Sequence],
    eps: float,
    steps: int,
    weight_decay: float = 0.0,
    proximal: bool = True,
    restart_every: int | None = None,
) -> Array:
    """Xie et al., *Adan*, 2022, algorithm 1, in the paper's β, which say what is *not* kept:

        m = (1 − β₁)m + β₁g,   v = (1 − β₂)v + β₂(g − g₋),   n = (1 − β₃)n + β₃(g + (1 − β₂)(g − g₋))²
        θ ← (1 + λη)⁻¹ (θ − η ∘ (m + (1 − β₂)v)),   η ∘ = learning rate / (√n + ε)

    with the bias correction of its authors' code: averages start at 0 and are divided by the weights
    that they hold. After a restart they do so again, and g₋ = g for one step. Without the proximal
    form, θ ← (1 − λη)θ − η∘(…). Returns θ_1 … θ_n.
    """
    theta = np.asarray(start, np.float64)
    zero = np.zeros_like(theta)
    thetas, previous = [], zero
    m, v, n, kept = zero, zero, zero, np.ones(3)
    for t in range(steps):
        g, rate = gradient(theta), learning_rate(t)
        beta = np.array([b(t) for b in betas])
        if t == 0 or (restart_every is not None and t % restart_every == 0):
            m, v, n, kept, previous = zero, zero, zero, np.ones(3), g
        change = g - previous
        m = (1 - beta[0]) * m + beta[0] * g
        v = (1 - beta[1]) * v + beta[1] * change
        n = (1 - beta[2]) * n + beta[2] * (g + (1 - beta[1]) * change) ** 2
        kept = kept * (1 - beta)
        weights = 1 - kept
        direction = (m / weights[0] + (1 - beta[1]) * v / weights[1]) / (np.sqrt(n / weights[2]) + eps)
        if proximal:
            theta = (theta - rate * direction) / (1 + weight_decay * rate)
        else:
            theta = (1 - weight_decay * rate) * theta - rate * direction
        previous = g
        thetas.append(theta)
    return np.stack(thetas)


def newton_schulz(matrix: Array, steps: int, coefficients: Array, eps: float = 1e-7) -> Array:
    """Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024, through the
    singular values: σ ← aσ + bσ³ + cσ⁵, from σ/max(‖σ‖, eps). One row (a, b, c) for each step."""
    left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
    sigma = sigma / max(np.sqrt(np.sum(sigma**2)), eps)
    for k in range(steps):
        a, b, c = coefficients[k]
        sigma = a * sigma + b * sigma**3 + c * sigma**5
    return (left * sigma) @ right


def muon(
    gradient: Gradient,
    start: Array,
    learning_rate: Sequence,
    momentum: float,
    weight_decay: float,
    scaling: Literal["original", "match_rms_adamw", "none"],
    steps: int,
) -> Array:
    """Jordan et al., 2024, with the decay and the second scaling of Liu et al., *Muon is scalable for
    LLM training*, 2025, for a matrix A × B whose rows are outputs, y = Wx:

        B_t = μ B_{t−1} + G_t,   O_t = NewtonSchulz5(G_t + μ B_t),
        W_t = W_{t−1} − η_t (s·O_t + λ W_{t−1}),   s = √max(1, A/B) or 0.2 √max(A, B).

    Returns (W_1 … W_n).
    """
    w, buffer = np.asarray(start, np.float64), np.zeros_like(start, np.float64)
    a, b = w.shape
    s = {"original": max(1.0, a / b) ** 0.5, "match_rms_adamw": 0.2 * max(a, b) ** 0.5, "none": 1.0}[scaling]
    ws = []
    for t in range(steps):
        g = gradient(w)
        buffer = momentum * buffer + g
        direction = newton_schulz(g + momentum * buffer, 5, np.tile([3.4445, -4.7750, 2.0315], (5, 1)))
        w = w - learning_rate(t) * (s * direction + weight_decay * w)
        ws.append(w)
    return np.stack(ws)


def gradient_norm_scales(
    norms: Array, decay: float, exponent: float, min_scale: float, max_scale: float
) -> Array:
    """Scale s_t of each step: the ratio of the weighted mean of the norms before to the present one,
    to a power, within limits. A norm beyond the lower limit counts as the one at the limit."""
    counted: list[float] = []
    scales = []
    for norm in norms:
        if not counted:
            scales.append(1.0)
            counted.append(norm)
            continue
        weights = [decay**k for k in reversed(range(len(counted)))]
        mean = sum(w * n for w, n in zip(weights, counted, strict=True)) / sum(weights)
        scales.append(min(max((mean / norm) ** exponent, min_scale), max_scale))
        limit = np.inf if min_scale == 0 else mean / min_scale ** (1 / exponent)
        counted.append(min(norm, limit))
    return np.array(scales)


Step = Callable[[Array], Array]


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


def snoo(
    step: Step,
    start: Array,
    period: int,
    rate: Sequence,
    momentum: Sequence,
    steps: int,
    moved: Array | None = None,
) -> tuple[Array, Array]:
    """Kallusky et al., *SNOO*, 2025, algorithm 1, which is DiLoCo's with one worker (Douillard et al.,
    2023): K steps of the inner optimizer from the slow weights w,

        s_t = w_t − w̃_{t,K},   b_t = μ_t b_{t−1} + s_t,   w_{t+1} = w_t − η_t (s_t + μ_{t+1} b_t),

    with one μ in the paper. `moved` is added to the fast weights before each inner step. Returns the
    fast and the slow weights after each inner step.
    """
    w = np.asarray(start, np.float64)
    b = np.zeros_like(w)
    fast, slow = [], []
    for t in range(-(-steps // period)):
        inner = w
        for k in range(period):
            i = t * period + k
            inner = inner if moved is None else inner + moved[i]
            inner = inner + step(inner)
            if k == period - 1:
                s = w - inner
                b = momentum(t) * b + s
                w = inner = w - rate(t) * (s + momentum(t + 1) * b)
            fast.append(inner)
            slow.append(w)
    return np.stack(fast[:steps]), np.stack(slow[:steps])


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
