"""A rule around a rule: when the momentum works against the step, drop it and begin again."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from nag_optax._arrays import select, sum_over_leaves, varying_with, widened
from nag_optax.acceleration.momentum.rule import PLAIN, Momentum, MomentumRule, Scalar, Step, as_rule

Restart = Literal["gradient", "speed", "value"]


class RestartingState(NamedTuple):
    """State of the rule that `restarting` makes.

    Attributes:
        rule_state: the state of the rule inside.
        seen: what the test compares with, the last speed or objective; `()` where it needs neither.
    """

    rule_state: Any
    seen: Any


def restarting(momentum: Momentum, restart: Restart | None) -> MomentumRule:
    """A rule that drops the offset, and begins again, when the momentum does harm.

    ```
    "gradient"   ⟨u, w + u⟩ < 0       the momentum points uphill
    "speed"      ‖w + u‖ < ‖w + u‖′   the iterates slow down; ′ marks the step before
    "value"      f > f′               the objective rose

    β = γ = 0 where the test says so, and the rule's own coefficients elsewhere
    ```

    `restart=` of `accelerate`, `nag`, `laprop`, `fista` and `minimize` is the short form.

    Args:
        momentum: a rule, which a restart sends back to its beginning; or a number or an Optax
            schedule, which follow the training step and do not begin again.
        restart: "gradient", "speed" or "value", which needs `update(..., value=)`. With None
            there is no restart.

    Returns:
        A `MomentumRule`, with the iterate and the `retime` of the rule that it wraps.

    Raises:
        ValueError: if restart is unknown, or a number is out of range; in the update, if `value=` is
            missing or no scalar.
        TypeError: if `momentum` is no number, schedule or rule.

    Example:
        >>> import jax.numpy as jnp, nag_optax
        >>> rule = nag_optax.momentum.restarting(0.9, "gradient")
        >>> optimizer = nag_optax.nag(0.1, rule)
        >>> params = jnp.array(1.0)
        >>> state = optimizer.init(params)
        >>> for gradient in (1.0, -0.5):  # the second step goes back, against the momentum
        ...     updates, state = optimizer.update(jnp.array(gradient), state, params)
        ...     print(f"{updates:.2f}")
        -0.19
        0.05

    Source: O'Donoghue and Candès, *Adaptive restart for accelerated gradient schemes*, 2015; the speed
    test, Su, Boyd and Candès, *A differential equation for modeling Nesterov's accelerated gradient
    method*, 2016.
    """
    rule = as_rule(momentum)
    if restart is None or rule is PLAIN:
        return rule
    if restart not in get_args(Restart):
        allowed = ", ".join(repr(name) for name in get_args(Restart))
        raise ValueError(f"restart must be {allowed} or None; got {restart!r}")
    test = _TESTS[restart]
    begins_again = isinstance(momentum, MomentumRule)

    def init() -> RestartingState:
        return RestartingState(rule.init(), () if test.first is None else jnp.full([], test.first, float))

    def coefficients(state: RestartingState, step: Step) -> tuple[tuple[Scalar, Scalar], RestartingState]:
        flag, seen = test.triggered(state.seen, step)
        (beta, gamma), rule_state = rule.coefficients(state.rule_state, step)
        if begins_again:
            rule_state = select(flag, rule.init(), rule_state)
        pair = jnp.where(flag, 0.0, beta), jnp.where(flag, 0.0, gamma)
        return pair, RestartingState(rule_state, seen)

    evaluation, retime = rule.evaluation, rule.retime

    def evaluation_of(state: RestartingState) -> Scalar:
        return evaluation(state.rule_state) if callable(evaluation) else evaluation

    def retimed(state: RestartingState, ratio: Scalar) -> tuple[Scalar, RestartingState]:
        assert retime is not None
        factor, rule_state = retime(state.rule_state, ratio)
        return factor, state._replace(rule_state=rule_state)

    return MomentumRule(
        init,
        coefficients,
        evaluation=evaluation_of if callable(evaluation) else evaluation,
        retime=None if retime is None else retimed,
    )


class _Test(NamedTuple):
    """Where a test begins, None where it compares with nothing, and `(seen, step) -> (flag, seen)`.

    Each reads the step u and the offset w before it; w + u is the velocity that is about to be formed.
    """

    first: float | None
    triggered: Callable[[Any, Step], tuple[jax.Array, Any]]


def _points_uphill(seen: tuple[()], step: Step) -> tuple[jax.Array, tuple[()]]:
    return sum_over_leaves(_step_velocity, step.update, step.offset) < 0.0, seen


def _slows_down(squared_speed: jax.Array, step: Step) -> tuple[jax.Array, jax.Array]:
    squared = sum_over_leaves(_velocity_velocity, step.update, step.offset)
    slower = squared < squared_speed
    # Zero after a restart: the next velocity is a single step and must not trigger again.
    return slower, jnp.where(slower, 0.0, squared)


def _rises(last_value: jax.Array, step: Step) -> tuple[jax.Array, jax.Array]:
    if step.value is None:
        raise ValueError('restart="value" needs the objective: call update(..., value=loss) with a scalar')
    if jnp.shape(step.value) != ():
        raise ValueError(f"value must be a scalar; got shape {jnp.shape(step.value)}")
    value = jnp.asarray(step.value).astype(last_value.dtype)
    return value > last_value, varying_with(value, last_value)


_TESTS = {
    "gradient": _Test(None, _points_uphill),
    "speed": _Test(0.0, _slows_down),
    "value": _Test(math.inf, _rises),
}


def _step_velocity(u: jax.Array, w: jax.Array) -> jax.Array:
    u, w = widened(u, w)
    return jnp.sum(jnp.real(jnp.conj(u) * (w + u)))


def _velocity_velocity(u: jax.Array, w: jax.Array) -> jax.Array:
    u, w = widened(u, w)
    return jnp.sum(jnp.square(jnp.abs(w + u)))
