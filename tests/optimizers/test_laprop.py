"""`laprop`: its two sequences, and what it is made of."""

# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import accelerate, eval_params, laprop, momentum
from tests import reference
from tests.helpers import START, falling, float_count, quartic_gradient, rising, trajectory

STEPS = 200
EXACT = 1e-12  # float64 rounding over 200 steps of a contraction, with a margin


def falling_rate(count: Any) -> jax.Array:
    return falling(float_count(count))


def rising_momentum(count: Any) -> jax.Array:
    return rising(float_count(count))


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_both_sequences_under_schedules(decay: float, x64: None):
    optimizer = laprop(falling_rate, rising_momentum, 0.95, 1e-3, weight_decay=decay)
    actual = trajectory(optimizer, quartic_gradient, START, STEPS)
    expected = reference.laprop(quartic_gradient, START, falling, rising, 0.95, 1e-3, STEPS, decay)
    for points, known in zip(actual, expected, strict=True):
        assert points.dtype == np.float64
        np.testing.assert_allclose(points, known, rtol=0, atol=EXACT)


@pytest.mark.parametrize("rule", [rising_momentum, momentum.fista()], ids=["schedule", "rule"])
def test_it_is_adam_without_its_average_and_then_the_accelerator(
    rule: momentum.Momentum, x64: None, standard_promotion: None
):
    parts = optax.chain(optax.adam(falling_rate, b1=0.0, b2=0.95, eps=1e-3), accelerate(rule))
    actual = trajectory(laprop(falling_rate, rule, 0.95, 1e-3), quartic_gradient, START, STEPS)
    expected = trajectory(parts, quartic_gradient, START, STEPS)
    for points, known in zip(actual, expected, strict=True):
        np.testing.assert_allclose(points, known, rtol=0, atol=EXACT)


def test_it_is_rmsprop_at_a_constant_rate(x64: None, standard_promotion: None):
    rate, steps = 0.01, 50  # On the way down: about the minimum such steps magnify rounding.
    theirs = optax.rmsprop(
        rate, 0.95, 1e-3, eps_in_sqrt=False, bias_correction=True, momentum=0.9, nesterov=True
    )
    actual, _ = trajectory(laprop(rate, 0.9, 0.95, 1e-3), quartic_gradient, START, steps)
    expected, _ = trajectory(theirs, quartic_gradient, START, steps, iterate=False)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=EXACT)


def test_the_first_step_is_one_plus_momentum(x64: None):
    """Whatever the size of the gradient: 1.9 learning rates, as AlgoPerf's NAdamW."""
    grads = jnp.array([1e-20, 1.0, -1e20])
    optimizer = laprop(0.1, 0.9, eps=0.0)
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    np.testing.assert_allclose(updates, [-0.19, -0.19, 0.19], rtol=1e-12)


def test_a_restart_drops_the_momentum_and_keeps_the_scale():
    optimizer = laprop(0.1, momentum.fista(), restart="gradient")
    params = jnp.ones(1)
    state, updates = optimizer.init(params), None
    for gradient in [1.0] * 10 + [-1.0]:
        updates, state = optimizer.update(jnp.full(1, gradient), state, params)
    np.testing.assert_allclose(updates, 0.1, rtol=1e-6)  # its own step alone
    np.testing.assert_allclose(eval_params(state, params), params)
    assert state[0].second_moment[0] > 0


@pytest.mark.parametrize(("mu", "bytes_each"), [(0.9, 8), (0.0, 4)])
def test_a_parameter_costs_eight_bytes_and_four_without_momentum(mu: float, bytes_each: int):
    params = jnp.ones(1000, jnp.float32)
    state = laprop(0.1, mu).init(params)
    arrays = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sum(leaf.nbytes for leaf in arrays) == bytes_each * params.size


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"learning_rate": -0.1}, r"learning_rate must be a number in \[0, inf\)"),
        ({"learning_rate": 0.1, "b2": 1.0}, r"b2 must be a number in \[0, 1\)"),
        ({"learning_rate": 0.1, "eps": -1.0}, r"eps must be a number in \[0, inf\)"),
        ({"learning_rate": 0.1, "momentum": 1.0}, r"momentum must be a number in \[0, 1\)"),
        ({"learning_rate": 0.1, "weight_decay": -1.0}, r"weight_decay must be a number in \[0, inf\)"),
    ],
)
def test_errors(options: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        laprop(**options)
