"""Rules for a convex objective, with a prox or without: the bound falls as 1/n²."""

import jax
import jax.numpy as jnp

from nag_optax.acceleration.momentum.rule import MomentumRule, Scalar


def fista() -> MomentumRule:
    """The rule of Nesterov 1983 and of FISTA, for a convex objective.

    ```
    t_1 = 1,   t_{k+1} = (1 + √(1 + 4 t_k²))/2,   β_k = (t_k − 1)/t_{k+1},   γ_k = 0
    ```

    With steps of length 1/L, of gradient descent or of proximal gradient, the iterate of
    `eval_params` has F(x_n) − F* ≤ L R²/(2 t_n²) ≤ 2 L R²/(n + 1)², R = ‖x_0 − x*‖. When the step
    size becomes s⁺, the correction of Scheinberg, Goldfarb and Bai keeps the bound (`fista`):
    t_{k+1} = (1 + √(1 + 4 (s/s⁺) t_k²))/2.

    Returns:
        A `MomentumRule`. Its state is t, a scalar. A restart sends it back to t = 1.

    Example:
        >>> import nag_optax
        >>> rule = nag_optax.momentum.fista()
        >>> (beta, _), state = rule.coefficients(rule.init())
        >>> (next_beta, _), _ = rule.coefficients(state)
        >>> print(f"{beta:.4f} {next_beta:.4f}")
        0.0000 0.2818

    Source: Beck and Teboulle, *A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems*, 2009; Nesterov, *A method for solving the convex programming problem with convergence
    rate O(1/k²)*, 1983.
    """

    def coefficients(t: jax.Array) -> tuple[tuple[Scalar, Scalar], jax.Array]:
        following = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return ((t - 1) / following, 0.0), following

    def retime(t: jax.Array, ratio: Scalar) -> tuple[Scalar, jax.Array]:
        # Both are formed with t_k² = t(t − 1): only s·t(t − 1) must not exceed its last value.
        other = (1 + jnp.sqrt(1 + 4 * ratio * t * (t - 1))) / 2
        return t / other, other

    return MomentumRule(lambda: jnp.ones([], float), coefficients, retime=retime)
