"""Rules for a strongly convex objective of known condition number κ = L/μ, q = 1/κ."""

from typing import Any

import jax
import jax.numpy as jnp

from nag_optax._arguments import check_number
from nag_optax.acceleration.momentum.rule import MomentumRule, Scalar, Step, as_float, constant


def strongly_convex(condition_number: Scalar) -> MomentumRule:
    """Nesterov's constant momentum for a strongly convex objective.

    ```
    β = (1 − √q)/(1 + √q),   γ = 0,   q = 1/condition_number = μ/L
    ```

    With steps of length 1/L the iterate of `eval_params` has
    f(x_n) − f* ≤ (1 − √q)ⁿ (f(x_0) − f* + μR²/2), R = ‖x_0 − x*‖.

    Args:
        condition_number: L/μ, a number of at least 1; at 1 the method is gradient descent.

    Returns:
        A `MomentumRule` without a state.

    Raises:
        ValueError: if `condition_number` is a Python number below 1 or not finite.
        TypeError: if it is neither a number nor an array.

    Example:
        >>> import nag_optax
        >>> rule = nag_optax.momentum.strongly_convex(100.0)
        >>> (beta, gamma), _ = rule.coefficients(rule.init())
        >>> print(f"{beta:.4f} {gamma}")
        0.8182 0.0

    Source: Nesterov, *Introductory lectures on convex optimization*, 2004, section 2.2.1.
    """
    root = _root(condition_number)
    return constant((root - 1) / (root + 1))


def triple_momentum(condition_number: Scalar) -> MomentumRule:
    """The triple momentum method: the fastest known rate with constant coefficients.

    ```
    q = 1/condition_number = μ/L,   ρ = 1 − √q
    β = ρ²/(2 − ρ),   γ = ρ,   x = p + ρ/(2(1 − ρ))·w
    ```

    With steps of length 1/L the iterate of `eval_params` has f(x_n) − f* ≤ ρ^{2n} L²R²/(2μ): the
    rate is ρ² a step, where `strongly_convex` has ρ. The objective is smooth, without a prox.

    Args:
        condition_number: L/μ, a number of at least 1; at 1 the method is gradient descent.

    Returns:
        A `MomentumRule` without a state.

    Raises:
        ValueError: if `condition_number` is a Python number below 1 or not finite.
        TypeError: if it is neither a number nor an array.

    Example:
        >>> import nag_optax
        >>> rule = nag_optax.momentum.triple_momentum(100.0)
        >>> (beta, gamma), state = rule.coefficients(rule.init())
        >>> print(f"{beta:.4f} {gamma:.4f} {rule.evaluation(state):.4f}")
        0.7364 0.9000 4.5000

    Source: Van Scoy, Freeman and Lynch, *The fastest known globally convergent first-order method
    for minimizing strongly convex functions*, 2018. Its α, β, γ and δ are in the package's tests;
    the form above is theirs with the one offset w, and steps of length 1/L in place of (1 + ρ)/L.
    """
    root = _root(condition_number)
    rho = 1 - 1 / root
    coefficients = rho**2 / (2 - rho), rho
    # A function, because an injected condition number may change.
    return MomentumRule(tuple, lambda state, _=None: (coefficients, state), lambda state: (root - 1) / 2)


def item(condition_number: Scalar) -> MomentumRule:
    """The information-theoretic exact method: no first-order method comes closer to x*.

    ```
    q = 1/condition_number
    A_0 = 0,   A_{k+1} = ((1 + q) A_k + 2 (1 + √((1 + A_k)(1 + q A_k))))/(1 − q)²
    b_k = A_{k+1}/((1 − q) A_{k+2}),   δ_k = ½((1 − q)² A_{k+1} − (1 + q) A_k)/(1 + q + q A_k)
    e_{−1} = 0,   e_k = b_k/(1 − b_k),   x = p + e_k·w
    β_k = (1 − b_k)(1 − q δ_k) e_{k−1},   β_k + γ_k = (1 − b_k)(δ_k − 1)
    ```

    With steps of length 1/L the iterate of `eval_params`, z in the paper, has
    ‖x_N − x*‖² ≤ R²/(1 + q A_N), at the rate (1 − √q)² a step. The objective is smooth, without a
    prox.

    Args:
        condition_number: L/μ, a number of at least 1; at 1 the method is gradient descent.

    Returns:
        A `MomentumRule`. Its state is 1/(1 + A_k), a scalar that cannot overflow as A_k would. A
        restart sends it back to k = 0.

    Raises:
        ValueError: if `condition_number` is a Python number below 1 or not finite.
        TypeError: if it is neither a number nor an array.

    Example:
        >>> import nag_optax
        >>> rule = nag_optax.momentum.item(100.0)
        >>> state = rule.init()
        >>> for _ in range(200):  # towards triple momentum: ρ²/(2 − ρ), ρ and ρ/(2(1 − ρ))
        ...     (beta, gamma), state = rule.coefficients(state)
        >>> print(f"{beta:.4f} {gamma:.4f} {rule.evaluation(state):.4f}")
        0.7364 0.9000 4.5000

    Source: Taylor and Drori, *An optimal gradient method for smooth strongly convex minimization*,
    2022.
    """
    check_number("condition_number", condition_number, minimum=1)
    q: Any = 1 / as_float(condition_number)

    # All of A, with j = 1/(1 + A), multiplied by 1 − j: then neither A = 0 nor q = 1 divides by zero,
    # and no difference of near numbers is taken.
    def part(j: jax.Array) -> jax.Array:
        return j + jnp.sqrt(q + (1 - q) * j)

    def evaluation(j: jax.Array) -> jax.Array:
        return (1 - q) * (1 - j) / (2 * (q * (1 - j) + part(j)))

    def coefficients(j: jax.Array, _: Step | None = None) -> tuple[tuple[Scalar, Scalar], jax.Array]:
        delta = part(j) / (q + j)
        shrunk = (1 - q) ** 2 * j
        following = shrunk / (shrunk + (1 + q) * (1 - j) + 2 * part(j))
        one_minus_b = 1 / (1 + evaluation(following))
        beta = one_minus_b * (1 - q * delta) * evaluation(j)
        return (beta, one_minus_b * (delta - 1) - beta), following

    return MomentumRule(lambda: jnp.ones([], float), coefficients, evaluation)


def _root(condition_number: Scalar) -> Any:
    """√κ, of a number in double precision, of an array in the default float dtype."""
    check_number("condition_number", condition_number, minimum=1)
    return as_float(condition_number) ** 0.5
