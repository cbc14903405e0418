"""Proximal operators."""

import numpy as np

from tests.reference.common import Array


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


def simplex(p: Array, radius: float) -> Array:
    """The z ≥ 0 nearest to p whose sum is the radius: Held, Wolfe and Crowder, 1974."""
    ranked = np.sort(p)[::-1]
    means = (np.cumsum(ranked) - radius) / np.arange(1, p.size + 1)
    return np.maximum(p - means[np.flatnonzero(ranked > means)[-1]], 0.0)
