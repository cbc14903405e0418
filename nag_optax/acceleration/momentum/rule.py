"""Momentum rules: the two coefficients (β, γ) that make the kernel one method or another.

A rule is a pair of pure functions, in Optax's spirit, and the iterate that its theorem is about:

    init() -> rule_state
    coefficients(rule_state, step) -> ((beta, gamma), rule_state)
    evaluation: x = p + evaluation·w

`accelerate` takes a rule, a float or an Optax schedule; the last two are lifted to rules here.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import check_schedule, is_python_number, scheduled_value

Scalar = jax.typing.ArrayLike
RuleState = Any


class Step(NamedTuple):
    """The step that is about to be taken, for a rule to look at.

    Attributes:
        update: u, the incoming step, a tree; None in place of a leaf that stays.
        offset: w, the lookahead offset before the step, the tree of the parameters.
        value: the objective at the parameters, where `update(..., value=)` gives it; else None.
    """

    update: Any
    offset: Any
    value: Scalar | None


class MomentumRule(NamedTuple):
    """A method, apart from its step: two coefficients for each step.

    The kernel computes `w⁺ = β·(w + u) + γ·u` and returns `u + w⁺`. One of your own needs `init` and
    `coefficients`.

    Attributes:
        init: `init() -> rule_state`, a pytree of arrays of fixed shapes and dtypes.
        coefficients: `coefficients(rule_state, step) -> ((beta, gamma), rule_state)`, pure and without
            a Python branch on an array. Scalars; beta in [0, 1) for every rule of this package. `step` is
            a `Step`. In this package only `restarting` looks at it; the other rules can be called
            without it.
        evaluation: the factor e of the iterate to evaluate, `x = p + e·w`. A number, or a function
            of the rule state after the step for methods whose factor moves. −1 gives the primary
            iterate of Nesterov's method.
        retime: `retime(rule_state, ratio) -> (factor, rule_state)`, for a step size s that becomes
            s⁺ after the lookahead was formed, ratio = s/s⁺: what to multiply w with, and the state
            that goes with it. None where the theory lets the step size fall but not grow.
    """

    init: Callable[[], RuleState]
    coefficients: Callable[..., tuple[tuple[Scalar, Scalar], RuleState]]
    evaluation: Scalar | Callable[[RuleState], Scalar] = -1.0
    retime: Callable[[RuleState, Scalar], tuple[Scalar, RuleState]] | None = None


Momentum = Scalar | optax.Schedule | MomentumRule


def constant(momentum: Scalar) -> MomentumRule:
    """The rule β = momentum, γ = 0."""

    def coefficients(state: tuple[()], _: Step | None = None) -> tuple[tuple[Scalar, Scalar], tuple[()]]:
        return (momentum, 0.0), state

    return MomentumRule(tuple, coefficients)


# The rule of Python's own 0, which needs no buffer because it stays 0. An array may change its value.
PLAIN = constant(0.0)


def scheduled(schedule: optax.Schedule) -> MomentumRule:
    """The rule β_t = schedule(t + 1), γ = 0, for steps t = 0, 1, …

    The offset after step t is the velocity times the momentum with which the *next* gradient is
    looked up, hence t + 1: the lookahead is exact.
    """

    def init() -> jax.Array:
        return jnp.zeros([], jnp.int32)

    def coefficients(count: jax.Array, _: Step | None = None) -> tuple[tuple[Scalar, Scalar], jax.Array]:
        count = jnp.asarray(optax.safe_increment(count))
        return (schedule(count), 0.0), count

    return MomentumRule(init, coefficients)


def as_rule(momentum: Momentum, name: str = "momentum") -> MomentumRule:
    """Lifts a float or an Optax schedule to a rule; a rule is returned as it is. `name` is for errors."""
    if isinstance(momentum, MomentumRule):
        return momentum
    home = getattr(momentum, "__module__", None) or ""  # None of a function that exec made
    if inspect.isfunction(momentum) and home.startswith("nag_optax.acceleration.momentum."):
        raise TypeError(
            f"{name} must be a rule; got the function {momentum.__name__} that makes one: "
            f"call it, nag_optax.momentum.{momentum.__name__}(...)"
        )
    check_schedule(name, momentum, minimum=0, below=1, or_else=", an Optax schedule or a momentum rule")
    if is_python_number(momentum) and momentum == 0:
        return PLAIN
    if callable(momentum):
        return scheduled(lambda count: scheduled_value(name, momentum, count))
    return constant(momentum)


def as_float(value: Scalar) -> Scalar:
    """An array in the default float dtype; a Python number as it is, for arithmetic in double."""
    return value if is_python_number(value) else jnp.asarray(value, float)
