"""The stopping test of `minimize` where numbers are small or large, and where the steps become zero."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import Reason, minimize, prox

CURVATURE, TARGET = np.array([1.0, 10.0, 100.0]), np.array([1.0, 2.0, 3.0])


def bowl(x: jax.Array, factor: jax.Array, unit: jax.Array) -> jax.Array:
    """Its gradient at zero is of norm 600·factor/unit, s about unit²/(200·factor)."""
    return factor * jnp.sum(jnp.asarray(CURVATURE, x.dtype) * (x / unit - jnp.asarray(TARGET, x.dtype)) ** 2)


def minimized(factor: float, unit: float, **options: Any) -> Any:
    args = jnp.float32(factor), jnp.float32(unit)
    return minimize(bowl, jnp.zeros(3, jnp.float32), args=args, **options)


@pytest.mark.parametrize(
    ("factor", "unit"),
    [
        (1e-33, 1.0),
        (1e-22, 1.0),
        (1e17, 1.0),
        (1e34, 1.0),
        (1.0, 1e-15),
        (1.0, 1e17),
        (1e-30, 1e-25),
        (1e30, 1e25),
    ],
)
def test_units_in_which_squares_are_no_numbers_of_float32(factor: float, unit: float):
    solution = minimized(factor, unit)
    assert Reason(int(solution.reason)) is Reason.CONVERGED
    x = np.asarray(solution.params, np.float64) / np.float64(np.float32(unit))
    reached = np.linalg.norm(CURVATURE * (x - TARGET)) / np.linalg.norm(CURVATURE * TARGET)
    # The last tenth for the rounding of x, 6e-8·3, whose part of the gradient is 300·6e-8 of 300.
    assert reached < 1.1e-6
    assert 0 < float(solution.gradient_mapping_norm) < np.inf


def test_a_tolerance_below_the_smallest_number_is_not_reached():
    """1e-6·‖∇f(0)‖ is 6e-39, and the rest of the gradient is flushed to zero."""
    assert not minimized(1e-35, 1.0).converged


def test_an_infinite_norm_is_not_within_an_infinite_tolerance():
    """Four slopes of 2e38, and a norm of 4e38."""
    solution = minimize(lambda x: 2e38 * jnp.sum(x), jnp.zeros(4, jnp.float32), max_steps=1)
    assert not solution.converged


LENGTHS = jnp.array([1.0, 0.01])


def valley(x: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(LENGTHS * (x - jnp.array([1.0, 2.0])) ** 2)


@pytest.mark.parametrize("strength", [0.0, 1e-3])
@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        (optax.linear_schedule(0.5, 0.0, 20), 0.025),
        (optax.cosine_decay_schedule(0.5, 20), 0.25 * (1 + np.cos(np.pi * 19 / 20))),
    ],
    ids=["linear", "cosine"],
)
def test_a_schedule_that_ends_at_zero_far_from_the_minimum(
    schedule: Any, last: float, strength: float, standard_promotion: None
):
    """M has the last step size above zero, and the run ends without a claim."""
    operator = prox.l1(strength) if strength else None
    solution = minimize(valley, jnp.zeros(2), prox=operator, learning_rate=schedule)
    assert Reason(int(solution.reason)) is Reason.STALLED and int(solution.steps) < 200
    x = np.asarray(solution.params, np.float64)
    target = x - last * np.array([1.0, 0.01]) * (x - [1.0, 2.0])
    target = np.sign(target) * np.maximum(np.abs(target) - last * strength, 0)
    # x − prox(x) rounds to some 1e-7, which is divided by s = 0.003 of the cosine.
    np.testing.assert_allclose(
        solution.gradient_mapping_norm, np.linalg.norm(x - target) / last, rtol=1e-3, atol=1e-7 / last
    )
    assert solution.gradient_mapping_norm > 0.01


@pytest.mark.parametrize("operator", [None, prox.l1(1e-3)], ids=["smooth", "l1"])
def test_a_schedule_that_begins_at_zero(operator: Any):
    schedule = optax.linear_schedule(0.0, 0.5, 20)
    solution = minimize(valley, jnp.zeros(2), prox=operator, learning_rate=schedule)
    assert Reason(int(solution.reason)) is Reason.CONVERGED
    np.testing.assert_allclose(solution.params[1], 2.0 if operator is None else 1.9, rtol=1e-3)
