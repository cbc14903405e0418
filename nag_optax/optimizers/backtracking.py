"""The search for a step size: backtracking with growth, for a method of the kernel with a prox.

It works on the state of the accelerated method, not on one step alone: when the step size changes
after the lookahead was formed, the lookahead moves with it (the rule's `retime`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nag_optax._arrays import dot, is_none, norm, varying_with
from nag_optax.acceleration.momentum import MomentumRule
from nag_optax.prox.apply import forward_backward
from nag_optax.prox.base import ProxLike

SHRINK = 0.5
# A step size grows by 5 %, then by 10 %, 16 % … while none is rejected: a rejected one costs a gradient
# where it hovers about the largest, and where the curvature falls it must not lag behind.
GROWTH = 1.05
MAX_GROWTH = 2.0
# The rounding of a sum, and how many times larger a difference must be to be believed.
_ROUNDINGS = 10.0
_CLEAR = 8.0
# From the largest to the smallest number of float32 by halves.
_MAX_TRIALS = 260

Value = Callable[[Any], jax.Array]


class BacktrackingState(NamedTuple):
    """State of the search from step to step, and its report of the latest one.

    Attributes:
        next_step_size: the step size for which the lookahead was formed; 0 before the first step.
        growth: next_step_size/s, if the step size may grow.
        free: the lookahead suits every step size, as before the first step and after a restart, so
            that a search for the scale of s costs values alone.
        step_size: s of the latest step.
        mapping_norm: ‖x⁺ − p‖/s of the latest step, the norm of the gradient mapping.
        value: f(x⁺), without the penalty of the prox.
        values: evaluations of the objective by the search so far, int32.
        gradients: evaluations of the gradient by the search so far, int32, beyond those given.
    """

    next_step_size: jax.Array
    growth: jax.Array
    free: jax.Array
    step_size: jax.Array
    mapping_norm: jax.Array
    value: jax.Array
    values: jax.Array
    gradients: jax.Array


class Point(NamedTuple):
    """Where the gradient is taken: p = x + w, f(p), ∇f(p), w, and the rule's state that gave w."""

    params: Any
    value: jax.Array
    grad: Any
    offset: Any
    rule_state: Any


def init() -> BacktrackingState:
    zero, count = jnp.zeros([], float), jnp.zeros([], jnp.int32)
    return BacktrackingState(
        zero, jnp.full([], GROWTH, float), jnp.ones([], bool), zero, zero, zero, count, count
    )


def gradient_of(value_fn: Value, params: Any) -> Any:
    # JAX's gradient of a real function of z is conj(dz); descent wants its conjugate.
    return jax.tree.map(jnp.conj, jax.grad(value_fn)(params))


def search(
    state: BacktrackingState, point: Point, prox: ProxLike | None, value_fn: Value, rule: MomentumRule
) -> tuple[Point, Any, BacktrackingState]:
    """The accepted point p, x⁺ = prox(p − s·∇f(p)), and the state; `next_step_size` grows if it may.

    Whether the next lookahead is `free` of the step size only the caller knows, who forms it.
    """

    first = state.next_step_size == 0

    def body(trial: _Trial) -> _Trial:
        point, s = trial.point, trial.step_size
        target = forward_backward(prox, point.params, point.grad, s)
        verdict = _judge(point, target, s, value_fn)
        # Outside of the domain of f no step size can be judged. x is inside.
        outside = ~jnp.isfinite(verdict.slope + point.value)
        returns = outside & ~trial.at_iterate
        measures = first & (trial.trials == 0) & verdict.clear & (verdict.curvature > 0)
        # A larger step size is useless if it goes no further, or if no clear difference tests it.
        useful = verdict.clear & ((trial.trials < 2) | (verdict.length > GROWTH * trial.verdict.length))
        growing = trial.growing & (measures | (verdict.accepted & useful))
        done = ((verdict.accepted & ~growing) | outside | (verdict.length == 0)) & ~returns
        other = jnp.where(growing, s / SHRINK, SHRINK * s)
        # A little less than equality, because rounding would decide that.
        other = jnp.where(measures, 0.99 / verdict.curvature, other)
        other = jnp.where(done | returns, s, other)
        point, gradients = _moved(point, s / other, done | growing, returns, rule, value_fn)
        return _Trial(
            point,
            other,
            target,
            verdict,
            growing,
            trial.at_iterate | returns,
            done,
            trial.trials + 1,
            trial.gradients + verdict.gradients + gradients,
        )

    start = jax.lax.cond(first, lambda: _first_guess(point), lambda: state.next_step_size)
    zero, count, no = jnp.zeros([], float), jnp.zeros([], jnp.int32), jnp.zeros([], bool)
    trial = _Trial(
        point=point,
        step_size=start,
        target=jax.tree.map(
            jnp.zeros_like, jax.eval_shape(lambda: forward_backward(prox, point.params, point.grad, start))
        ),
        verdict=_Verdict(zero, zero, zero, zero, no, no, count),
        growing=state.free,
        at_iterate=state.free,
        done=no,
        trials=count,
        gradients=count,
    )
    trial = varying_with(trial, (state, point))
    trial = jax.lax.while_loop(lambda trial: ~trial.done & (trial.trials < _MAX_TRIALS), body, trial)
    s, verdict = trial.step_size, trial.verdict
    # A step size that no clear difference has tested may only fall.
    grows = verdict.clear & (rule.retime is not None)
    growth = jnp.where(trial.trials == 1, jnp.minimum(GROWTH * state.growth, MAX_GROWTH), GROWTH)
    report = BacktrackingState(
        next_step_size=jnp.where(grows, growth * s, s),
        growth=growth,
        free=jnp.zeros_like(state.free),
        step_size=s,
        mapping_norm=verdict.length / s,
        value=verdict.value,
        values=state.values + trial.trials,
        gradients=state.gradients + trial.gradients,
    )
    return trial.point, trial.target, report


