"""`ema_nesterov` against its paper and Nesterov's method."""

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

from nag_optax import accelerate, ema_nesterov, eval_params, momentum, nag
from tests import reference
from tests.helpers import (
    START,
    arrays_like,
    assert_trees_close,
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
    "descent": (optax.sgd(0.1), lambda: reference.gradient_descent_step(quartic_gradient, 0.1)),
    "heavy-ball": (optax.sgd(0.05, 0.8), lambda: reference.heavy_ball_step(quartic_gradient, 0.05, 0.8)),
    "adam": (optax.adam(0.03), lambda: reference.adam_step(quartic_gradient, 0.03)),
}


def phases(count: Any) -> Any:
    """0 in warm-up and at the end, as in the paper."""
    return 0.8 * ((count >= 30) & (count < 150))


@pytest.mark.usefixtures("standard_promotion")  # Adam mixes dtypes
class TestExactness:
    @pytest.mark.parametrize("inner", INNERS)
    def test_against_the_paper(self, inner: str, x64: None):
        ours, theirs = INNERS[inner]
        ps, xs = trajectory(ema_nesterov(ours, 0.7, 0.95), quartic_gradient, START, STEPS)
        p, x = reference.ema_nesterov(theirs(), START, lambda t: 0.7, lambda t: 0.95, STEPS)
        assert residual(ps, p) < EXACT
        assert residual(xs, x) < EXACT

    def test_lookahead_that_is_zero_for_a_while(self, x64: None):
        inner, theirs = INNERS["heavy-ball"]
        optimizer = ema_nesterov(inner, lambda count: phases(float_count(count)), 0.95)
        ps, xs = trajectory(optimizer, quartic_gradient, START, STEPS)
        p, x = reference.ema_nesterov(theirs(), START, phases, lambda t: 0.95, STEPS)
        assert residual(ps, p) < EXACT
        assert residual(xs, x) < EXACT
        # The average went on in the warm-up: otherwise the lookahead would begin from nothing.
        restarted, _ = reference.ema_nesterov(
            theirs(), START, phases, lambda t: 0.0 if t < 29 else 0.95, STEPS
        )
        assert residual(ps, restarted) > 1e-3

    def test_both_schedules(self, x64: None):
        optimizer = ema_nesterov(
            optax.sgd(0.1), lambda count: rising(float_count(count)), lambda c: 0.9 * rising(float_count(c))
        )
        ps, xs = trajectory(optimizer, quartic_gradient, START, STEPS)
        step = INNERS["descent"][1]()
        p, x = reference.ema_nesterov(step, START, rising, lambda t: 0.9 * rising(t), STEPS)
        assert residual(ps, p) < EXACT
        assert residual(xs, x) < EXACT

    def test_lookahead_that_is_changed_from_outside(self, x64: None):
        """As `inject_hyperparams` does, which knows β one step late: p is undone with the β that made it."""
        injected = optax.inject_hyperparams(ema_nesterov)(
            optax.sgd(0.1), lambda count: rising(float_count(count)), 0.9
        )
        ps, xs = trajectory(injected, quartic_gradient, START, STEPS)
        step = INNERS["descent"][1]()
        p, x = reference.ema_nesterov(step, START, lambda t: rising(t - 1), lambda t: 0.9, STEPS)
        assert residual(ps, p) < EXACT
        assert residual(xs, x) < EXACT

    def test_defaults(self):
        defaults = {k: v.default for k, v in inspect.signature(ema_nesterov).parameters.items()}
        assert (defaults["lookahead"], defaults["decay"]) == (0.5, 0.99)


class TestOtherMethods:
    def test_without_averaging_it_is_nesterov_s_method(self, x64: None):
        ps, xs = trajectory(ema_nesterov(optax.sgd(0.1), 0.8, 0.0), quartic_gradient, START, STEPS)
        expected = trajectory(nag(0.1, 0.8), quartic_gradient, START, STEPS)
        assert residual(ps, expected[0]) < EXACT
        assert residual(xs, expected[1]) < EXACT

    def test_at_a_constant_lookahead_it_is_a_rule_of_the_kernel(self, x64: None):
        rule = momentum.MomentumRule(tuple, lambda state, step: ((0.95 + 0.05 * 0.8, -0.95), state))
        kernel = optax.chain(optax.sgd(0.1), accelerate(rule))
        ps, xs = trajectory(ema_nesterov(optax.sgd(0.1), 0.8, 0.95), quartic_gradient, START, STEPS)
        expected = trajectory(kernel, quartic_gradient, START, STEPS)
        assert residual(ps, expected[0]) < EXACT
        assert residual(xs, expected[1]) < EXACT

    def test_warm_up_is_the_inner_optimizer(self, standard_promotion: None):
        optimizer = ema_nesterov(optax.sgd(0.1, 0.9), lambda count: phases(float_count(count)), 0.95)
        ours, state = train(optimizer, jnp.ones(3), sphere, 29)
        alone, _ = train(optax.sgd(0.1, 0.9), jnp.ones(3), sphere, 29)
        assert_trees_close(ours, alone, rtol=1e-6)
        assert_trees_equal(eval_params(state, ours), ours)
        assert np.all(state.evaluated.offset != 0)

    @pytest.mark.parametrize("zero", [0, 0.0, np.float32(0)], ids=["int", "float", "numpy"])
    def test_no_lookahead_has_no_buffer(self, zero: Any):
        optimizer, params = ema_nesterov(optax.sgd(0.1), zero), {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
        assert not arrays_like(optimizer.init(params), params)
        ours, state = train(optimizer, params, sphere, 20)
        alone, _ = train(optax.sgd(0.1), params, sphere, 20)
        assert_trees_equal(ours, alone)
        assert_trees_equal(eval_params(state, ours), ours)


def test_bfloat16_average_stalls_without_float32():
    """Of steps of 1 with γ = 0.99 and β = 0: the average is 1; in bfloat16 it stops far below."""

    def settled(dtype: Any) -> float:
        optimizer = ema_nesterov(
            optax.scale(1.0), lambda count: 0.0 * float_count(count), 0.99, accumulator_dtype=dtype
        )
        params = jnp.zeros(1, jnp.bfloat16)

        def step(state: Any, _: None) -> Any:
            return optimizer.update(jnp.ones(1, jnp.bfloat16), state, params)[::-1]

        state, _ = jax.lax.scan(step, optimizer.init(params), length=2000)
        return float(state.evaluated.offset[0])

    np.testing.assert_allclose(settled(jnp.float32), 1.0, rtol=1e-4)
    assert settled(None) < 0.9


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lookahead": 1.0}, ValueError, r"lookahead must be a number in \[0, 1\) or an Optax sch.*got 1.0"),
        ({"lookahead": -0.1}, ValueError, r"lookahead must be.*got -0.1"),
        ({"lookahead": "half"}, TypeError, r"lookahead must be.*got 'half' of type str"),
        ({"decay": 1.0}, ValueError, r"decay must be a number in \[0, 1\) or an Optax schedule; got 1.0"),
        ({"decay": None}, TypeError, r"decay must be.*got None"),
        ({"accumulator_dtype": int}, ValueError, r"accumulator_dtype must be a floating.*got int"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_bad_argument(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        ema_nesterov(**{"inner": optax.sgd(0.1), **arguments})
