"""`snoo` against its paper, Lookahead and Nesterov's method."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import eval_params, nag, snoo
from tests import reference
from tests.helpers import (
    START,
    arrays_like,
    assert_trees_close,
    assert_trees_equal,
    conditional_branches,
    falling,
    float_count,
    hlo_computations,
    quartic_gradient,
    rising,
    sphere,
    train,
    trajectory,
)

EXACT = 1e-12  # float64 rounding over the steps of a contraction, with a margin


def residual(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.dtype == expected.dtype == np.float64
    return float(np.max(np.abs(actual - expected)))


INNERS = {
    "descent": (optax.sgd(0.1), lambda: reference.gradient_descent_step(quartic_gradient, 0.1)),
    "heavy-ball": (optax.sgd(0.05, 0.8), lambda: reference.heavy_ball_step(quartic_gradient, 0.05, 0.8)),
    "adam": (optax.adam(0.03), lambda: reference.adam_step(quartic_gradient, 0.03)),
}


@pytest.mark.usefixtures("standard_promotion")  # Adam mixes dtypes
class TestExactness:
    @pytest.mark.parametrize("inner", INNERS)
    def test_against_the_paper(self, inner: str, x64: None):
        ours, theirs = INNERS[inner]
        fasts, slows = trajectory(snoo(ours, 7, 0.7, 0.6), quartic_gradient, START, 150)
        fast, slow = reference.snoo(theirs(), START, 7, lambda t: 0.7, lambda t: 0.6, 150)
        assert residual(fasts, fast) < EXACT
        assert residual(slows, slow) < EXACT

    @pytest.mark.parametrize(
        ("period", "rate", "momentum"),
        [(28, 0.68, 0.37), (500, 0.7, 0.9), (36, 0.3, 0.9)],
        ids=["SNOO", "DiLoCo", "MaxText"],
    )
    def test_published_settings(self, period: int, rate: float, momentum: float, x64: None):
        steps = 3 * period + 1
        inner, theirs = INNERS["descent"]
        fasts, slows = trajectory(snoo(inner, period, rate, momentum), quartic_gradient, START, steps)
        fast, slow = reference.snoo(theirs(), START, period, lambda t: rate, lambda t: momentum, steps)
        assert residual(fasts, fast) < EXACT
        assert residual(slows, slow) < EXACT

    def test_defaults_are_those_of_the_paper(self):
        defaults = {k: v.default for k, v in inspect.signature(snoo).parameters.items()}
        assert defaults["sync_period"] == 28
        assert (defaults["outer_learning_rate"], defaults["outer_momentum"]) == (0.68, 0.37)

    def test_schedules_count_outer_steps(self, x64: None):
        inner, theirs = INNERS["heavy-ball"]

        def rate(t: Any) -> Any:
            return 6 * falling(3 * t)

        optimizer = snoo(
            inner, 4, lambda count: rate(float_count(count)), lambda count: rising(float_count(count))
        )
        fasts, slows = trajectory(optimizer, quartic_gradient, START, 120)
        fast, slow = reference.snoo(theirs(), START, 4, rate, rising, 120)
        assert residual(fasts, fast) < EXACT
        assert residual(slows, slow) < EXACT

    def test_both_coefficients_of_a_rule(self, x64: None):
        """OGM, as published, of the pseudo-gradients of four steps; its γ is about 1."""

        def pseudo_gradient(slow: np.ndarray) -> np.ndarray:
            fast = slow
            for _ in range(4):
                fast = fast - 0.1 * quartic_gradient(fast)
            return slow - fast

        optimizer = snoo(optax.sgd(0.1), 4, 1.0, nag_optax.momentum.ogm())
        fasts, slows = trajectory(optimizer, quartic_gradient, START, 120)
        expected, _, _ = reference.ogm(pseudo_gradient, START, 1.0, 30, last=False)
        assert residual(fasts[3::4], expected) < EXACT
        assert residual(slows[3::4], expected) < EXACT

    def test_the_velocity_is_in_units_of_the_pseudo_gradient(self, x64: None):
        """One step a period, δ = 1 each time, m = 0.9, and η falls from 0.1 to 0.01: −0.2171, as of
        PyTorch's SGD; with η inside the velocity it would be −0.29."""

        def rate(count: jax.Array) -> jax.Array:
            return jnp.where(count == 0, 0.1, 0.01)

        ps, _ = trajectory(snoo(optax.sgd(1.0), 1, rate, 0.9), jnp.ones_like, np.float64(0.0), 2)
        np.testing.assert_allclose(ps[-1], -0.2171, rtol=1e-12)


