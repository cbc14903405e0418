"""Restart tests: when the momentum works against the step, drop it and start the sequence again.

Each test reads the step u and the offset w before the update; v⁺ = w + u is the velocity that the
update is about to form. (O'Donoghue and Candès 2015; Su, Boyd and Candès 2016.)
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from nag_optax._meshes import varying_with
from nag_optax._trees import sum_over_leaves, widened

Restart = Literal["gradient", "speed", "value"]


class RestartTest(NamedTuple):
    """`init() -> state` and `triggered(state, step, offset, value) -> (flag, state)`."""

    init: Callable[[], Any]
    triggered: Callable[[Any, optax.Updates, optax.Updates, Any], tuple[jax.Array, Any]]


def restart_test(restart: Restart) -> RestartTest:
    """The test of that name.

    - "gradient": ⟨u, v⁺⟩ < 0, the momentum points uphill;
    - "speed": ‖v⁺‖ < ‖v‖, the iterates slow down;
    - "value": the objective rose since the last step.
    """
    if restart not in get_args(Restart):
        allowed = ", ".join(repr(name) for name in get_args(Restart))
        raise ValueError(f"restart must be {allowed} or None; got {restart!r}")
    return {"gradient": _gradient, "speed": _speed, "value": _value}[restart]()


def _gradient() -> RestartTest:
    def triggered(state: tuple[()], step, offset, value) -> tuple[jax.Array, tuple[()]]:
        del value
        return sum_over_leaves(_step_velocity, step, offset) < 0.0, state

    return RestartTest(tuple, triggered)


def _speed() -> RestartTest:
    def init() -> jax.Array:
        return jnp.zeros([], float)

    def triggered(squared_speed: jax.Array, step, offset, value) -> tuple[jax.Array, jax.Array]:
        del value
        squared = sum_over_leaves(_velocity_velocity, step, offset)
        slower = squared < squared_speed
        # Zero after a restart: the next velocity is a single step and must not trigger again.
        return slower, jnp.where(slower, 0.0, squared)

    return RestartTest(init, triggered)


def _value() -> RestartTest:
    def init() -> jax.Array:
        return jnp.full([], jnp.inf, float)

    def triggered(last_value: jax.Array, step, offset, value) -> tuple[jax.Array, jax.Array]:
        del step, offset
        if value is None:
            raise ValueError(
                'restart="value" needs the objective: call update(..., value=loss) with a scalar'
            )
        if jnp.shape(value) != ():
            raise ValueError(f"value must be a scalar; got shape {jnp.shape(value)}")
        value = jnp.asarray(value).astype(last_value.dtype)
        return value > last_value, varying_with(value, last_value)

    return RestartTest(init, triggered)


def _step_velocity(u: jax.Array, w: jax.Array) -> jax.Array:
    u, w = widened(u, w)
    return jnp.sum(jnp.real(jnp.conj(u) * (w + u)))


def _velocity_velocity(u: jax.Array, w: jax.Array) -> jax.Array:
    u, w = widened(u, w)
    return jnp.sum(jnp.square(jnp.abs(w + u)))
