"""Momentum for deep networks that rises by plateaus."""

import jax
import jax.numpy as jnp

from nag_optax._arguments import check_number
from nag_optax.acceleration.momentum.rule import MomentumRule, Scalar, as_float, scheduled


def sutskever(max_momentum: Scalar = 0.99) -> MomentumRule:
    """Momentum that rises in steps of 250 towards a ceiling (Sutskever et al., 2013).

    ```
    m_t = min(1 − 2^(−1 − log₂(⌊t/250⌋ + 1)), max_momentum)
        = min(1 − ½/(⌊t/250⌋ + 1), max_momentum)
    β_t = m_{t+1},  γ_t = 0
    ```

    Args:
        max_momentum: the ceiling, a number in [0, 1); the paper uses 0.9 to 0.999.

    Returns:
        A `MomentumRule` for `accelerate`, `scale_by_nesterov` or `nag`. A restart sends it back to
        t = 0.

    Raises:
        ValueError: if `max_momentum` is a Python number outside [0, 1).
        TypeError: if it is neither a number nor an array.

    Example:
        >>> import nag_optax
        >>> rule = nag_optax.momentum.sutskever(0.99)
        >>> (beta, gamma), state = rule.coefficients(rule.init())
        >>> float(beta), gamma
        (0.5, 0.0)

    Source: Sutskever, Martens, Dahl, Hinton, *On the importance of initialization and momentum in
    deep learning*, ICML 2013, equation 5.
    """
    check_number("max_momentum", max_momentum, minimum=0, below=1)
    ceiling = as_float(max_momentum)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        plateau = (jnp.asarray(count) // 250 + 1).astype(float)
        return jnp.minimum(1.0 - 0.5 / plateau, ceiling)

    return scheduled(schedule)
