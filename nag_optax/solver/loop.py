"""The compiled loop of `minimize`, and its stopping test.

Everything that is compared is in the same units, so that multiplying f by a number, or rescaling x,
changes no decision:

    converged   M(x) ≤ tol·max(scale, ‖∇f(x)‖). M is evaluated anew at the x that is returned, with the
                latest s > 0, and the rounding of x is added to it. With a prox, s is at most 4/L along
                x⁺ − x, because a larger one makes M small anywhere in a bounded set. The test runs when
                x is at rest: its steps, momentum included, are below 100·s·tol·scale
    scale       max(‖∇f(x₀)‖, ‖∇²f(x₀)·x₀‖). Where x₀ is near the solution, the second term stands for
                the gradient at zero
    stalled     three things hold for 100 steps and for a quarter of all steps: f fell by less than its
                rounding or x moved by less than its own; M reached no new low; x went no further than
                steps in random directions do, or M = 0. Or M = 0 and x does not move

A step is cheap and a check is not, so steps run in an inner loop that ends where there is something to
check: a small M, or any other reason to stop.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arrays import dot, norm, select, varying_with, wide
from nag_optax.acceleration.evaluation import eval_params
from nag_optax.acceleration.iterate import IterateState
from nag_optax.optimizers.backtracking import BacktrackingState
from nag_optax.prox.apply import forward_backward, penalty
from nag_optax.prox.base import ProxLike

RUNNING, CONVERGED, MAX_STEPS, STALLED, NAN = -1, 0, 1, 2, 3
# The inner loop pauses because M may be small enough at x.
_CHECK = -2

# Steps without a gain, in the noise, until the run has stalled; a quarter of all
# where that is more, because a slow problem is slow there too.
_PATIENCE = 100
# A step with momentum may be worth this many steps of descent where x counts as being at rest.
_MOMENTUM = 100


class Problem(NamedTuple):
    """f, the prox of g, and how to descend."""

    value_fn: Callable[[Any], jax.Array]
    prox: ProxLike | None
    optimizer: optax.GradientTransformationExtraArgs
    learning_rate: Any


class Limits(NamedTuple):
    """When to stop: the relative tolerance, the least scale for it, the most steps."""

    tol: jax.Array
    scale: jax.Array
    max_steps: jax.Array


class Report(NamedTuple):
    """The loop's results beside the parameters, all arrays; the value at x counts as no evaluation."""

    gradient_mapping_norm: jax.Array
    gradient_scale: jax.Array
    steps: jax.Array
    value_evaluations: jax.Array
    gradient_evaluations: jax.Array
    reason: jax.Array
    history: tuple[jax.Array, jax.Array] | None


class _Carry(NamedTuple):
    params: Any
    opt_state: Any
    iterate: Any
    step_size: jax.Array
    scale: jax.Array
    least_norm: jax.Array
    idle_steps: jax.Array
    steps: jax.Array
    reason: jax.Array
    history: tuple[jax.Array, jax.Array] | None


class _Checked(NamedTuple):
    carry: _Carry
    mapping_norm: jax.Array
    gradients: jax.Array
    since: jax.Array


class _Look(NamedTuple):
    """∇f `here`, at x, and `there`, at another point."""

    point: Any
    here: Any
    there: Any
    mapping: jax.Array
    largest: jax.Array
    small: jax.Array
    looks: jax.Array
    again: jax.Array


