"""`fista`: accelerated proximal gradient, with a step size or with backtracking."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import buffer_dtype, check_schedule, is_python_number, scheduled_value
from nag_optax._arrays import (
    check_buffers,
    is_none,
    owned,
    path_name,
    varying_with,
    zero_buffers,
)
from nag_optax.acceleration import momentum as rules
from nag_optax.acceleration.iterate import IterateState, offset_of
from nag_optax.acceleration.momentum.restarting import Restart
from nag_optax.acceleration.step import Recursion
from nag_optax.optimizers import backtracking
from nag_optax.optimizers.nag import nag
from nag_optax.prox.apply import check_prox, descent, difference, penalty, proximal_point
from nag_optax.prox.base import ProxLike


def fista(
    learning_rate: optax.ScalarOrSchedule | None = None,
    prox: ProxLike | None = None,
    *,
    momentum: rules.Momentum = rules.fista(),  # noqa: B008 (a rule is immutable)
    restart: Restart | None = "gradient",
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Accelerated proximal gradient for F = f + g, with a step size s or with backtracking.

    ```
    x⁺ = prox(p − s·∇f(p), s),   p⁺ = x⁺ + β·(x⁺ − x) + γ·(x⁺ − p)
    ```

    This is the kernel around a proximal step. The one buffer is x itself, so that `eval_params`
    returns the exact zeros and feasible points that the prox makes. With a learning rate and no prox
    it is `nag`.

    **With a learning rate** s is that rate. If it is at most 1/L and does not grow, convex f with the
    FISTA rule has F(x_n) − F* ≤ R²/(2 s t_n²) ≤ 2R²/(s(n + 1)²) up to the first restart.

    **Without one** each step takes an s with f(x⁺) ≤ f(p) + ⟨∇f(p), d⟩ + ‖d‖²/(2s), d = x⁺ − p, halves
    it until that holds, and tries a larger one at the next step, by 5 %, then 10 %, 16 % … until one is
    rejected. When s changes, so do t and p = x + w (Scheinberg, Goldfarb, Bai): s⁺·t⁺(t⁺ − 1) = s·t².
    A halving then costs one more gradient, in all about 1.3 a step. The first step, and the first after
    a restart, have no lookahead and find the scale of s by values alone. For convex f, with the FISTA
    rule and up to the first restart,

    ```
    F(x_n) − F* ≤ R²/(2 s_n t_n²) ≤ 2R²/(Σ_k √s_k)² ≤ 4LR²/n²
    ```

    holds on every step, for any step sizes; the last form needs that no s is below 1/(2L). The price is
    momentum. Where the curvature falls along the way, as on separable data, s grows and t must not. A
    search that lets both grow, as JAXopt's does, takes about two thirds of the steps and has no bound.
    With another rule s never grows. A bound that allows steps to shrink, such as Chambolle and Dossal's,
    then holds with the latest s. Where the values of f differ by less than their rounding, the test is
    ⟨∇f(x⁺) − ∇f(p), d⟩ ≤ ‖d‖²/s, which takes a gradient, and s does not grow. If the lookahead leaves the
    domain of f, so that f(p) or ∇f(p) is not finite, the step starts from x and the rule begins again.

    Args:
        learning_rate: the step size s, a number ≥ 0 or an Optax schedule; None to backtrack.
        prox: an operator of `nag_optax.prox`, or any callable `prox(params, step_size) -> params`
            that keeps the tree, shapes and dtypes; None for f alone. Under `optax.inject_hyperparams`,
            name it in `static_args`.
        momentum: the rule, a number or an Optax schedule, as in `accelerate`. With a prox or
            backtracking its iterate must be x = p − w, which excludes triple momentum and ITEM. The
            value that a rule of your own sees is f(p).
        restart: "gradient", "speed", "value" or None, as in `accelerate`. A restart begins a new
            sequence with a bound of its own, and usually converges faster. "value" needs
            `update(..., value=f(p))` and adds g(p) itself, where it is finite; a `prox` must have
            `value` for it.
        accumulator_dtype: dtype of x; None takes each parameter's.

    Returns:
        A transformation for `optax.apply_updates`. Without a learning rate, call it like Optax's line
        searches: `update(grad, state, params, value=, grad=, value_fn=)`, with the same arrays as the
        update and as grad. So it must come first in a chain, outside of `optax.MultiSteps`, and see all
        parameters of value_fn. A parameter whose update is None stays. Arguments that value_fn takes by
        name are handed on to it.

    Raises:
        ValueError: if a Python number is out of range, an option is unknown, restart is "value" and
            the prox has no `value`, the rule's iterate is not p − w, the parameters or `value`, `grad`
            or `value_fn` are missing, the update is not `grad`, or the prox changes the tree or a shape.
        TypeError: if an argument is of the wrong kind, a parameter is not of floating or complex
            dtype, or the prox changes a dtype.

    Example:
        >>> import jax, jax.numpy as jnp, optax, nag_optax
        >>> f = lambda p: 0.5 * jnp.sum((p - jnp.array([3.0, 0.5])) ** 2)
        >>> optimizer = nag_optax.fista(prox=nag_optax.prox.l1(1.0))
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> for _ in range(20):
        ...     value, grad = jax.value_and_grad(f)(params)
        ...     updates, state = optimizer.update(
        ...         grad, state, params, value=value, grad=grad, value_fn=f
        ...     )
        ...     params = optax.apply_updates(params, updates)
        >>> print(nag_optax.eval_params(state, params).round(4))
        [2. 0.]

    Source: Beck and Teboulle, *A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems*, 2009; Scheinberg, Goldfarb and Bai, *Fast first-order methods for composite convex
    optimization with backtracking*, 2014; restart after O'Donoghue and Candès, 2015.
    """
    if learning_rate is not None:
        check_schedule("learning_rate", learning_rate, minimum=0, or_else=", an Optax schedule or None")
    if prox is not None:
        check_prox(prox)
        if restart == "value" and not hasattr(prox, "value"):
            raise ValueError(
                'restart="value" needs the penalty: prox must have a method value(params), as every prox '
                f'of nag_optax.prox has; got {prox!r}: use restart="gradient", or give it one'
            )
    if learning_rate is not None and prox is None:
        # x = p − w needs no prox to be exact, and the offset in the buffer is cheaper.
        return nag(learning_rate, momentum, restart=restart, accumulator_dtype=accumulator_dtype)
    rule = rules.restarting(momentum, restart)
    if callable(rule.evaluation) or (is_python_number(rule.evaluation) and rule.evaluation != -1):
        raise ValueError(
            "momentum must be a rule whose iterate is p − w (evaluation = -1), as a prox or a search makes "
            f"that one; got evaluation = {rule.evaluation}"
        )
    recursion = Recursion.of(rule)
    dtype = buffer_dtype(accumulator_dtype)

    def init_fn(params: optax.Params) -> IterateState:
        iterate = zero_buffers(params, dtype)
        rule_state: Any = recursion.start(iterate)
        search = jnp.zeros([], jnp.int32) if callable(learning_rate) else ()
        if learning_rate is None:
            rule_state, search = varying_with((rule_state, backtracking.init()), iterate)
        return IterateState(iterate, jnp.zeros([], bool), rule_state, search)

    def objective(value: Any, target: Any, params: Any) -> Any:
        """F(p) from f(p), for the one restart test that reads it."""
        if restart != "value" or prox is None or value is None:
            return value
        seen = jax.tree.map(lambda z, p: None if z is None else p, target, params, is_leaf=is_none)
        g = penalty(prox, seen)
        # p may lie outside of a set that contains x.
        return jnp.asarray(value).astype(float) + jnp.where(jnp.isfinite(g), g, 0.0)

    def next_state(target: Any, state: Any, params: Any, rule_state: Any, search: Any) -> IterateState:
        def stays(x: jax.Array, p: jax.Array) -> jax.Array:
            return jnp.where(state.started, x, p.astype(x.dtype))

        # A parameter may be None too, and then has neither.
        iterate = jax.tree.map(
            lambda z, x, p: jax.tree.map(stays, x, p) if z is None else owned(z.astype(x.dtype)),
            target,
            state.iterate,
            params,
            is_leaf=is_none,
        )
        return IterateState(iterate, jnp.ones_like(state.started), rule_state, search)

    def update_with_rate(updates, state, params, value):
        search, rate = state.search, learning_rate
        if callable(rate):
            rate = scheduled_value("learning_rate", rate, search)
            search = optax.safe_increment(search)
        target = proximal_point(prox, params, descent(updates, rate), rate)
        step = difference(target, params)
        offset = offset_of(state, params)
        value = objective(value, target, params)
        step, _, rule_state = recursion.step(state.rule_state, offset, step, value)
        return step, next_state(target, state, params, rule_state, search)

    def update_with_search(updates, state, params, value, value_fn, extra_args):
        arguments = _arguments_of(value_fn, extra_args)
        # A leaf without a gradient stays, also when the lookahead changes for another step size.
        offset = jax.tree.map(
            lambda g, w: jax.tree.map(jnp.zeros_like, w) if g is None else w,
            updates,
            offset_of(state, params),
            is_leaf=is_none,
        )
        start = backtracking.Point(
            params, jnp.asarray(value).astype(float), updates, offset, state.rule_state
        )
        point, target, search = backtracking.search(
            state.search, start, prox, lambda p: jnp.asarray(value_fn(p, **arguments)), rule
        )
        # Without a prox the step is known more exactly than the difference of two rounded points.
        step = descent(point.grad, search.step_size) if prox is None else difference(target, point.params)
        value = objective(point.value, target, point.params)
        _, offset, rule_state = recursion.step(point.rule_state, point.offset, step, value)
        if rule.retime is not None:
            # The next step is tried with a larger s, and the lookahead is formed for that s.
            ratio = search.step_size / search.next_step_size
            factor, rule_state = rule.retime(rule_state, ratio)
            offset = jax.tree.map(lambda w: jnp.asarray(factor, w.dtype) * w, offset)
            # After a restart the factor is 1, whatever the ratio. A step size that may not grow stays.
            free = jnp.asarray(rule.retime(rule_state, 0.5)[0]) == 1
            search = search._replace(free=free & (ratio < 1))
        # Not the kernel's step, because this one starts from the point that was accepted.
        step = jax.tree.map(
            lambda d, w: None if d is None else d.astype(w.dtype) + w,
            difference(target, params),
            offset,
            is_leaf=is_none,
        )
        return step, next_state(target, state, params, rule_state, search)

    def update_fn(updates, state, params=None, *, value=None, grad=None, value_fn=None, **extra_args):
        if params is None:
            raise ValueError("fista needs the parameters: call update(grads, state, params)")
        check_buffers(updates, dtype, state.iterate)
        if learning_rate is None:
            _check_search_arguments(updates, value, grad, value_fn)
        updates, params = jax.tree.map(jnp.asarray, (updates, params))
        if learning_rate is None:
            step, state = update_with_search(updates, state, params, value, value_fn, extra_args)
        else:
            step, state = update_with_rate(updates, state, params, value)
        step = jax.tree.map(
            lambda d, u: None if u is None else d.astype(u.dtype), step, updates, is_leaf=is_none
        )
        return step, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_search_arguments(updates: Any, value: Any, grad: Any, value_fn: Any) -> None:
    arguments = {"value": value, "grad": grad, "value_fn": value_fn}
    missing = [name for name, argument in arguments.items() if argument is None]
    if missing:
        raise ValueError(
            f"fista without a learning rate backtracks and needs {', '.join(missing)}: call "
            "update(grad, state, params, value=value, grad=grad, value_fn=f)"
        )
    if not callable(value_fn):
        raise TypeError(f"value_fn must be callable; got {value_fn!r} of type {type(value_fn).__name__}")
    if jnp.shape(value) != ():
        raise ValueError(f"value must be a scalar; got shape {jnp.shape(value)}")
    leaves, treedef = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_none)
    try:
        grads = treedef.flatten_up_to(grad)
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            "fista without a learning rate evaluates value_fn, which takes all parameters; got an update of "
            "another tree than grad, as from optax.masked or optax.partition: give it a learning_rate, or "
            "leave frozen parameters out and let value_fn close over them"
        ) from None
    for (path, u), g in zip(leaves, grads, strict=True):
        # Compared by identity, because numbers may be traced. The same array comes from the same function.
        if u is not None and u is not g:
            raise ValueError(
                "fista without a learning rate takes the gradient of value_fn itself, the same array as the "
                f"update and as grad; got two at {path_name(path, 'the root')}, as after "
                "optax.MultiSteps or another transformation: put the mean over micro-batches into value_fn "
                "and grad, or give it a learning_rate. Under jit, take the gradient in the jitted function"
            )


def _arguments_of(value_fn: Callable, extra_args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that value_fn takes by name, as with Optax's line searches."""
    return {name: extra_args[name] for name in inspect.signature(value_fn).parameters if name in extra_args}
