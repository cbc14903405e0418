"""The compiled loop of `minimize`, and its stopping test.

Everything that is compared is in the same units, so that multiplying f by a number, or rescaling x,
changes no decision:

    converged   M(x) ≤ tol·max(‖∇f(x₀)‖, ‖∇f(x)‖), with M evaluated anew at the x that is returned
                plus what the rounding of x may add to M, and with the latest s > 0
    stalled     s·M²/2 below the rounding of f, or s·M below that of x, and no smaller M in 100 steps
                and in a quarter of all;
                or M = 0, a fixed point of the arithmetic, where that is not within the tolerance
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._dtypes import wide
from nag_optax._meshes import varying_with
from nag_optax._trees import norm
from nag_optax.acceleration.evaluation import eval_params
from nag_optax.acceleration.iterate import IterateState
from nag_optax.optimizers.backtracking import BacktrackingState
from nag_optax.prox.apply import penalty, proximal_point
from nag_optax.prox.base import ProxLike

RUNNING, CONVERGED, MAX_STEPS, STALLED, NAN = -1, 0, 1, 2, 3

# Steps without a smaller gradient mapping, in the noise, until the run has stalled; a quarter of all
# where that is more, because a slow problem is slow there too.
_PATIENCE = 100


class Problem(NamedTuple):
    """f, the prox of g, and how to descend."""

    value_fn: Callable[[Any], jax.Array]
    prox: ProxLike | None
    optimizer: optax.GradientTransformationExtraArgs
    learning_rate: Any


class Report(NamedTuple):
    """The loop's results beside the parameters, all arrays; evaluations without those of the value at x."""

    gradient_mapping_norm: jax.Array
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
    mapping_norm: jax.Array
    gradient_scale: jax.Array
    least_norm: jax.Array
    idle_steps: jax.Array
    steps: jax.Array
    checks: jax.Array
    reason: jax.Array
    history: tuple[jax.Array, jax.Array] | None


def gradient_of(value_fn: Callable, params: Any) -> Any:
    # JAX's gradient of a real function of z is conj(dz); descent wants its conjugate.
    return jax.tree.map(jnp.conj, jax.grad(value_fn)(params))


def forward_backward(prox: ProxLike | None, params: Any, grads: Any, step_size: jax.Array) -> Any:
    """prox(p − s·∇f(p), s), in the dtypes of the parameters."""
    updates = jax.tree.map(lambda g: -jnp.asarray(step_size, g.dtype) * g, grads)
    target = proximal_point(prox, params, updates, step_size)
    return jax.tree.map(lambda z, p: z.astype(p.dtype), target, params)


def mapping_norm(prox: ProxLike | None, params: Any, grads: Any, step_size) -> jax.Array:
    """‖p − prox(p − s·g, s)‖/s, which is ‖g‖ without a prox."""
    if prox is None:
        return norm(grads)
    target = forward_backward(prox, params, grads, step_size)
    return norm(jax.tree.map(jnp.subtract, target, params)) / step_size


