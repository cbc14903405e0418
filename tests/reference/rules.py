"""The momentum rules beyond FISTA's, each as the recursion of its paper."""

from collections.abc import Callable

import numpy as np

from tests.reference.common import Array, Gradient


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
