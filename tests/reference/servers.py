"""Servers with workers who lag: DANA-Zero and Delayed Nesterov."""

from collections.abc import Iterable

import numpy as np

from tests.reference.common import Array, Gradient


def dana_zero(
    gradient: Gradient, start: Array, rate: float, momentum: float, events: Iterable[tuple[str, int]]
) -> tuple[Array, Array]:
    """Hakimi et al., *Taming momentum in a distributed asynchronous environment*, 2019, algorithm 4, with
    the velocities in units of the gradient:

        v_0 ← v_0 − v_i,  v_i ← γ v_i + g,  v_0 ← v_0 + v_i,  θ ← θ − η v_i,  send θ − η γ v_0.

    `events`: ("join", i), ("push", i) with the gradient where i was last sent, or ("leave", i).
    Returns θ, and what would be sent, after each event.
    """
    theta = np.asarray(start, np.float64)
    total, v, sent = np.zeros_like(theta), {}, {}
    thetas, points = [], []
    for what, i in events:
        if what == "join":
            v[i] = np.zeros_like(theta)
        elif what == "leave":
            total = total - v.pop(i)
        else:
            total = total - v[i]
            v[i] = momentum * v[i] + gradient(sent[i])
            total = total + v[i]
            theta = theta - rate * v[i]
        sent[i] = theta - rate * momentum * total
        thetas.append(theta)
        points.append(sent[i])
    return np.stack(thetas), np.stack(points)


def delayed_nesterov(
    updates: Iterable[Array], start: Array, rate: float, momentum: float, workers: int, c: float
) -> Array:
    """Liu et al., *Asynchronous local-SGD training for language modeling*, 2024, algorithm 3, with the
    arrivals given. Returns θ after each."""
    theta = np.asarray(start, np.float64)
    m, total, thetas = np.zeros_like(theta), np.zeros_like(theta), []
    for t, g in enumerate(updates):
        total = total + g
        if (t + 1) % workers == 0:
            m = momentum * m + total / workers
            theta = theta - rate * ((1 - c * workers + c) * momentum * m + g / workers)
            total = np.zeros_like(theta)
        else:
            theta = theta - rate * (c * momentum * m + g / workers)
        thetas.append(theta)
    return np.stack(thetas)


def diloco_rounds(rounds: Iterable[Array], start: Array, rate: float, momentum: float) -> Array:
    """Douillard et al., *DiLoCo*, 2023, algorithm 1, with the pseudo-gradients of each round's workers given:

        s = mean of the round,  b ← μ b + s,  w ← w − η (s + μ b).

    Returns w after the last round.
    """
    w = np.asarray(start, np.float64)
    b = np.zeros_like(w)
    for arrivals in rounds:
        s = np.mean(arrivals, axis=0)
        b = momentum * b + s
        w = w - rate * (s + momentum * b)
    return w
