"""`ema_nesterov`: any optimizer, looking ahead along a moving average of its own path."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import at_step, check_schedule, is_python_number
from nag_optax.acceleration.around import around
from nag_optax.acceleration.momentum import Step
from nag_optax.acceleration.step import Recursion


class _Scalars(NamedTuple):
    """`lookahead` is the β with which the parameters look ahead now."""

    step: jax.Array
    lookahead: jax.Array


def ema_nesterov(
    inner: optax.GradientTransformation,
    lookahead: optax.ScalarOrSchedule = 0.5,
    decay: optax.ScalarOrSchedule = 0.99,
    *,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """EMA-Nesterov: any optimizer, looking ahead along a moving average of its own path.

    ```
    p = x + β·m                          where the gradient is taken
    x⁺ = p + u(p)                        u, the step of the inner optimizer
    m⁺ = γ·m + (1 − γ)·(x⁺ − x)          Δ = u + β⁺·m⁺
    ```

    The parameters in and out are p. The one buffer is m, which starts at 0, so that m goes on averaging
    while β is 0. At a constant β this is `accelerate` after `inner`, with a rule whose coefficients are
    γ + (1 − γ)·β and −γ. With γ = 0 it is Nesterov's method with momentum β.

    It is an experiment for long runs. Around AdamW it has not lowered the loss of our short ones.

    Args:
        inner: the optimizer, any Optax transformation with its learning rate. It is given p, the
            gradient at p, and all extra arguments; its own decay, clipping and schedules stay in it.
        lookahead: β in [0, 1), a number or an Optax schedule, which is read for the gradient that
            comes next. In the paper it is 0 in warm-up and in the last part of the decay. A
            number 0 allocates no buffer. Under `optax.inject_hyperparams`, which would evaluate a
            schedule one step late, name it in `static_args`.
        decay: γ in [0, 1), a number or an Optax schedule.
        accumulator_dtype: dtype of m; None takes each parameter's. bfloat16 loses increments of 1 %:
            use `jnp.float32` with bfloat16 parameters.

    Returns:
        A transformation with one buffer besides the inner state. `eval_params` gives x = p − β·m.

    Raises:
        ValueError: if a Python number is out of range, or the trees of updates and parameters differ.
        TypeError: if inner is no transformation, an argument is neither a number nor a schedule, or
            a parameter is not of floating or complex dtype.

    Example:
        >>> import jax, jax.numpy as jnp, optax, nag_optax
        >>> beta = optax.piecewise_interpolate_schedule("linear", 0.5, {80: 1.0, 100: 0.0})
        >>> optimizer = nag_optax.ema_nesterov(optax.adam(0.1), beta, decay=0.9)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(jnp.all(jnp.abs(nag_optax.eval_params(state, params)) < 0.05))
        True

    Source: Yau, Li, Glentis, Boreiko, Wai, Hong, *EMA-Nesterov: stabilizing Nesterov's lookahead for
    accelerated deep learning optimization*, arXiv:2605.25395, 2026.
    """
    check_schedule("lookahead", lookahead, minimum=0, below=1)
    check_schedule("decay", decay, minimum=0, below=1)

    def init() -> _Scalars:
        step = jnp.zeros([], jnp.int32)
        return _Scalars(step, at_step("lookahead", lookahead, step))

    def coefficients(scalars: _Scalars, _: Step):
        following = jnp.asarray(optax.safe_increment(scalars.step))
        gamma = at_step("decay", decay, scalars.step)
        beta = at_step("lookahead", lookahead, following)
        # x⁺ − x = β·m + u, with the β that made p.
        keep = gamma + (1.0 - gamma) * scalars.lookahead
        return (keep, 1.0 - gamma, None, beta), _Scalars(following, beta)

    recursion = Recursion(init, coefficients, lambda scalars: -scalars.lookahead)
    plain = is_python_number(lookahead) and lookahead == 0
    return around(inner, None if plain else recursion, accumulator_dtype)
