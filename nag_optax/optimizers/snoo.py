"""`snoo`: Nesterov momentum on the path of K steps of any optimizer; DiLoCo's outer step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import at_step, buffer_dtype, check_number, check_schedule, hint_of_injection
from nag_optax._arrays import check_buffers, check_same, is_none, varying_with, wide, zero_buffers
from nag_optax.acceleration import momentum as rules
from nag_optax.acceleration.around import checked_inner, in_dtypes_of
from nag_optax.acceleration.iterate import OuterState, StoredIterate
from nag_optax.acceleration.step import Recursion


class SnooMomentum(NamedTuple):
    """State of the outer step of `snoo`.

    Attributes:
        offset: the kernel's buffer w = m·b, in units of the pseudo-gradient; None when momentum is 0.
        rule_state: what the momentum rule carries.
        steps: inner steps since the last outer one.
        outer_steps: outer steps so far.
    """

    offset: Any
    rule_state: Any
    steps: jax.Array
    outer_steps: jax.Array


class _Step(NamedTuple):
    """An inner step: gradients (for their dtypes alone), parameters, the objective, the step of `inner`."""

    updates: Any
    params: Any
    value: Any
    step: Any
    sync: jax.Array


# The step to take, the slow weights and the momentum.
_Parts = tuple[Any, StoredIterate, SnooMomentum]


def snoo(
    inner: optax.GradientTransformation,
    sync_period: jax.typing.ArrayLike = 28,
    outer_learning_rate: optax.ScalarOrSchedule = 0.68,
    outer_momentum: rules.Momentum = 0.37,
    *,
    reduce: Callable[[optax.Updates], optax.Updates] | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SNOO, the outer step of DiLoCo: Nesterov momentum on the path of K steps of any optimizer.

    ```
    every step:          fast ← fast + u,   u the step of the inner optimizer
    every K-th step:     δ = reduce(slow − fast)
                         b ← m·b + δ
                         slow ← slow − η·(δ + m·b)
                         fast ← slow
    ```

    The parameters in and out are the fast weights. The slow ones are in the state, and the inner state
    is kept throughout. b is in units of δ, as in PyTorch's SGD: when η changes, the whole velocity is
    rescaled. With m = 0 this is Lookahead with slow step size η. With K = 1, η = 1 and gradient descent
    inside it is Nesterov's method.

    δ is measured from the parameters as they are given, after any rounding or projection. So no error
    outlives a period.

    With `reduce=lambda delta: jax.lax.pmean(delta, "replica")` inside `jax.shard_map` this is DiLoCo.
    Each replica along the mesh axis trains on its own data with its own inner state. All begin with the
    same parameters, meet at each outer step, and communicate nothing in between.

    Args:
        inner: the optimizer, any Optax transformation with its learning rate. It is given the fast
            weights, their gradient, and all extra arguments.
        sync_period: K ≥ 1, an integer. Published: SNOO 28, DiLoCo 500.
        outer_learning_rate: η ≥ 0, a number or an Optax schedule of the outer step. Published: SNOO
            0.68, DiLoCo 0.7.
        outer_momentum: m, a number in [0, 1), an Optax schedule of the outer step, or a rule, as the
            momentum of `accelerate`. Published: SNOO 0.37, DiLoCo 0.9. 0 allocates no buffer. Under
            `optax.inject_hyperparams`, which would follow inner steps, name both schedules in
            `static_args`.
        reduce: a function that is applied to δ, only at outer steps. It returns the same tree,
            shapes and dtypes. None does not change δ. Under
            `optax.inject_hyperparams`, name it in `static_args`. Where it averages over replicas and
            the outer momentum restarts by "value", pass all of them one `value=`.
        accumulator_dtype: dtype of slow and b; None takes each parameter's. Use `jnp.float32` with
            bfloat16 parameters.

    Returns:
        A transformation with two buffers besides the inner state, one when the momentum is 0. A leaf
        whose gradient is None at an outer step takes part in the next one. `eval_params` gives the
        slow weights of the latest outer step, which are up to K − 1 steps old. Right after it they
        are the parameters. Later the parameters, which are the fast weights, are usually better:
        their test loss was lower by 0.013 to 0.030 on a small network.

    Raises:
        ValueError: if a Python number is out of range, the parameters are missing, or the updates'
            tree differs from the parameters'.
        TypeError: if an argument is of the wrong kind, or a parameter is not of floating or complex
            dtype.

    Example:
        >>> import jax, jax.numpy as jnp, optax, nag_optax
        >>> optimizer = nag_optax.snoo(optax.adam(0.1), sync_period=5)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(200):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(jnp.all(jnp.abs(nag_optax.eval_params(state, params)) < 0.01))
        True

    Source: Kallusky, Rao, Nandavanam, Shi, *SNOO: Step-K Nesterov Outer Optimizer*, arXiv:2510.15830,
    2025; Douillard et al., *DiLoCo: distributed low-communication training of language models*,
    arXiv:2311.08105, 2023; Zhang, Lucas, Hinton, Ba, *Lookahead optimizer*, NeurIPS 2019.
    """
    inner = checked_inner(inner)
    check_number("sync_period", sync_period, minimum=1, below=2**31, integer=True)
    check_schedule("outer_learning_rate", outer_learning_rate, minimum=0)
    rule = rules.as_rule(outer_momentum, "outer_momentum")
    if not (reduce is None or callable(reduce)):
        raise TypeError(
            f"reduce must be None or a function of the pseudo-gradient; got {reduce!r} of type "
            f"{type(reduce).__name__}{hint_of_injection(reduce)}"
        )
    recursion = Recursion.of(rule)
    dtype = buffer_dtype(accumulator_dtype)
    plain = rule is rules.PLAIN

    def init_fn(params: optax.Params) -> OuterState:
        # Zeros, not a copy of the parameters: init may be given their shapes alone.
        slow = StoredIterate(zero_buffers(params, dtype), jnp.zeros([], bool))
        offset, rule_state = None, ()
        if not plain:
            offset = zero_buffers(params, dtype)
            rule_state = recursion.start(offset)
        steps, outer_steps = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)
        momentum = SnooMomentum(offset, rule_state, steps, outer_steps)
        return OuterState(slow, momentum, inner.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError("snoo needs the parameters: call update(grads, state, params)")
        buffers = [state.evaluated.iterate, *([] if plain else [state.method_state.offset])]
        check_buffers(updates, dtype, *buffers)
        step, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        held, momentum = state.evaluated, state.method_state
        steps = jnp.asarray(optax.safe_increment(momentum.steps))
        # Not ==, because an injected period may shrink.
        sync = steps % jnp.asarray(sync_period, steps.dtype) == 0
        # A conditional: between outer steps nothing reads or writes the slow weights and their momentum.
        # It has two branches, because XLA of 2025 copies arrays that pass through three.
        step, slow, momentum = jax.lax.cond(
            sync | ~held.started,
            rare_step,
            inner_step,
            _Step(updates, params, extra_args.get("value"), step, sync),
            held,
            momentum._replace(steps=steps),
        )
        return step, OuterState(slow, momentum, inner_state)

    def alike(branch: Callable[..., _Parts]) -> Callable[..., _Parts]:
        """Inside `shard_map`, all branches must return arrays that vary over the same mesh axes."""

        def typed(taken: _Step, held: StoredIterate, momentum: SnooMomentum) -> _Parts:
            arrays = taken.step, held.iterate, momentum.offset
            step, slow, offset = varying_with(arrays, (arrays, taken.params))
            rule_state = momentum.rule_state if plain else recursion.typed(momentum.rule_state, offset)
            momentum = momentum._replace(offset=offset, rule_state=rule_state)
            return branch(taken._replace(step=step), held._replace(iterate=slow), momentum)

        return typed

    @alike
    def inner_step(taken: _Step, held: StoredIterate, momentum: SnooMomentum) -> _Parts:
        return in_dtypes_of(taken.updates, taken.step), held, momentum

    @alike
    def rare_step(taken: _Step, held: StoredIterate, momentum: SnooMomentum) -> _Parts:
        """The first step of all, when the slow weights become the parameters, or an outer one, or both."""
        slow = jax.tree.map(
            lambda p, s: jnp.where(held.started, s, jnp.asarray(p, s.dtype)), taken.params, held.iterate
        )
        held = StoredIterate(slow, jnp.ones_like(held.started))
        return jax.lax.cond(taken.sync, outer_step, inner_step, taken, held, momentum)

    def outer_step(taken: _Step, held: StoredIterate, momentum: SnooMomentum) -> _Parts:
        direction = jax.tree.map(_pseudo_gradient, taken.step, taken.params, held.iterate, is_leaf=is_none)
        if reduce is not None:
            reduced = reduce(direction)
            check_same("reduce", direction, reduced)
            direction = reduced
        offset, rule_state = momentum.offset, momentum.rule_state
        if not plain:
            direction, offset, rule_state = recursion.step(rule_state, offset, direction, taken.value)
        rate = at_step("outer_learning_rate", outer_learning_rate, momentum.outer_steps)

        def moved(d: jax.Array | None, s: jax.Array) -> jax.Array:
            if d is None:
                return s
            return (s.astype(d.dtype) - jnp.asarray(rate, d.dtype) * d).astype(s.dtype)

        slow = jax.tree.map(moved, direction, held.iterate, is_leaf=is_none)

        def fast_step(u: jax.Array | None, p: jax.Array, s: jax.Array) -> jax.Array | None:
            if u is None:
                return None
            # It leads to the slow weight as stored, so that both begin the next period with the same bits.
            to = wide(jnp.result_type(u), jnp.result_type(p), s.dtype)
            return s.astype(to) - jnp.asarray(p, to)

        step = jax.tree.map(fast_step, taken.step, taken.params, slow, is_leaf=is_none)
        outer_steps = jnp.asarray(optax.safe_increment(momentum.outer_steps))
        return (
            in_dtypes_of(taken.updates, step),
            held._replace(iterate=slow),
            SnooMomentum(offset, rule_state, jnp.zeros_like(momentum.steps), outer_steps),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _pseudo_gradient(u: Any, p: Any, s: jax.Array) -> jax.Array | None:
    """δ = slow − (fast + u), at least in float32."""
    if u is None:
        return None
    dtype = wide(jnp.result_type(u), jnp.result_type(p), s.dtype)
    return s.astype(dtype) - (jnp.asarray(p, dtype) + jnp.asarray(u, dtype))