def run(
    problem: Problem,
    init_params: Any,
    tol: jax.Array,
    max_steps: jax.Array,
    history_length: int | None,
) -> tuple[Any, jax.Array, Report]:
    """x, the step size of the latest step, and the report."""
    value_fn, prox, optimizer, _ = problem
    eps = max(float(jnp.finfo(p.dtype).eps) for p in jax.tree.leaves(init_params))
    tiny = max(float(jnp.finfo(wide(p.dtype)).tiny) for p in jax.tree.leaves(init_params))

    def body(carry: _Carry) -> _Carry:
        value, grads = jax.value_and_grad(value_fn)(carry.params)
        grads = jax.tree.map(jnp.conj, grads)
        updates, opt_state = optimizer.update(
            grads, carry.opt_state, carry.params, value=value, grad=grads, value_fn=value_fn
        )
        params = optax.apply_updates(carry.params, updates)
        iterate = eval_params(opt_state, params)
        search, steps, gradient_norm = _search_of(opt_state), carry.steps + 1, norm(grads)
        if search is not None:
            taken, mapping = search.step_size, search.mapping_norm
            step_size = jnp.where(taken > 0, taken, carry.step_size)
        else:
            taken = _step_size(problem, carry.steps, updates, gradient_norm)
            # A schedule may reach 0, where nothing moves and the mapping is 0/0.
            step_size = jnp.where(taken > 0, taken, carry.step_size)
            mapping = mapping_norm(prox, carry.params, grads, step_size)

        scale = jnp.where(carry.steps == 0, gradient_norm, carry.gradient_scale)
        finite = jnp.isfinite(value) & _all_finite(grads) & _all_finite(iterate)
        # What the difference in M may owe to the rounding of x: nothing below it can be claimed.
        blur = 0.0 if prox is None else eps * norm(iterate) / step_size

        def small(mapping: jax.Array, gradient_norm: jax.Array) -> jax.Array:
            largest = jnp.maximum(scale, gradient_norm)
            # Below the smallest normal number every mapping is 0.
            comparable = (jnp.where(tol > 0, tol, 1.0) * largest >= tiny) | (largest == 0)
            return comparable & jnp.isfinite(mapping) & (mapping + blur <= tol * largest)

        candidate = finite & small(mapping, gradient_norm)

        def verify() -> tuple[jax.Array, jax.Array]:
            there = gradient_of(value_fn, iterate)
            at_iterate = mapping_norm(prox, iterate, there, step_size)
            return at_iterate, small(at_iterate, norm(there))

        verified, converged = jax.lax.cond(candidate, verify, lambda: (mapping, candidate))

        in_noise = 0.5 * (taken * mapping) * mapping <= 10 * eps * jnp.abs(value.astype(float))
        in_noise |= taken * mapping <= 4 * eps * norm(iterate)
        improved = mapping < 0.99 * carry.least_norm
        idle = jnp.where(in_noise & ~improved, carry.idle_steps + 1, 0)
        reason = jnp.where(steps >= max_steps, MAX_STEPS, RUNNING)
        stalled = idle >= jnp.maximum(_PATIENCE, steps // 4)
        reason = jnp.where(stalled | (mapping == 0), STALLED, reason)
        reason = jnp.where(converged, CONVERGED, reason)
        reason = jnp.where(finite, reason, NAN)

        history = carry.history
        if history is not None:
            at_x = value_fn(iterate).astype(float) if search is None else search.value
            entries = at_x + penalty(prox, iterate), mapping
            history = jax.tree.map(lambda h, e: h.at[carry.steps].set(e), history, entries)

        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (iterate, step_size, verified),
            (carry.iterate, carry.step_size, carry.mapping_norm),
        )
        return _Carry(
            params,
            opt_state,
            *kept,
            gradient_scale=scale,
            least_norm=jnp.minimum(mapping, carry.least_norm),
            idle_steps=idle,
            steps=steps,
            checks=carry.checks + candidate.astype(jnp.int32),
            reason=reason.astype(jnp.int32),
            history=history,
        )

    zero, count = jnp.zeros([], float), jnp.zeros([], jnp.int32)
    blank = jnp.full(history_length or 0, jnp.nan, float)
    start = _Carry(
        params=init_params,
        opt_state=optimizer.init(init_params),
        iterate=init_params,
        step_size=jnp.ones([], float),
        mapping_norm=zero,
        gradient_scale=zero,
        least_norm=jnp.full([], jnp.inf, float),
        idle_steps=count,
        steps=count,
        checks=count,
        reason=jnp.full([], RUNNING, jnp.int32),
        history=None if history_length is None else (blank, blank),
    )
    start = varying_with(start, init_params)
    end = jax.lax.while_loop(lambda carry: carry.reason == RUNNING, body, start)
    x, s, search = end.iterate, end.step_size, _search_of(end.opt_state)
    converged = end.reason == CONVERGED
    at_x = jax.lax.cond(
        converged, lambda: end.mapping_norm, lambda: mapping_norm(prox, x, gradient_of(value_fn, x), s)
    )
    searched = (count, count) if search is None else (search.values, search.gradients)
    traced = end.steps if end.history is not None and search is None else count
    report = Report(
        gradient_mapping_norm=at_x,
        steps=end.steps,
        value_evaluations=end.steps + searched[0] + traced,
        gradient_evaluations=end.steps + searched[1] + end.checks + (~converged).astype(jnp.int32),
        reason=end.reason,
        history=end.history,
    )
    return x, s, report


def _search_of(opt_state: Any) -> BacktrackingState | None:
    """What `fista` found, where the optimizer is one that searches."""
    search = opt_state.search if isinstance(opt_state, IterateState) else None
    return search if isinstance(search, BacktrackingState) else None


def _step_size(problem: Problem, count: jax.Array, updates: Any, gradient_norm: jax.Array) -> jax.Array:
    """The learning rate, or how far the optimizer went for this gradient."""
    rate = problem.learning_rate
    if rate is None:
        return jnp.where(gradient_norm > 0, norm(updates) / gradient_norm, 1.0)
    return jnp.asarray(rate(count) if callable(rate) else rate).astype(float)


def _all_finite(tree: Any) -> jax.Array:
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(flags)) if flags else jnp.ones([], bool)
