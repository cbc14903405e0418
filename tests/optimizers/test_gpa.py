"""`gpa` against its paper, the methods that it contains, and Nesterov's bound."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import eval_params, gpa, nag
from tests import reference
from tests.helpers import (
    START,
    arrays_like,
    assert_trees_equal,
    float_count,
    quartic_gradient,
    rising,
    sphere,
    train,
    trajectory,
)

EXACT = 1e-12  # float64 rounding over the steps of a contraction, with a margin
STEPS = 200


def residual(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.dtype == expected.dtype == np.float64
    return float(np.max(np.abs(actual - expected)))


INNERS = {
    "descent": (optax.sgd(0.2), lambda: reference.gradient_descent_step(quartic_gradient, 0.2)),
    "heavy-ball": (optax.sgd(0.05, 0.8), lambda: reference.heavy_ball_step(quartic_gradient, 0.05, 0.8)),
    "adam": (optax.adam(0.03), lambda: reference.adam_step(quartic_gradient, 0.03)),
}


def swinging(count: Any) -> Any:
    """From 1 to 0 and back, both included."""
    return abs(1.0 - 0.125 * (count % 17)) * (count % 17 < 16)


def averaging(count: Any) -> Any:
    """The uniform average, whose first weight of the old x is 0."""
    return count / (count + 1.0)


@pytest.mark.usefixtures("standard_promotion")  # Adam mixes dtypes
class TestExactness:
    @pytest.mark.parametrize("inner", INNERS)
    def test_against_the_paper(self, inner: str, x64: None):
        ours, theirs = INNERS[inner]
        ys, xs = trajectory(gpa(ours, 0.95, 0.7), quartic_gradient, START, STEPS)
        y, x, z = reference.gpa(theirs(), START, lambda t: 0.95, lambda t: 0.7, STEPS)
        assert residual(ys, y) < EXACT
        assert residual(xs, x) < EXACT
        assert residual(x, z) > 1e-3

    @pytest.mark.parametrize("inner", ["descent", "adam"])
    def test_both_schedules(self, inner: str, x64: None):
        """Through μ_x = 0 and μ_y = 0 and 1, where to solve for x or z would divide by zero."""
        ours, theirs = INNERS[inner]
        optimizer = gpa(ours, lambda c: averaging(float_count(c)), lambda c: swinging(float_count(c)))
        ys, xs = trajectory(optimizer, quartic_gradient, START, STEPS)
        y, x, _ = reference.gpa(theirs(), START, averaging, swinging, STEPS)
        assert {0.0, 1.0} < {float(swinging(t)) for t in range(STEPS)}
        assert residual(ys, y) < EXACT
        assert residual(xs, x) < EXACT

    def test_interpolation_that_is_changed_from_outside(self, x64: None):
        """As `inject_hyperparams` does, which knows μ_y one step late: y is undone with what made it."""
        injected = optax.inject_hyperparams(gpa)(
            optax.sgd(0.2), lambda c: rising(float_count(c)), lambda c: swinging(float_count(c))
        )
        ys, xs = trajectory(injected, quartic_gradient, START, STEPS)
        step = INNERS["descent"][1]()
        y, x, _ = reference.gpa(step, START, rising, lambda t: swinging(max(t - 1, 0)), STEPS)
        assert residual(ys, y) < EXACT
        assert residual(xs, x) < EXACT

    def test_defaults_are_those_of_the_authors(self):
        defaults = {k: v.default for k, v in inspect.signature(gpa).parameters.items()}
        assert defaults["mu_y"] == 0.7
        assert defaults["mu_x"] == round(0.9 ** (1 / 32), 4)


@pytest.mark.usefixtures("standard_promotion")
class TestOtherMethods:
    def test_equal_weights_are_nesterov_s_method(self, x64: None):
        """μ_x = μ_y = m and lr/(1 − m): Nesterov's own primal averaging form."""
        ys, xs = trajectory(gpa(optax.sgd(0.1 / (1 - 0.8)), 0.8, 0.8), quartic_gradient, START, STEPS)
        ps, expected = trajectory(nag(0.1, 0.8), quartic_gradient, START, STEPS)
        assert residual(ys, ps) < EXACT
        assert residual(xs, expected) < EXACT

    def test_gradients_at_the_average_are_the_heavy_ball(self, x64: None):
        ys, xs = trajectory(gpa(optax.sgd(0.05 / (1 - 0.8)), 0.8, 1), quartic_gradient, START, STEPS)
        ps, _ = trajectory(optax.sgd(0.05, 0.8), quartic_gradient, START, STEPS, iterate=False)
        assert residual(ys, ps) < EXACT
        assert residual(xs, ps) < EXACT

    def test_gradients_at_the_iterate_are_an_average_beside_the_inner_optimizer(self, x64: None):
        ys, xs = trajectory(gpa(optax.adam(0.03), 0.9, 0.0), quartic_gradient, START, STEPS)
        zs, _ = trajectory(optax.adam(0.03), quartic_gradient, START, STEPS, iterate=False)
        average, averages = START, []
        for z in zs:
            average = 0.9 * average + 0.1 * z
            averages.append(average)
        assert residual(ys, zs) < EXACT
        assert residual(xs, np.stack(averages)) < EXACT

    def test_uniform_average_is_schedule_free(self, x64: None):
        schedule_free = optax.contrib.schedule_free(optax.sgd(0.2), 0.2, b1=0.9)

        def step(carry: Any, _: None) -> Any:
            params, state = carry
            updates, state = schedule_free.update(quartic_gradient(params), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, optax.contrib.schedule_free_eval_params(state, params))

        start = jnp.asarray(START)
        carry = start, schedule_free.init(start)
        _, (ps, expected) = jax.lax.scan(step, carry, length=STEPS)
        optimizer = gpa(optax.sgd(0.2), lambda count: averaging(float_count(count)), 0.9)
        ys, xs = trajectory(optimizer, quartic_gradient, START, STEPS)
        # Its learning rate and sums pass through float32.
        np.testing.assert_allclose(ys, ps, atol=1e-6)
        np.testing.assert_allclose(xs, expected, atol=1e-6)

    @pytest.mark.parametrize("zero", [0, 0.0, np.float32(0)], ids=["int", "float", "numpy"])
    def test_no_average_has_no_buffer(self, zero: Any):
        optimizer, params = gpa(optax.sgd(0.1), zero), {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
        assert not arrays_like(optimizer.init(params), params)
        ours, state = train(optimizer, params, sphere, 20)
        alone, _ = train(optax.sgd(0.1), params, sphere, 20)
        assert_trees_equal(ours, alone)
        assert_trees_equal(eval_params(state, ours), ours)


def test_nesterov_s_bound(x64: None):
    """f(x_n) − f* ≤ (1 − √q)ⁿ (f₀ − f* + μR²/2) with μ_x = μ_y = (1 − √q)/(1 + √q) and the inner rate
    1/(L(1 − μ_x)), on diag(1, 100)."""
    hessian, root = np.diag([1.0, 100.0]), 0.1
    m = (1 - root) / (1 + root)
    start = np.array([1.0, 1.0])
    _, xs = trajectory(gpa(optax.sgd(0.01 / (1 - m)), m, m), lambda p: hessian @ p, start, 150)
    values = 0.5 * np.einsum("ni,ij,nj->n", xs, hessian, xs)
    bounds = (50.5 + 0.5 * 2) * (1 - root) ** np.arange(1, 151)
    assert np.all(values <= bounds)
    assert values[-1] < 1e-6 * values[0]


def test_decay_is_that_of_the_point_of_the_gradient(x64: None):
    """−lr·λ·y enters z, as in the authors' code: two steps of g = 0 from 1, by hand."""
    inner = optax.chain(optax.add_decayed_weights(0.5), optax.scale(-0.2))
    ys, xs = trajectory(gpa(inner, 0.5, 0.25), jnp.zeros_like, np.float64(1.0), 2)
    z1 = 1 - 0.1
    x1 = 0.5 + 0.5 * z1
    y1 = 0.25 * x1 + 0.75 * z1
    z2 = z1 - 0.1 * y1
    x2 = 0.5 * x1 + 0.5 * z2
    np.testing.assert_allclose(xs, [x1, x2], rtol=1e-12)
    np.testing.assert_allclose(ys, [y1, 0.25 * x2 + 0.75 * z2], rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mu_x": 1.0}, ValueError, r"mu_x must be a number in \[0, 1\) or an Optax schedule; got 1.0"),
        ({"mu_x": -0.1}, ValueError, r"mu_x must be.*got -0.1"),
        ({"mu_y": 1.1}, ValueError, r"mu_y must be a number in \[0, 1\] or an Optax schedule; got 1.1"),
        ({"mu_y": float("nan")}, ValueError, r"mu_y must be.*got nan"),
        ({"mu_y": "half"}, TypeError, r"mu_y must be.*got 'half' of type str"),
        ({"accumulator_dtype": int}, ValueError, r"accumulator_dtype must be a floating.*got int"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_bad_argument(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        gpa(**{"inner": optax.sgd(0.1), **arguments})
