"""A problem as data: a tree of arrays, whose structure decides which program solves it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nag_optax._arguments import scheduled_value
from nag_optax._arrays import varying_with, wide
from nag_optax.acceleration import momentum as rules
from nag_optax.prox.base import Prox
from nag_optax.solver.closed import Closed, close

# The rule of most problems, whose functions need no trace.
FISTA = rules.fista()


class Problem(NamedTuple):
    """The input of `minimize`. A new value of a leaf compiles nothing.

    None stands for an absent part, and for the momentum of `FISTA`. `missing` fills the history after the
    last step.
    """

    init_params: Any
    args: Any
    fun: Closed
    prox: Any
    learning_rate: Any
    momentum: Any
    tol: Any
    gradient_scale: Any
    max_steps: Any
    missing: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ClosedProx:
    """A callable `prox(params, step_size)`, and its `value` if it has one."""

    point: Closed
    value: Closed | None

    def __call__(self, params: Any, step_size: jax.typing.ArrayLike) -> Any:
        return self.point(params, step_size)


def prox_as_data(prox: Any, params: Any) -> Any:
    if prox is None or _is_data(prox):
        return prox
    wider = jax.tree.map(lambda p: jnp.zeros_like(p, wide(p.dtype)), params)
    point, _ = close(prox, wider, _scalar(float, params))
    value = getattr(prox, "value", None)
    return ClosedProx(point, None if value is None else close(value, params)[0])


def schedule_as_data(name: str, schedule: Any, params: Any) -> Any:
    if not callable(schedule):
        return schedule
    fun: Any = schedule
    return close(lambda count: scheduled_value(name, fun, count), _scalar(jnp.int32, params))[0]


def rule_as_data(momentum: rules.Momentum, params: Any) -> Any:
    if momentum is FISTA:
        return None
    if not isinstance(momentum, rules.MomentumRule):
        return schedule_as_data("momentum", momentum, params)
    init, types = close(momentum.init)
    state = varying_with(jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype), types), params)
    update = jax.tree.map(lambda p: jnp.zeros_like(p, wide(p.dtype)), params)
    step = rules.Step(update, update, _scalar(float, params))
    evaluation, retime = momentum.evaluation, momentum.retime
    return rules.MomentumRule(
        init,
        close(momentum.coefficients, state, step)[0],
        close(evaluation, state)[0] if callable(evaluation) else evaluation,
        None if retime is None else close(retime, state, _scalar(float, params))[0],
    )


def _scalar(dtype: Any, params: Any) -> jax.Array:
    return varying_with(jnp.zeros([], dtype), params)


def _is_data(prox: Any) -> bool:
    """Whether it depends on its leaves alone: an operator of the package without a user's function."""
    if not isinstance(prox, Prox):
        return False
    functions = [f for f in jax.tree.leaves((prox.solve, prox.evaluate, prox.options)) if callable(f)]
    own = all((getattr(f, "__module__", None) or "").startswith(("nag_optax.", "optax.")) for f in functions)
    parts = jax.tree.leaves(prox.arguments, is_leaf=lambda part: isinstance(part, Prox))
    return own and all(_is_data(part) for part in parts if isinstance(part, Prox))
