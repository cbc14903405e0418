"""What a momentum may be, and which β a float and a schedule give to each step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax import accelerate, momentum, nag
from tests.helpers import START, betas, float_count, quartic_gradient, rising, trajectory, wavering


def test_schedule_is_evaluated_one_step_ahead():
    """w after step t is the velocity times m_{t+1}, with which the next gradient is looked up."""
    rule = momentum.scheduled(lambda count: rising(float_count(count)))
    np.testing.assert_allclose(betas(rule, 5), [1 / 4, 2 / 5, 3 / 6, 4 / 7, 5 / 8], rtol=1e-6)
    assert int(rule.init()) == 0


def test_constant():
    rule = momentum.constant(0.7)
    np.testing.assert_allclose(betas(rule, 3), 0.7, rtol=1e-7)
    assert not jax.tree.leaves(rule.init())


def test_as_rule_lifts_what_a_momentum_may_be():
    rule = momentum.sutskever(0.9)
    assert momentum.as_rule(rule) is rule
    np.testing.assert_allclose(betas(momentum.as_rule(0.25), 2), 0.25)
    np.testing.assert_allclose(betas(momentum.as_rule(jnp.array(0.25)), 2), 0.25)
    np.testing.assert_allclose(betas(momentum.as_rule(lambda count: 0.1 * float_count(count)), 2), [0.1, 0.2])


def test_a_rule_of_one_s_own_sees_the_step(x64: None):
    ps, xs = trajectory(nag(0.12, wavering(0.9)), quartic_gradient, START, 60)
    p, w, doubt, doubts = START, np.zeros_like(START), 0.0, []
    for found, iterate in zip(ps, xs, strict=True):
        u = -0.12 * quartic_gradient(p)
        doubt = 0.9 * doubt + 0.1 * (u @ w < 0)
        w = 0.9 * (1 - doubt) * (w + u)
        p = p + u + w
        np.testing.assert_allclose(found, p, rtol=0, atol=1e-12)
        np.testing.assert_allclose(iterate, p - w, rtol=0, atol=1e-12)
        doubts.append(doubt)
    # It wavers, and recovers.
    assert max(doubts) > 2 * doubts[-1] > 0


def test_every_rule_evaluates_the_primary_iterate():
    for value in (0.5, lambda count: 0.5, momentum.sutskever()):
        assert momentum.as_rule(value).evaluation == -1.0


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (1.0, ValueError, r"momentum must be a number in \[0, 1\).*; got 1.0"),
        (1, ValueError, r"momentum must be .*got 1$"),
        (-0.1, ValueError, r"momentum must be .*got -0.1"),
        (float("nan"), ValueError, r"momentum must be .*got nan"),
        (np.float32(1.5), ValueError, r"momentum must be .*got 1.5"),
        ("0.9", TypeError, r"momentum must be .*schedule or a momentum rule; got '0.9' of type str"),
        (True, TypeError, r"momentum must be .*got True of type bool"),
        (np.bool_(False), TypeError, r"momentum must be .*of type bool"),
        (None, TypeError, r"momentum must be .*got None of type NoneType"),
        ((0.9, 0.999), TypeError, r"momentum must be .*of type tuple"),
        (jnp.ones(3), ValueError, r"momentum must be .*got an array of shape \(3,\)"),
        (np.ones((1, 1)), ValueError, r"momentum must be .*got an array of shape \(1, 1\)"),
        (lambda: 0.9, TypeError, "momentum must be .*; <lambda> is no schedule, .* the step alone: too many"),
    ],
    ids=lambda value: "a function" if callable(value) and not isinstance(value, type) else repr(value),
)
def test_bad_momentum(value: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        accelerate(value)


def test_what_python_cannot_see_passes():
    """A traced value, and an array that may be on a device, are never compared in Python."""

    @jax.jit
    def update(value: jax.Array) -> Any:
        optimizer = accelerate(value)
        return optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))[0]

    np.testing.assert_allclose(update(jnp.array(0.5)), 1.5)
    # Out of range, and still no error under jit: the range is Python's to check.
    np.testing.assert_allclose(update(jnp.array(2.0)), 3.0)
    np.testing.assert_allclose(update(jnp.array(0.0)), 1.0)


@pytest.mark.parametrize(
    "name", ["fista", "strongly_convex", "sutskever", "ogm", "gfista", "scheduled_restart"]
)
def test_a_function_that_makes_a_rule_is_called_first(name: str):
    """Most of them take one number, as a schedule does, and what they return is no momentum."""
    message = rf"^outer_momentum must be a rule; got the function {name} .* nag_optax.momentum.{name}\(...\)$"
    with pytest.raises(TypeError, match=message):
        momentum.as_rule(getattr(momentum, name), "outer_momentum")
