"""The optimized gradient method: the best worst case for a smooth convex objective."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import check_number
from nag_optax.acceleration.momentum.rule import MomentumRule, Scalar, Step


class OgmState(NamedTuple):
    """θ_k, and k, the steps taken in this run."""

    theta: jax.Array
    steps: jax.Array


def ogm(num_steps: Scalar | None = None) -> MomentumRule:
    """The optimized gradient method, for a smooth convex objective without a prox.

    ```
    θ_0 = 1,   θ_{k+1} = (1 + √(1 + 4 θ_k²))/2,   β_k = (θ_k − 1)/θ_{k+1},   γ_k = θ_k/θ_{k+1}
    θ_N = (1 + √(1 + 8 θ_{N−1}²))/2 in the last of N = num_steps
    ```

    With steps of length 1/L the iterate of `eval_params` has, half of FISTA's bound,

    - at any time, x = p − w: f(x_{k+1}) − f* ≤ L R²/(4 θ_k²);
    - after the last of `num_steps`, x = p: f(p_N) − f* ≤ L R²/(2 θ_N²) ≤ L R²/(N + 1)², which no
      first-order method improves upon.

    Args:
        num_steps: the number of steps that will be taken, an integer of at least 1; None if that
            is not known. A step after the last begins a new run of `num_steps` from where p is.

    Returns:
        A `MomentumRule`. Its state is θ, and with `num_steps` the number of steps taken. A restart
        sends it back to the beginning, with all of `num_steps` ahead.

    Raises:
        ValueError: if `num_steps` is a Python integer below 1 or of more than 31 bits.
        TypeError: if it is neither an integer, an array nor None.

    Example:
        >>> import jax.numpy as jnp, optax, nag_optax
        >>> optimizer = nag_optax.nag(1 / 3, nag_optax.momentum.ogm(num_steps=4))
        >>> params = jnp.array(1.0)
        >>> state = optimizer.init(params)
        >>> for _ in range(4):  # f = 3 x²/2
        ...     updates, state = optimizer.update(3 * params, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(f"{1.5 * nag_optax.eval_params(state, params)**2:.5f}")  # L R²/(2 θ_4²)
        0.07675

    Source: Kim and Fessler, *Optimized first-order methods for smooth convex minimization*, 2016;
    the bound at any time is of the same authors, *On the convergence analysis of the optimized
    gradient method*, 2017; that it is the best, Drori, *The exact information-based complexity of smooth
    convex minimization*, 2017.
    """

    def following_pair(theta: jax.Array, factor: Scalar) -> tuple[tuple[Scalar, Scalar], jax.Array]:
        following = (1 + jnp.sqrt(1 + factor * theta**2)) / 2
        return ((theta - 1) / following, theta / following), following

    if num_steps is None:
        return MomentumRule(lambda: jnp.ones([], float), lambda theta, _=None: following_pair(theta, 4.0))
    check_number("num_steps", num_steps, minimum=1, below=2**31, integer=True)

    def init() -> OgmState:
        return OgmState(theta=jnp.ones([], float), steps=jnp.zeros([], jnp.int32))

    def is_last(steps: jax.Array) -> jax.Array:
        return steps >= jnp.asarray(num_steps, jnp.int32)

    def coefficients(state: OgmState, _: Step | None = None) -> tuple[tuple[Scalar, Scalar], OgmState]:
        # With θ = 1, β is 0: the offset of the run before has no part in the next.
        over = is_last(state.steps)
        theta = jnp.where(over, 1, state.theta)
        steps = jnp.asarray(optax.safe_increment(jnp.where(over, 0, state.steps)))
        pair, theta = following_pair(theta, jnp.where(is_last(steps), 8, 4).astype(float))
        return pair, OgmState(theta, steps)

    def evaluation(state: OgmState) -> jax.Array:
        return jnp.where(is_last(state.steps), 0.0, -1.0)

    return MomentumRule(init, coefficients, evaluation)