class _Verdict(NamedTuple):
    """The findings of a trial: f(x⁺), ‖d‖, ⟨g, d⟩ and the curvature 2(f(x⁺) − f(p) − ⟨g, d⟩)/‖d‖²."""

    value: jax.Array
    length: jax.Array
    slope: jax.Array
    curvature: jax.Array
    clear: jax.Array
    accepted: jax.Array
    gradients: jax.Array


class _Trial(NamedTuple):
    point: Point
    step_size: jax.Array
    target: Any
    verdict: _Verdict
    growing: jax.Array
    at_iterate: jax.Array
    done: jax.Array
    trials: jax.Array
    gradients: jax.Array


def _judge(point: Point, target: Any, s: jax.Array, value_fn: Value) -> _Verdict:
    """f(x⁺) ≤ f(p) + ⟨g, d⟩ + ‖d‖²/(2s), or, where that drowns in rounding, ⟨∇f(x⁺) − g, d⟩ ≤ ‖d‖²/s."""
    filled = _filled(target, point.params)
    step = jax.tree.map(lambda z, p: z - p, filled, point.params)
    value = value_fn(filled)
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in [value, *jax.tree.leaves(point.params)])
    value = value.astype(float)
    slope, length = dot(point.grad, step), norm(step)
    # ‖d‖² would underflow in small units. ‖d‖/s is a slope and ‖d‖²/s a value, which do not.
    excess, allowed = value - point.value - slope, 0.5 * length * (length / s)
    divisor = jnp.where(length > 0, length, 1.0)
    noise = _ROUNDINGS * eps * (jnp.abs(value) + jnp.abs(point.value) + jnp.abs(slope))
    clear = noise < allowed / _CLEAR

    def by_gradient() -> jax.Array:
        change = jax.tree.map(
            lambda old, new: None if old is None else new - old,
            point.grad,
            gradient_of(value_fn, filled),
            is_leaf=is_none,
        )
        # Exact on a quadratic; elsewhere the difference is of third order in d, which is tiny here.
        enough = dot(change, step) <= length * (length / s)
        return enough | (length <= 4 * eps * norm(point.params))

    accepted = jax.lax.cond(clear, lambda: excess <= allowed + noise, by_gradient)
    return _Verdict(
        value=value,
        length=length,
        slope=slope,
        curvature=2 * (excess / divisor) / divisor,
        clear=clear,
        accepted=accepted & jnp.isfinite(value),
        gradients=(~clear).astype(jnp.int32),
    )


def _moved(
    point: Point, ratio: jax.Array, stays: jax.Array, returns: jax.Array, rule: MomentumRule, value_fn: Value
) -> tuple[Point, jax.Array]:
    """The point that belongs to another step size, or x; and how many gradients that took."""
    if rule.retime is None:
        # A smaller step from the same point keeps the bound of a rule for one step size.
        factor, rule_state = 1.0, point.rule_state
    else:
        # At x the sequence begins again, as it does for a step size without bound.
        factor, rule_state = rule.retime(point.rule_state, jnp.where(returns, 0.0, ratio))
    factor = jnp.where(returns, 0.0, factor)

    def move() -> Point:
        offset = jax.tree.map(lambda w: jnp.asarray(factor, w.dtype) * w, point.offset)
        params = jax.tree.map(
            lambda p, w, w_new: (jnp.asarray(p, w.dtype) + (w_new - w)).astype(p.dtype),
            point.params,
            point.offset,
            offset,
        )
        value, grad = jax.value_and_grad(value_fn)(params)
        grad = jax.tree.map(
            lambda old, new: None if old is None else jnp.conj(new).astype(old.dtype),
            point.grad,
            grad,
            is_leaf=is_none,
        )
        return Point(params, value.astype(float), grad, offset, rule_state)

    stays = stays | (factor == 1)
    return jax.lax.cond(stays, lambda: point, move), (~stays).astype(jnp.int32)


def _first_guess(point: Point) -> jax.Array:
    """2|f|/‖g‖²: in the units of a step size, and at least 1/L where f ≥ 0."""
    slope = norm(point.grad)
    guess = 2 * (jnp.abs(point.value) / slope) / slope
    return jnp.where(jnp.isfinite(guess) & (guess > 0), guess, 1.0)


def _filled(tree: Any, params: Any) -> Any:
    return jax.tree.map(lambda z, p: p if z is None else z, tree, params, is_leaf=is_none)
