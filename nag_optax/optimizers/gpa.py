"""`gpa`: generalized primal averaging around any optimizer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import at_step, check_schedule, is_python_number
from nag_optax.acceleration.around import around
from nag_optax.acceleration.momentum import Step
from nag_optax.acceleration.step import Recursion


class _Scalars(NamedTuple):
    """The `mu_x` that made x, and the `mu_y` with which the parameters lie between x and z now."""

    step: jax.Array
    mu_x: jax.Array
    mu_y: jax.Array


def gpa(
    inner: optax.GradientTransformation,
    mu_x: optax.ScalarOrSchedule = 0.9967,
    mu_y: optax.ScalarOrSchedule = 0.7,
    *,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Generalized primal averaging: any optimizer, with gradients between its iterate and an average.

    ```
    y = μ_y·x + (1 − μ_y)·z              where the gradient is taken
    z⁺ = z + u(y)                        u, the step of the inner optimizer
    x⁺ = μ_x·x + (1 − μ_x)·z⁺
    ```

    The parameters in and out are y. With v⁺ = z⁺ − x, which starts at 0, this is

    ```
    v⁺ = μ_x·v + u,   Δ = (1 − μ_y)·u + (μ_y − μ_x⁺·μ_y⁺)·v⁺,   x = y − (1 − μ_y)·μ_x·v
    ```

    with one buffer, v, and no division. (Storing z and solving for x would lose digits, and fail at
    μ_y = 0.) The average shortens the steps, so that the inner learning rate is larger than without it.
    With u = −lr/(1 − m)·g this is `nag(lr, m)` for μ_x = μ_y = m, and the heavy ball for μ_x = m,
    μ_y = 1. With μ_y = 0 it is `inner`, and x is an exponential moving average of its iterates. With
    the schedule μ_x = t/(t + 1) it is Schedule-Free.

    It is an experiment for learning rates that do not decay. Around AdamW with a decaying rate it has
    not lowered the loss of our runs.

    Args:
        inner: the optimizer, any Optax transformation with its learning rate. It is given y, the
            gradient at y, and all extra arguments, so that its weight decay acts on y, as in the
            authors' code.
        mu_x: μ_x in [0, 1), the weight of the old x in the average; a number or an Optax schedule of
            the step, from 0. The authors take 0.9^(1/K) to replace DiLoCo with a period of K = 32.
            A number 0 allocates no buffer, since then x = y = z.
        mu_y: μ_y in [0, 1], the weight of x in y; a number or an Optax schedule of the gradient's step.
            Under `optax.inject_hyperparams`, which would evaluate it one step late, name it in
            `static_args`.
        accumulator_dtype: dtype of v; None takes each parameter's. Use `jnp.float32` with bfloat16
            parameters.

    Returns:
        A transformation with one buffer besides the inner state. `eval_params` gives x.

    Raises:
        ValueError: if a Python number is out of range, or the trees of updates and parameters differ.
        TypeError: if inner is no transformation, an argument is neither a number nor a schedule, or
            a parameter is not of floating or complex dtype.

    Example:
        >>> import jax, jax.numpy as jnp, optax, nag_optax
        >>> optimizer = nag_optax.gpa(optax.sgd(0.5), mu_x=0.9)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(jnp.all(jnp.abs(nag_optax.eval_params(state, params)) < 0.01))
        True

    Source: Defazio, Mishchenko, Raman, Shi, Xiao, *Smoothing DiLoCo with primal averaging for faster
    training of LLMs*, arXiv:2512.17131, 2025.
    """
    check_schedule("mu_x", mu_x, minimum=0, below=1)
    check_schedule("mu_y", mu_y, minimum=0, below=1, closed=True)

    def init() -> _Scalars:
        step = jnp.zeros([], jnp.int32)
        return _Scalars(step, at_step("mu_x", mu_x, step), at_step("mu_y", mu_y, step))

    def coefficients(scalars: _Scalars, _: Step):
        following = jnp.asarray(optax.safe_increment(scalars.step))
        new = _Scalars(following, at_step("mu_x", mu_x, scalars.step), at_step("mu_y", mu_y, following))
        # μ_y − μ_x⁺·μ_y⁺ without cancellation where 1 − μ_x is small.
        ahead = (scalars.mu_y - new.mu_y) + (1.0 - new.mu_x) * new.mu_y
        return (scalars.mu_x, 1.0, 1.0 - scalars.mu_y, ahead), new

    recursion = Recursion(init, coefficients, lambda scalars: -(1.0 - scalars.mu_y) * scalars.mu_x)
    plain = is_python_number(mu_x) and mu_x == 0
    return around(inner, None if plain else recursion, accumulator_dtype)