@pytest.mark.usefixtures("standard_promotion")
class TestOtherMethods:
    @pytest.mark.parametrize("inner", INNERS)
    def test_momentum_zero_is_lookahead(self, inner: str, x64: None):
        ours = INNERS[inner][0]
        fasts, slows = trajectory(snoo(ours, 5, 0.6, 0.0), quartic_gradient, START, 60)
        lookahead = optax.lookahead(ours, 5, 0.6)

        @jax.jit
        def run(start: jax.Array) -> Any:
            def step(carry: Any, _: None) -> Any:
                params, state = carry
                updates, state = lookahead.update(quartic_gradient(params.fast), state, params)
                params = optax.apply_updates(params, updates)
                return (params, state), params

            params = optax.LookaheadParams.init_synced(start)
            return jax.lax.scan(step, (params, lookahead.init(params)), length=60)[1]

        params = run(jnp.asarray(START))
        assert residual(fasts, np.asarray(params.fast)) < EXACT
        assert residual(slows, np.asarray(params.slow)) < EXACT

    @pytest.mark.parametrize("zero", [0, 0.0, np.float64(0)], ids=["int", "float", "numpy"])
    def test_momentum_zero_has_one_buffer(self, zero: Any):
        params = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
        assert len(arrays_like(snoo(optax.sgd(0.1), outer_momentum=zero).init(params), params)) == 2
        assert len(arrays_like(snoo(optax.sgd(0.1)).init(params), params)) == 4

    @pytest.mark.parametrize("momentum", [0.9, nag_optax.momentum.fista()], ids=["number", "rule"])
    def test_every_step_is_nesterov_s_method(self, momentum: Any, x64: None):
        """K = 1, η = 1: the pseudo-gradient is lr·g, and the slow weights are Nesterov's p."""
        fasts, slows = trajectory(snoo(optax.sgd(0.1), 1, 1.0, momentum), quartic_gradient, START, 100)
        ps, xs = trajectory(nag(0.1, momentum), quartic_gradient, START, 100)
        assert residual(fasts, ps) < EXACT
        assert residual(slows, ps) < EXACT
        assert residual(xs, ps) > 1e-3

    def test_full_steps_without_momentum_are_the_inner_optimizer(self, x64: None):
        fasts, _ = trajectory(snoo(optax.adam(0.03), 6, 1.0, 0.0), quartic_gradient, START, 60)
        alone, _ = trajectory(optax.adam(0.03), quartic_gradient, START, 60, iterate=False)
        assert residual(fasts, alone) < EXACT


