"""`laprop`: normalise the gradient, then accelerate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import at_step, buffer_dtype, check_number, check_schedule
from nag_optax._arrays import check_buffers, step_buffers, zero_buffers
from nag_optax.acceleration.kernel import accelerate
from nag_optax.acceleration.momentum import Momentum
from nag_optax.acceleration.momentum.restarting import Restart
from nag_optax.optimizers.moments import Decay, average, by_parts, root
from nag_optax.transforms.descent import Mask, add_decay, scale_by_learning_rate


class NormalizeState(NamedTuple):
    """State of the first part of `laprop`.

    Attributes:
        step: steps taken, int32.
        second_moment: v, the average of g².
        b2_decay: the share of the start that is left in v.
    """

    step: jax.Array
    second_moment: optax.Updates
    b2_decay: Decay


def laprop(
    learning_rate: optax.ScalarOrSchedule,
    momentum: Momentum = 0.9,
    b2: optax.ScalarOrSchedule = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    restart: Restart | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """LaProp with Nesterov's lookahead: normalise each gradient by its size, then accelerate.

    ```
    v = b2·v + (1 − b2)·g²,   u = −lr·g/(√(v/(1 − b2ᵗ)) + eps),   t = 1, 2, …
    w⁺ = β·(w + u) + γ·u,     Δ = u + w⁺ − lr·λ·p,                x = p − w
    ```

    β = momentum and γ = 0, unless the momentum is a rule. Adam averages gradients and divides the
    average. Here each gradient is divided first, so that the momentum is Nesterov's, in the units of the
    parameters. At a constant learning rate this is `optax.rmsprop(momentum=, nesterov=True)` with bias
    correction. Averages are componentwise: a complex parameter is two real ones.

    The momentum adds up steps, where Adam averages them. So begin at 1 − momentum times Adam's learning
    rate: 1e-3 where Adam takes 1e-2. Weight decay is multiplied by the learning rate. For AdamW's decay,
    make λ larger by the same factor, here 10.

    Args:
        learning_rate: lr ≥ 0, a number or an Optax schedule.
        momentum: a number in [0, 1), an Optax schedule or a rule, as in `accelerate`.
        b2: decay of v, in [0, 1), a number or an Optax schedule.
        eps: added to the root, ≥ 0.
        weight_decay: λ ≥ 0, a number or an Optax schedule, decoupled, as in `nag`: scaled by the
            learning rate and kept out of the momentum.
        mask: tree of booleans, prefix of the parameters, or a function of them that gives one:
            True where weight decay applies. None decays every parameter. Under
            `optax.inject_hyperparams`, name a function in `static_args`.
        restart: "gradient", "speed", "value" or None, as in `accelerate`.
        accumulator_dtype: dtype of both buffers; None takes each parameter's. Use `jnp.float32`
            with bfloat16 or float16 parameters.

    Returns:
        A transformation with two buffers, one when momentum is 0. Evaluate the model at
        `eval_params(opt_state, params)`.

    Raises:
        ValueError: if a Python number is out of range or an option is unknown.
        TypeError: if a hyperparameter is neither a number nor, where allowed, a schedule.

    Example:
        >>> import jax, jax.numpy as jnp, optax, nag_optax
        >>> optimizer = nag_optax.laprop(optax.cosine_decay_schedule(0.05, 200))
        >>> params = jnp.array([1.0, -20.0])
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     return optax.apply_updates(params, updates), state
        >>> for _ in range(200):
        ...     params, state = step(params, state)
        >>> bool(jnp.all(jnp.abs(nag_optax.eval_params(state, params)) < 0.1))
        True

    Source: Ziyin, Wang and Ueda, *LaProp: separating momentum and adaptivity in Adam*, 2020, with the
    lookahead of `accelerate`.
    """
    check_schedule("learning_rate", learning_rate, minimum=0)
    return optax.chain(
        _normalize(b2, eps, accumulator_dtype),
        scale_by_learning_rate(learning_rate),
        accelerate(momentum, restart=restart, accumulator_dtype=accumulator_dtype),
        add_decay(weight_decay, mask, learning_rate),
    )


def _normalize(
    b2: optax.ScalarOrSchedule,
    eps: jax.typing.ArrayLike,
    accumulator_dtype: jax.typing.DTypeLike | None,
) -> optax.GradientTransformationExtraArgs:
    """g ↦ g/(√v̂ + eps)."""
    check_schedule("b2", b2, minimum=0, below=1)
    check_number("eps", eps, minimum=0)
    dtype = buffer_dtype(accumulator_dtype)

    def init_fn(params: optax.Params) -> NormalizeState:
        return NormalizeState(jnp.zeros([], jnp.int32), zero_buffers(params, dtype), Decay.start())

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        check_buffers(updates, dtype, state.second_moment)
        updates = jax.tree.map(jnp.asarray, updates)
        beta = at_step("b2", b2, state.step)
        decay = state.b2_decay.times(beta)
        correction = 1 / decay.complement

        @by_parts
        def leaf(g: jax.Array, v: jax.Array):
            v = average(beta, jnp.square(g), v)
            return g / (root(jnp.asarray(correction, g.dtype) * v) + jnp.asarray(eps, g.dtype)), v

        updates, v = step_buffers(leaf, updates, state.second_moment)
        return updates, NormalizeState(jnp.asarray(optax.safe_increment(state.step)), v, decay)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
