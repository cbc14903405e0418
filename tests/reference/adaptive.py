"""Methods with a second moment: NAdam in its variants, and Adan."""

import numpy as np

from tests.reference.common import Array, Gradient, Sequence


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
    """Xie et al., *Adan*, 2022, algorithm 1, in the paper's β, which give the share that is *not* kept:

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


def laprop(
    gradient: Gradient,
    start: Array,
    learning_rate: Sequence,
    momentum: Sequence,
    b2: float,
    eps: float,
    steps: int,
    weight_decay: float = 0.0,
) -> tuple[Array, Array]:
    """Normalised gradients in Nesterov's two sequences, t = 1, 2, …:

        n = b₂n + (1 − b₂)g²,  s = g/(√(n/(1 − b₂ᵗ)) + ε),  g at y_{t−1}
        x_t = y_{t−1} − λ_t s,  y_t = x_t + μ_{t+1}(x_t − x_{t−1})

    A decoupled decay moves both by −λ_t·w·y_{t−1}. Returns y_1 … y_n and x_1 … x_n.
    """
    y = x = np.asarray(start, np.float64)
    n, ys, xs = np.zeros_like(y), [], []
    offset = np.zeros_like(y)  # y − x, which the decay does not change
    for t in range(1, steps + 1):
        g, rate = gradient(y), learning_rate(t - 1)
        n = b2 * n + (1 - b2) * g**2
        decay = rate * weight_decay * y
        following = y - rate * g / (np.sqrt(n / (1 - b2**t)) + eps)
        offset = momentum(t) * (following - (y - offset))
        x = following - decay
        y = x + offset
        ys.append(y)
        xs.append(x)
    return np.stack(ys), np.stack(xs)