class TestSlowWeights:
    """They are the truth: no rounding and no hand on the fast weights outlives the period."""

    def test_distance_to_the_parameters_as_they_are_given(self, x64: None):
        moved = 0.1 * np.random.default_rng(0).standard_normal((40, len(START)))
        optimizer = snoo(optax.sgd(0.1), 5, 0.7, 0.6)

        @jax.jit
        def step(carry: Any, noise: jax.Array) -> Any:
            params, state = carry
            params = params + noise
            updates, state = optimizer.update(quartic_gradient(params), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, eval_params(state, params))

        # The slow weights are those of the first update, as the reference begins.
        start = jnp.asarray(START)
        moved[0] = 0.0
        _, (fasts, slows) = jax.lax.scan(step, (start, optimizer.init(start)), jnp.asarray(moved))
        step_of = reference.gradient_descent_step(quartic_gradient, 0.1)
        fast, slow = reference.snoo(step_of, START, 5, lambda t: 0.7, lambda t: 0.6, 40, moved)
        assert residual(np.asarray(fasts), fast) < EXACT
        assert residual(np.asarray(slows), slow) < EXACT

    @pytest.mark.parametrize("dtype", [None, jnp.float32], ids=["own", "f32"])
    def test_parameters_begin_each_period_as_the_slow_weights(self, dtype: Any, standard_promotion: None):
        """To the bit, where the update is not rounded: float32 updates of bfloat16 parameters."""
        optimizer = snoo(optax.sgd(0.3), 2, 0.7, 0.6, accumulator_dtype=dtype)

        def step(carry: Any, key: jax.Array) -> Any:
            params, state = carry
            updates, state = optimizer.update(jax.random.normal(key, (4,)), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, eval_params(state, params))

        params = jnp.linspace(-1.0, 1.0, 4).astype(jnp.bfloat16)
        keys = jax.random.split(jax.random.key(0), 400)
        _, (fasts, slows) = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), keys))(params)
        np.testing.assert_array_equal(fasts[1::2], slows[1::2])
        assert not np.array_equal(fasts[0::2], slows[0::2])

    def test_small_outer_steps_add_up(self):
        """Of 0.001 on parameters at 1, where bfloat16 has steps of 0.004: lost without float32."""

        def settled(dtype: Any) -> float:
            optimizer = snoo(optax.sgd(0.01), 1, 0.1, 0.0, accumulator_dtype=dtype)
            ps, _ = trajectory(optimizer, jnp.ones_like, jnp.ones(2, jnp.bfloat16), 40)
            return float(ps[-1, 0])

        assert settled(None) == 1.0
        assert abs(settled(jnp.float32) - 0.96) < 0.01

    def test_none_gradient_at_an_outer_step_waits_for_the_next(self, x64: None):
        optimizer = snoo(optax.sgd(0.1), 2, 0.5, 0.5)
        params = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
        state = optimizer.init(params)
        ones = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
        for grads in (ones, {"a": jnp.array(1.0), "b": None}, ones, ones):
            updates, state = optimizer.update(grads, state, params)
            if grads["b"] is None:
                assert updates["b"] is None
                np.testing.assert_allclose(eval_params(state, params)["b"], 1.0)
            # Not optax.apply_updates, which would add the None.
            params = jax.tree.map(
                lambda u, p: p if u is None else p + u, updates, params, is_leaf=lambda u: u is None
            )
        # b: three inner steps in all, one outer: 1 − 0.5·(0.3 + 0.5·0.3).
        np.testing.assert_allclose(params["b"], 1 - 0.5 * 1.5 * 0.3, rtol=1e-12)
        # a: δ is 0.2 twice: 1 − 0.5·(1.5·0.2) − 0.5·(0.2 + 0.5·(0.5·0.2 + 0.2)).
        np.testing.assert_allclose(params["a"], 1 - 0.15 - 0.5 * (0.2 + 0.5 * 0.3), rtol=1e-12)


class TestPeriod:
    def test_may_be_traced(self):
        """And differ from lane to lane, where the conditional is a choice."""

        def run(period: Any) -> Any:
            return train(snoo(optax.sgd(0.1), period, 0.5, 0.5), jnp.ones(3), sphere, 7)[0]

        periods = (1, 2, 3)
        lanes = jax.jit(jax.vmap(run))(jnp.asarray(periods))
        for lane, period in zip(lanes, periods, strict=True):
            np.testing.assert_allclose(lane, run(period), rtol=1e-6)

    def test_may_be_injected(self):
        injected = optax.inject_hyperparams(snoo)(optax.sgd(0.1), sync_period=3)
        ours, state = train(injected, jnp.ones(3), sphere, 7)
        direct, _ = train(snoo(optax.sgd(0.1), 3), jnp.ones(3), sphere, 7)
        np.testing.assert_allclose(ours, direct, rtol=1e-6)
        counters = state.inner_state.method_state
        # The first begins again with each period, so that it never saturates.
        assert (int(counters.steps), int(counters.outer_steps)) == (1, 2)

    def test_between_outer_steps_it_is_the_inner_optimizer(self):
        ours, state = train(snoo(optax.sgd(0.1, 0.9), 10), jnp.ones(3), sphere, 9)
        alone, inner_state = train(optax.sgd(0.1, 0.9), jnp.ones(3), sphere, 9)
        assert_trees_close(ours, alone, rtol=1e-6)
        assert_trees_close(state.inner_state, inner_state, rtol=1e-6)
        assert_trees_equal(eval_params(state, ours), jnp.ones(3))
        assert not np.any(state.method_state.offset)

    def test_memory_traffic_between_outer_steps(self):
        """Read g, write u; read p and u, write p. Neither slow weights nor momentum, and no copy."""
        size = 4096
        optimizer, params = snoo(optax.sgd(0.1), 20), jnp.ones(size)

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        program = jax.jit(step, donate_argnums=(0, 1)).lower(params, optimizer.init(params), params).compile()
        computations = hlo_computations(program.as_text())
        inner, rare = conditional_branches(computations["main"])
        _, outer = conditional_branches(computations[rare])
        assert _passes(computations["main"], size) == 5
        assert _passes(computations[inner], size) == 0
        # Read p, u, slow and momentum, write u, slow and momentum.
        assert _passes(computations[outer], size) >= 7