def run(
    problem: Problem, init_params: Any, limits: Limits, history_length: int | None
) -> tuple[Any, jax.Array, Report]:
    """x, the step size of the latest step, and the report."""
    value_fn, prox, optimizer, rate = problem
    tol, least_scale, max_steps = limits
    eps = max(float(jnp.finfo(p.dtype).eps) for p in jax.tree.leaves(init_params))
    tiny = max(float(jnp.finfo(wide(p.dtype)).tiny) for p in jax.tree.leaves(init_params))
    # For a difference of gradients. It balances rounding and curvature, and 1 + h is exact.
    h = 2.0 ** round(math.log2(eps) / 3)

    def is_small(mapping: jax.Array, largest: jax.Array, x_norm: jax.Array, step_size: jax.Array):
        # The part of the difference in M that the rounding of x may cause. Nothing below it can be claimed.
        blur = 0.0 if prox is None else eps * x_norm / step_size
        # Where f is flat nothing was added to x. Below the smallest normal number every mapping is 0.
        flat, comparable = largest == 0, jnp.where(tol > 0, tol, 1.0) * largest >= tiny
        small = comparable & jnp.isfinite(mapping) & (mapping + blur <= tol * largest)
        return small | (flat & (mapping == 0))

    def step(carry: _Carry) -> _Carry:
        value, grads = jax.value_and_grad(value_fn)(carry.params)
        grads = jax.tree.map(jnp.conj, grads)
        updates, opt_state = optimizer.update(
            grads, carry.opt_state, carry.params, value=value, grad=grads, value_fn=value_fn
        )
        params = optax.apply_updates(carry.params, updates)
        iterate = eval_params(opt_state, params)
        search, steps = _search_of(opt_state), carry.steps + 1
        moved = _difference(iterate, carry.iterate)
        gradient_norm, x_norm, speed = map(norm, (grads, iterate, moved))
        if search is not None:
            taken, value = search.step_size, search.value
            finite = jnp.isfinite(value) & jnp.isfinite(x_norm)
        else:
            taken = _step_size(problem, carry.steps, updates, gradient_norm)
            finite = jnp.isfinite(value) & jnp.isfinite(gradient_norm) & jnp.isfinite(x_norm)
        # A schedule may reach 0, where nothing moves and the mapping is 0/0.
        step_size = jnp.where(taken > 0, taken, carry.step_size)
        if prox is None:
            mapping = gradient_norm
        elif search is not None:
            mapping = search.mapping_norm
        else:
            mapping = norm(_step_from(prox, carry.params, grads, step_size)) / step_size

        scale = jnp.where(carry.steps == 0, jnp.maximum(carry.scale, gradient_norm), carry.scale)
        # Momentum that has built up along a flat direction promises a gain that M does not show.
        at_rest = jnp.maximum(mapping, speed / (_MOMENTUM * step_size))
        candidate = is_small(at_rest, jnp.maximum(scale, gradient_norm), x_norm, step_size)
        in_noise = speed * mapping <= 10 * eps * jnp.abs(value.astype(float))
        in_noise |= speed <= 4 * eps * x_norm
        # Steps of noise add up as a random walk does; a direction that is kept takes x further.
        # Momentum after an M of 0 is noise too.
        gains = (speed > 2 * jnp.sqrt(steps.astype(float)) * (taken * mapping)) & (mapping > 0)
        gains |= (mapping < carry.least_norm) | ~in_noise
        idle = jnp.where(gains & (taken > 0), 0, carry.idle_steps + 1)
        stalled = (idle >= jnp.maximum(_PATIENCE, steps // 4)) | ((mapping == 0) & (speed == 0))
        reason = jnp.where(steps >= max_steps, MAX_STEPS, RUNNING)
        reason = jnp.where(stalled, STALLED, reason)
        reason = jnp.where(candidate & (reason == RUNNING), _CHECK, reason)
        reason = jnp.where(finite, reason, NAN)

        history = carry.history
        if history is not None:
            at_x = (value_fn(iterate) if search is None else value).astype(float)
            entries = at_x + penalty(prox, iterate), mapping
            history = jax.tree.map(lambda h, e: h.at[carry.steps].set(e), history, entries)

        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (iterate, step_size),
            (carry.iterate, carry.step_size),
        )
        return _Carry(
            params,
            opt_state,
            *kept,
            scale=scale,
            least_norm=jnp.minimum(mapping, carry.least_norm),
            idle_steps=idle,
            steps=steps,
            reason=reason.astype(jnp.int32),
            history=history,
        )

    count, no = jnp.zeros([], jnp.int32), jnp.zeros([], bool)

    def check(state: _Checked) -> _Checked:
        carry = jax.lax.while_loop(lambda carry: carry.reason == RUNNING, step, state.carry)
        x, s, starting = carry.iterate, carry.step_size, carry.steps == 0

        # ∇f at x, and where it matters at a second point, from one program for both.
        def look(at: _Look) -> _Look:
            value, there = jax.value_and_grad(value_fn)(at.point)
            # No gradient where there is no value, so that nothing is claimed there.
            there = jax.tree.map(lambda g: jnp.where(jnp.isfinite(value), jnp.conj(g), jnp.nan), there)
            here = select(at.looks == 0, there, at.here)
            target = forward_backward(prox, x, here, s)
            gradient_norm, length, x_norm = map(norm, (here, _difference(target, x), x))
            mapping = gradient_norm if prox is None else length / s
            largest = jnp.maximum(carry.scale, gradient_norm)
            small = is_small(mapping, largest, x_norm, s)
            point = select(starting, jax.tree.map(lambda p: p * jnp.asarray(1 + h, p.dtype), x), target)
            again = (at.looks == 0) & (starting | (small & (prox is not None)))
            return _Look(point, here, there, mapping, largest, small, at.looks + 1, again)

        zero = jnp.zeros([], float)
        at = varying_with(_Look(x, x, x, zero, zero, no, count, ~no), x)
        at = jax.lax.while_loop(lambda at: at.again, look, at)
        change, along = _difference(at.there, at.here), _difference(at.point, x)
        length, response = map(norm, (along, change))
        steepest = 4 * at.mapping + 10 * eps * at.largest
        plausible = dot(change, along) / jnp.where(length > 0, length, 1.0) <= steepest
        converged = at.small & plausible & ~starting
        scale = jnp.where(
            starting & jnp.isfinite(response), jnp.maximum(at.largest, response / h), carry.scale
        )
        reason = jnp.where(carry.reason == _CHECK, RUNNING, carry.reason)
        reason = jnp.where(converged, CONVERGED, reason)
        since = state.since
        if not (rate is None or callable(rate)):
            # The lookahead may leave the domain of f where x does not: once more from x, without momentum.
            left = (reason == NAN) & jnp.isfinite(at.mapping) & (carry.steps > since + 1)
            again = x, optimizer.init(x)
            params, opt_state = select(left, again, (carry.params, carry.opt_state))
            carry = carry._replace(params=params, opt_state=opt_state)
            reason, since = jnp.where(left, RUNNING, reason), jnp.where(left, carry.steps, since)
        carry = carry._replace(scale=scale, reason=reason.astype(jnp.int32))
        return _Checked(carry, at.mapping, state.gradients + at.looks, since)

    blank = jnp.zeros(history_length or 0, float)
    # A start at zero has no scale of its own.
    at_zero = jnp.all(jnp.stack([jnp.all(p == 0) for p in jax.tree.leaves(init_params)]))
    carry = _Carry(
        params=init_params,
        opt_state=optimizer.init(init_params),
        iterate=init_params,
        step_size=jnp.ones([], float),
        scale=jnp.asarray(least_scale, float),
        least_norm=jnp.full([], jnp.inf, float),
        idle_steps=count,
        steps=count,
        reason=jnp.where(at_zero, RUNNING, _CHECK).astype(jnp.int32),
        history=None if history_length is None else (blank, blank),
    )
    start = _Checked(carry, mapping_norm=jnp.zeros([], float), gradients=count, since=count)
    start = varying_with(start, init_params)
    end = jax.lax.while_loop(lambda state: state.carry.reason < 0, check, start)
    carry, search = end.carry, _search_of(end.carry.opt_state)
    searched = (count, count) if search is None else (search.values, search.gradients)
    traced = carry.steps if carry.history is not None and search is None else count
    report = Report(
        gradient_mapping_norm=end.mapping_norm,
        gradient_scale=carry.scale,
        steps=carry.steps,
        value_evaluations=carry.steps + searched[0] + traced,
        gradient_evaluations=carry.steps + searched[1] + end.gradients,
        reason=carry.reason,
        history=carry.history,
    )
    return carry.iterate, carry.step_size, report


def _step_from(prox: ProxLike | None, params: Any, grads: Any, step_size: jax.Array) -> Any:
    return _difference(forward_backward(prox, params, grads, step_size), params)


def _search_of(opt_state: Any) -> BacktrackingState | None:
    """The report of `fista`, if the optimizer searches."""
    search = opt_state.search if isinstance(opt_state, IterateState) else None
    return search if isinstance(search, BacktrackingState) else None


def _step_size(problem: Problem, count: jax.Array, updates: Any, gradient_norm: jax.Array) -> jax.Array:
    """The learning rate, or how far the optimizer went for this gradient."""
    rate = problem.learning_rate
    if rate is None:
        return jnp.where(gradient_norm > 0, norm(updates) / gradient_norm, 1.0)
    return jnp.asarray(rate(count) if callable(rate) else rate).astype(float)


def _difference(new: Any, old: Any) -> Any:
    return jax.tree.map(jnp.subtract, new, old)
