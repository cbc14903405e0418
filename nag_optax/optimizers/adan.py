"""`adan`: adaptive Nesterov momentum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import at_step, buffer_dtype, check_number, check_schedule
from nag_optax._arrays import check_buffers, owned, step_buffers, zero_buffers
from nag_optax.optimizers.moments import Decay, average, by_parts, root
from nag_optax.transforms.descent import Mask, add_decay, scale_by_learning_rate, shrink


class AdanState(NamedTuple):
    """State of `adan`.

    Attributes:
        step: steps taken, int32.
        first_moment: m, the average of g.
        difference: v, the average of g − g_prev.
        second_moment: n, the average of (g + b2·(g − g_prev))².
        previous: g_prev.
        decays: ∏ b1, ∏ b2 and ∏ b3 over the steps since the last restart, each with 1 − ∏.
    """

    step: jax.Array
    first_moment: optax.Updates
    difference: optax.Updates
    second_moment: optax.Updates
    previous: optax.Updates
    decays: tuple[Decay, ...]


def adan(
    learning_rate: optax.ScalarOrSchedule,
    b1: optax.ScalarOrSchedule = 0.98,
    b2: optax.ScalarOrSchedule = 0.92,
    b3: optax.ScalarOrSchedule = 0.99,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    *,
    proximal_decay: bool = True,
    restart_every: int | None = None,
    mask: Mask | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adan: Adam's averages, and one of the gradient's change in place of a lookahead.

    ```
    d = g − g_prev,  0 in the first step
    m = b1·m + (1 − b1)·g,   v = b2·v + (1 − b2)·d,   n = b3·n + (1 − b3)·(g + b2·d)²
    u = (m/(1 − b1ᵗ) + b2·v/(1 − b2ᵗ)) / (√(n/(1 − b3ᵗ)) + eps)
    p⁺ = (p − lr·u)/(1 + lr·λ)        with proximal_decay
    p⁺ = p − lr·u − lr·λ·p            without
    ```

    The three decays are the shares that are kept; the paper's β is 1 − b. optax.adan takes the same b,
    but has 1 − b2 in place of the two factors b2 of n and u. Averages are componentwise: a complex
    parameter is two real ones. With a schedule, each power is the product of the values so far. A
    gradient that is None keeps its buffers. Before a parameter's first gradient, it counts as 0.

    Args:
        learning_rate: lr ≥ 0, a number or an Optax schedule. The paper's are 5 to 10 times Adam's.
        b1: decay of m, in [0, 1), a number or an Optax schedule.
        b2: decay of v, likewise.
        b3: decay of n, likewise.
        eps: added to the root, ≥ 0.
        weight_decay: λ ≥ 0, a number or an Optax schedule; scaled by the learning rate. A Python 0
            needs no parameters.
        proximal_decay: True for the paper's decay, which cannot overshoot; False for AdamW's.
        restart_every: steps, ≥ 1, after which m, v, n and their bias corrections start again, and
            d is 0 for one step, as when training starts: the paper's restart, once an epoch or
            rarer. None never restarts. Schedules go on.
        mask: tree of booleans, prefix of the parameters, or a function of them that gives one:
            True where weight decay applies. None decays every parameter. Under
            `optax.inject_hyperparams`, name a function in `static_args`.
        accumulator_dtype: dtype of all four buffers; None takes each parameter's. Use `jnp.float32`
            with bfloat16 or float16 parameters: d is a difference, and n a slow average of squares.

    Returns:
        A transformation with four buffers. The parameters are where the gradients are taken, and
        what to evaluate.

    Raises:
        ValueError: if a Python number is out of range, or weight decay lacks the parameters.
        TypeError: if a hyperparameter is neither a number nor, where allowed, a schedule, or
            restart_every is no integer.

    Example:
        >>> import jax, jax.numpy as jnp, optax, nag_optax
        >>> optimizer = nag_optax.adan(0.1, weight_decay=0.02)
        >>> params = jnp.array([1.0, -20.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print([f"{p:.2f}" for p in params])
        ['0.80', '-19.72']

    Source: Xie, Zhou, Li, Lin, Yan, *Adan: adaptive Nesterov momentum algorithm for faster
    optimizing deep models*, TPAMI 2024, algorithm 1; bias correction and restart as in its
    authors' implementation.
    """
    check_schedule("learning_rate", learning_rate, minimum=0)
    if not isinstance(proximal_decay, bool):
        raise TypeError(f"proximal_decay must be True or False; got {proximal_decay!r}")
    core = _scale_by_adan(b1, b2, b3, eps, restart_every, accumulator_dtype)
    decay = (shrink if proximal_decay else add_decay)(weight_decay, mask, learning_rate)
    return optax.chain(core, scale_by_learning_rate(learning_rate), decay)


def _scale_by_adan(
    b1: optax.ScalarOrSchedule,
    b2: optax.ScalarOrSchedule,
    b3: optax.ScalarOrSchedule,
    eps: jax.typing.ArrayLike,
    restart_every: int | None,
    accumulator_dtype: jax.typing.DTypeLike | None,
) -> optax.GradientTransformationExtraArgs:
    """g ↦ u: the adaptive part, before learning rate and decay."""
    decays = {"b1": b1, "b2": b2, "b3": b3}
    for name, value in decays.items():
        check_schedule(name, value, minimum=0, below=1)
    check_number("eps", eps, minimum=0)
    if restart_every is not None:
        check_number("restart_every", restart_every, minimum=1, below=2**31, integer=True, or_else=" or None")
    dtype = buffer_dtype(accumulator_dtype)

    def init_fn(params: optax.Params) -> AdanState:
        # Four buffers, because one array of zeros cannot be donated four times.
        m, v, n, previous = (zero_buffers(params, dtype) for _ in range(4))
        return AdanState(jnp.zeros([], jnp.int32), m, v, n, previous, tuple(Decay.start() for _ in decays))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        buffers = state.first_moment, state.difference, state.second_moment, state.previous
        check_buffers(updates, dtype, *buffers)
        updates = jax.tree.map(jnp.asarray, updates)
        beta1, beta2, beta3 = betas = [at_step(*item, state.step) for item in decays.items()]
        first = (state.step if restart_every is None else state.step % restart_every) == 0
        begun = jax.tree.map(
            lambda start, now: jnp.where(first, start, now), (Decay.start(),) * len(decays), state.decays
        )
        gone = tuple(decay.times(beta) for decay, beta in zip(begun, betas, strict=True))
        c1, c2, c3 = (1 / decay.complement for decay in gone)

        @by_parts
        def leaf(g: jax.Array, m: jax.Array, v: jax.Array, n: jax.Array, previous: jax.Array):
            def own(scalar: jax.typing.ArrayLike) -> jax.Array:
                return jnp.asarray(scalar, g.dtype)

            zero = jnp.zeros_like(g)
            # A choice, not a product with 0, so that a restart also ends a NaN.
            d = jnp.where(first, zero, g - previous)
            if restart_every is not None:
                m, v, n = (jnp.where(first, zero, buffer) for buffer in (m, v, n))
            m = average(beta1, g, m)
            v = average(beta2, d, v)
            n = average(beta3, jnp.square(g + own(beta2) * d), n)
            u = (own(c1) * m + own(beta2 * c2) * v) / (root(own(c3) * n) + own(eps))
            return u, m, v, n, owned(g)

        updates, *buffers = step_buffers(leaf, updates, *buffers)
        count = jnp.asarray(optax.safe_increment(state.step))
        return updates, AdanState(count, *buffers, decays=gone)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
