"""Rules whose theorem holds with a prox: FISTA, its cousin with converging iterates, and GFISTA."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import check_number, is_python_number
from nag_optax.acceleration.momentum.rule import MomentumRule, Scalar, Step, as_float


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

    def coefficients(t: jax.Array, _: Step | None = None) -> tuple[tuple[Scalar, Scalar], jax.Array]:
        following = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return ((t - 1) / following, 0.0), following

    def retime(t: jax.Array, ratio: Scalar) -> tuple[Scalar, jax.Array]:
        # Both use t_k² = t(t − 1). The bound needs only that s·t(t − 1) does not exceed its last value.
        other = (1 + jnp.sqrt(1 + 4 * ratio * t * (t - 1))) / 2
        return t / other, other

    return MomentumRule(lambda: jnp.ones([], float), coefficients, retime=retime)


def chambolle_dossal(a: Scalar = 3.0) -> MomentumRule:
    """FISTA with a plain sequence, whose iterates converge, for a convex objective.

    ```
    β_k = (k − 1)/(k + a),   k = 1, 2, …,   γ_k = 0
    ```

    With steps of length 1/L, of gradient descent or of proximal gradient, the iterate of
    `eval_params` has F(x_n) − F* ≤ a² L R²/(2 (n + a − 1)²). For a > 2 the iterates themselves
    converge; a = 2 is Nesterov's simplified momentum (k − 1)/(k + 2).

    Args:
        a: a number of at least 2. A larger one damps the momentum.

    Returns:
        A `MomentumRule`. Its state is the number of steps taken. A restart sends it back to 0.

    Raises:
        ValueError: if `a` is a Python number below 2 or not finite.
        TypeError: if it is neither a number nor an array.

    Example:
        >>> import nag_optax
        >>> rule = nag_optax.momentum.chambolle_dossal(3.0)
        >>> (beta, _), state = rule.coefficients(rule.init())
        >>> (next_beta, _), _ = rule.coefficients(state)
        >>> print(f"{beta:.4f} {next_beta:.4f}")
        0.0000 0.2000

    Source: Chambolle and Dossal, *On the convergence of the iterates of the fast iterative
    shrinkage/thresholding algorithm*, 2015.
    """
    check_number("a", a, minimum=2)
    a = as_float(a)

    def coefficients(count: jax.Array, _: Step | None = None) -> tuple[tuple[Scalar, Scalar], jax.Array]:
        steps = count.astype(float)
        return (steps / (steps + (1 + a)), 0.0), jnp.asarray(optax.safe_increment(count))

    return MomentumRule(lambda: jnp.zeros([], jnp.int32), coefficients)


def gfista(step_size: Scalar, strong_convexity: Scalar, prox_strong_convexity: Scalar = 0.0) -> MomentumRule:
    """FISTA that knows the strong convexity of both parts; without any it is FISTA.

    ```
    q = τ(μ_f + μ_g)/(1 + τμ_g)
    t_1 = 1,   t_{k+1} = ½(1 − q t_k² + √((1 − q t_k²)² + 4 t_k²))
    β_k = (t_k − 1)/t_{k+1} · (1 + τμ_g − t_{k+1} τ(μ_f + μ_g))/(1 − τμ_f),   γ_k = 0
    ```

    Here τ is the step size. The smooth part has the strong convexity μ_f, and the part with the prox
    has μ_g. The iterate of `eval_params` has
    F(x_n) − F* ≤ min{4/(n + 1)², (1 + √q)(1 − √q)ⁿ} (1 + τμ_g) R²/(2τ). With q = 0 it is FISTA.

    Args:
        step_size: τ in (0, 1/L], the learning rate of the steps that are accelerated.
        strong_convexity: μ_f of at least 0, with τμ_f at most 1, as τ ≤ 1/L implies.
        prox_strong_convexity: μ_g of at least 0; 0 without a prox.

    Returns:
        A `MomentumRule`. Its state is (t − 1)/(1 − q), a scalar. A restart sends it back to t = 1.

    Raises:
        ValueError: if one is a Python number out of its range, or τμ_f is above 1.
        TypeError: if one is neither a number nor an array.

    Example:
        >>> import nag_optax
        >>> rule = nag_optax.momentum.gfista(0.1, strong_convexity=0.1)
        >>> state = rule.init()
        >>> for _ in range(200):
        ...     (beta, _), state = rule.coefficients(state)
        >>> print(f"{beta:.4f}")  # (1 − √q)/(1 + √q)
        0.8182

    Source: Chambolle and Pock, *An introduction to continuous optimization for imaging*, 2016.
    """
    check_number("step_size", step_size, minimum=0, open_minimum=True)
    check_number("strong_convexity", strong_convexity, minimum=0)
    check_number("prox_strong_convexity", prox_strong_convexity, minimum=0)
    if is_python_number(step_size) and is_python_number(strong_convexity):
        # The margin is for the rounding of a product that is exactly 1.
        if float(step_size) * float(strong_convexity) > 1 + 1e-6:
            raise ValueError(
                "step_size·strong_convexity must be at most 1, because step_size is at most 1/L; "
                f"got {step_size}·{strong_convexity}"
            )
    tau, mu_f, mu_g = as_float(step_size), as_float(strong_convexity), as_float(prox_strong_convexity)
    ratio: Any = tau * (mu_f + mu_g) / (1 + tau * mu_g)

    # With t = 1 + (1 − q)·s nothing is divided by 1 − q: t⁺(t⁺ − 1) = t²(1 − q·t⁺) is
    # (1 − q)·s⁺² + (1 + q·t²)·s⁺ = t², and the same identity makes β of the second factor.
    def coefficients(s: jax.Array, _: Step | None = None) -> tuple[tuple[Scalar, Scalar], jax.Array]:
        q = jnp.asarray(ratio, float)
        q = jnp.where(q > 1, 1.0, q)
        square = (1 + (1 - q) * s) ** 2
        linear = 1 + q * square
        following = 2 * square / (linear + jnp.sqrt(linear**2 + 4 * (1 - q) * square))
        return ((1 - q) * s * following / square, 0.0), following

    return MomentumRule(lambda: jnp.zeros([], float), coefficients)
