"""Muon, and the orthogonalisation in it."""

from typing import Literal

import numpy as np

from tests.reference.common import Array, Gradient, Sequence


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
