"""`nag`: Nesterov's accelerated gradient, ready to use."""

from typing import Literal, get_args

import jax
import optax

from nag_optax._arguments import check_schedule
from nag_optax.acceleration.kernel import AccelerateState, ScaleByNesterovState, nesterov_kernel
from nag_optax.acceleration.momentum import Momentum, restarting
from nag_optax.acceleration.momentum.restarting import Restart
from nag_optax.transforms.descent import Mask, add_decay, scale_by_learning_rate

Accumulate = Literal["updates", "gradients"]


def nag(
    learning_rate: optax.ScalarOrSchedule,
    momentum: Momentum = 0.9,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    accumulate: Accumulate = "updates",
    restart: Restart | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Nesterov's accelerated gradient, exact under learning-rate and momentum schedules.

    ```
    accumulate="updates" (the default: Nesterov's own x and y sequences)
        w⁺ = β·w − (β + γ)·lr·g,   Δ = −lr·g + w⁺ − lr·λ·p,   x = p − w
    accumulate="gradients" (torch.optim.SGD and optax.sgd with nesterov=True)
        w⁺ = β·w + (β + γ)·g,      Δ = −lr·(g + w⁺ + λ·p),    x = p + lr·w
    ```

    β = momentum and γ = 0, unless the momentum is a rule. The two forms agree at a constant
    learning rate. When it changes, "gradients" rescales the whole velocity, and "updates" does not.

    Args:
        learning_rate: the step size lr ≥ 0, a number or an Optax schedule.
        momentum: a number in [0, 1), an Optax schedule or a rule, as in `accelerate`.
        weight_decay: λ ≥ 0, a number or an Optax schedule, decoupled: scaled by the learning rate
            and kept out of the momentum, as in `optax.adamw`. For L2 regularisation, which enters
            the momentum, use `optax.chain(optax.add_decayed_weights(λ), nag(...))`.
        mask: tree of booleans, prefix of the parameters, or a function of them that gives one:
            True where weight decay applies. None decays every parameter. Under
            `optax.inject_hyperparams`, name a function in `static_args`.
        accumulate: what the buffer sums, "updates" or "gradients".
        restart: "gradient", "speed", "value" or None, as in `accelerate`.
        accumulator_dtype: dtype of the buffer; None takes each parameter's.

    Returns:
        A transformation with one buffer, none when momentum is 0. Evaluate the model at
        `eval_params(opt_state, params)`.

    Raises:
        ValueError: if a Python number is out of range or an option is unknown.
        TypeError: if learning_rate or weight_decay is neither a number nor a schedule.

    Example:
        >>> import jax, jax.numpy as jnp, optax, nag_optax
        >>> optimizer = nag_optax.nag(optax.cosine_decay_schedule(0.1, 100), 0.9)
        >>> params = {"w": jnp.array([1.0, -2.0])}
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     return optax.apply_updates(params, updates), state
        >>> for _ in range(100):
        ...     params, state = step(params, state)
        >>> bool(jnp.all(jnp.abs(nag_optax.eval_params(state, params)["w"]) < 1e-2))
        True

    Source: Nesterov, *A method for solving the convex programming problem with convergence rate
    O(1/k²)*, 1983; decoupled decay after Loshchilov and Hutter, *Decoupled weight decay
    regularization*, ICLR 2019.
    """
    if accumulate not in get_args(Accumulate):
        raise ValueError(f'accumulate must be "updates" or "gradients"; got {accumulate!r}')
    check_schedule("learning_rate", learning_rate, minimum=0)

    rule, descent = restarting(momentum, restart), scale_by_learning_rate(learning_rate)
    if accumulate == "gradients":
        kernel = nesterov_kernel(ScaleByNesterovState, rule, accumulator_dtype)
        return optax.chain(kernel, add_decay(weight_decay, mask), descent)
    kernel = nesterov_kernel(AccelerateState, rule, accumulator_dtype)
    return optax.chain(descent, kernel, add_decay(weight_decay, mask, learning_rate))
