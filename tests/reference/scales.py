"""The scale of a step from the norms of its gradients."""

import numpy as np

from tests.reference.common import Array


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
