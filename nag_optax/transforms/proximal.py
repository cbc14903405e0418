"""`proximal`: an incoming step becomes a proximal one."""

import jax.numpy as jnp
import optax

from nag_optax._arguments import check_schedule, scheduled_value
from nag_optax._arrays import check_buffers
from nag_optax.acceleration.around import in_dtypes_of
from nag_optax.prox.apply import check_prox, difference, proximal_point
from nag_optax.prox.base import ProxLike


def proximal(prox: ProxLike, step_size: optax.ScalarOrSchedule) -> optax.GradientTransformationExtraArgs:
    """Turns the incoming update u into a proximal step; goes after the learning rate.

    ```
    Δ = prox(p + u, step_size) − p,   prox(v, s) = argmin_z s·g(z) + ½‖z − v‖²
    ```

    With u = −lr·∇f(p) and step_size = lr this is a step of proximal gradient descent on f + g, and
    with `accelerate` behind it one of FISTA. The penalty is not part of the gradient.

    Args:
        prox: an operator of `nag_optax.prox`, or any callable `prox(params, step_size) -> params`
            that keeps the tree, shapes and dtypes. Under `optax.inject_hyperparams`, name it in
            `static_args`.
        step_size: the learning rate of the step before it, a number ≥ 0 or the same Optax schedule.
            With another one you find the minimum for another strength.

    Returns:
        A transformation whose update has the dtype of the incoming update and is computed in
        float32 or wider. A parameter whose update is None stays, and the prox does not see it. Its
        state is a counter, for a schedule alone. Extra arguments are ignored.

    Raises:
        ValueError: if step_size is a negative Python number or no scalar, the parameters are
            missing, they differ from the updates in tree or shape, or the prox changes the tree
            or a shape.
        TypeError: if prox is not callable, step_size is neither a number nor a schedule, or the
            prox changes a dtype.

    Example:
        >>> import jax, jax.numpy as jnp, optax, nag_optax
        >>> learning_rate = 0.1
        >>> optimizer = optax.chain(
        ...     optax.scale_by_learning_rate(learning_rate),
        ...     nag_optax.proximal(nag_optax.prox.l1(1.0), learning_rate),
        ...     nag_optax.accelerate(momentum=0.5),
        ... )
        >>> params = jnp.array([3.0, 0.5])
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jax.grad(lambda p: 0.5 * jnp.sum((p - jnp.array([3.0, 0.5])) ** 2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(nag_optax.eval_params(state, params).round(4))
        [2. 0.]

    Source: Beck and Teboulle, *A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems*, 2009; Parikh and Boyd, *Proximal algorithms*, 2014, section 4.2.
    """
    check_prox(prox)
    check_schedule("step_size", step_size, minimum=0)

    def init_fn(params: optax.Params) -> optax.ScaleByScheduleState | optax.EmptyState:
        del params
        if not callable(step_size):
            return optax.EmptyState()
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError("proximal needs the parameters: call update(updates, state, params)")
        size = scheduled_value("step_size", step_size, state.count) if callable(step_size) else step_size
        if callable(step_size):
            state = optax.ScaleByScheduleState(jnp.asarray(optax.safe_increment(state.count)))
        check_buffers(updates, None, params)
        target = proximal_point(prox, params, updates, size)
        return in_dtypes_of(updates, difference(target, params)), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