def _passes(lines: list[str], size: int) -> int:
    """How often these instructions read or write an array of this size; handing on is neither."""
    shaped = re.compile(r"\s*(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)")
    rows = [row.groups() for row in map(shaped.match, lines) if row]
    large = {name for name, shape, _, _ in rows if shape.startswith(f"f32[{size}]")}
    passes = 0
    for name, _, operation, operands in rows:
        if operation not in ("parameter", "tuple", "get-tuple-element", "conditional", "bitcast"):
            passes += (name in large) + sum(part.split("%")[-1] in large for part in operands.split(", "))
    return passes


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"sync_period": 0}, ValueError, r"sync_period must be an integer in \[1, 2147483648\); got 0"),
            ({"sync_period": 2**31}, ValueError, "sync_period must be an integer .*got 2147483648"),
            ({"sync_period": 2.0}, TypeError, r"sync_period must be an integer.*got 2.0 of type float"),
            ({"sync_period": True}, TypeError, r"sync_period must be an integer.*got True"),
            ({"sync_period": np.ones(2)}, ValueError, r"sync_period must be.*array of shape \(2,\)"),
            ({"outer_learning_rate": -0.1}, ValueError, r"outer_learning_rate must be.*schedule; got -0.1"),
            ({"outer_learning_rate": None}, TypeError, r"outer_learning_rate must be.*got None"),
            ({"outer_momentum": 1.0}, ValueError, r"^outer_momentum must be a number in \[0, 1\).*got 1.0"),
            ({"reduce": "mean"}, TypeError, r"reduce must be None or a function.*got 'mean' of type str"),
            ({"accumulator_dtype": int}, ValueError, r"accumulator_dtype must be a floating.*got int"),
        ],
        ids=lambda value: repr(value) if isinstance(value, dict) else "",
    )
    def test_bad_argument(self, arguments: dict[str, Any], error: type[Exception], message: str):
        with pytest.raises(error, match=message):
            snoo(**{"inner": optax.sgd(0.1), **arguments})

    @pytest.mark.parametrize(
        ("reduce", "error", "message"),
        [
            (lambda delta: None, ValueError, "reduce must return the tree that it is given"),
            (lambda delta: delta.mean(), ValueError, r"reduce must keep shapes: at the root has \(2,\), got"),
            (lambda delta: delta.astype(jnp.float16), TypeError, "reduce must keep dtypes.*got float16"),
        ],
        ids=["tree", "shape", "dtype"],
    )
    def test_reduce_keeps_tree_shapes_and_dtypes(self, reduce: Any, error: type[Exception], message: str):
        """Each of these would go on with other slow weights, without a word."""
        optimizer, params = snoo(optax.sgd(0.1), reduce=reduce), jnp.ones(2)
        with pytest.raises(error, match=message):
            jax.eval_shape(optimizer.update, params, optimizer.init(params), params)

    def test_needs_the_parameters(self):
        optimizer = snoo(optax.sgd(0.1))
        with pytest.raises(
            ValueError, match=r"snoo needs the parameters: call update\(grads, state, params\)"
        ):
            optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
