"""Momentum that grows and is dropped on a schedule."""

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import check_number
from nag_optax.acceleration.momentum.rule import MomentumRule, Scalar, Step


def scheduled_restart(period: Scalar) -> MomentumRule:
    """Nesterov's growing momentum, which begins again every `period` steps, for stochastic gradients.

    ```
    β_t = c/(c + 3),   c = t mod period,   t = 0, 1, …,   γ_t = 0
    ```

    Without noise each period has the bound of `chambolle_dossal(2)` from where it begins:
    f(x_n) − f* ≤ 2 L R²/(n + 1)², n steps after a beginning at distance R, with steps of length 1/L.

    Args:
        period: an integer of at least 1. The paper takes some tens of steps, and more as the
            learning rate falls; 1 is plain descent.

    Returns:
        A `MomentumRule`. Its state is the number of steps taken. A restart by `restart=` sends it
        back to 0.

    Raises:
        ValueError: if `period` is a Python integer below 1 or of more than 31 bits.
        TypeError: if it is neither an integer nor an array.

    Example:
        >>> import nag_optax
        >>> rule = nag_optax.momentum.scheduled_restart(3)
        >>> state, betas = rule.init(), []
        >>> for _ in range(4):
        ...     (beta, _), state = rule.coefficients(state)
        ...     betas.append(round(float(beta), 2))
        >>> betas
        [0.0, 0.25, 0.4, 0.0]

    Source: Wang, Nguyen, Sun, Bertozzi, Baraniuk and Osher, *Scheduled restart momentum for
    accelerated stochastic gradient descent*, 2020.
    """
    check_number("period", period, minimum=1, below=2**31, integer=True)

    def coefficients(count: jax.Array, _: Step | None = None) -> tuple[tuple[Scalar, Scalar], jax.Array]:
        position = (count % jnp.asarray(period, jnp.int32)).astype(float)
        return (position / (position + 3), 0.0), jnp.asarray(optax.safe_increment(count))

    return MomentumRule(lambda: jnp.zeros([], jnp.int32), coefficients)
