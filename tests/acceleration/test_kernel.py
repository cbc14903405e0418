"""The kernel: w⁺ = β(w + u) + γu, Δ = u + w⁺, for any rule; its dtypes, trees and errors."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import accelerate, scale_by_nesterov
from nag_optax.acceleration.momentum import MomentumRule
from tests import reference
from tests.helpers import (
    START,
    arrays_like,
    assert_trees_equal,
    falling,
    float_count,
    quartic,
    quartic_gradient,
    rising,
    trajectory,
)


def test_one_step_by_hand():
    optimizer = accelerate(0.5)
    params = jnp.array([0.0])
    state = optimizer.init(params)
    updates, state = optimizer.update(jnp.array([2.0]), state, params)
    np.testing.assert_array_equal(updates, 3.0)  # 2 + 0.5·2
    np.testing.assert_array_equal(state.offset, 1.0)
    updates, state = optimizer.update(jnp.array([-1.0]), state, params)
    np.testing.assert_array_equal(updates, -1.0)  # −1 + 0.5·(1 − 1)
    np.testing.assert_array_equal(state.offset, 0.0)


@pytest.mark.parametrize("momentum", ["constant", "schedule"])
def test_last_in_a_chain_is_nesterov(momentum: str, x64: None):
    """Exact where the learning rate and the momentum both change: w is in the parameters' units."""
    descent = optax.sgd(lambda count: falling(float_count(count)))
    value = 0.9 if momentum == "constant" else lambda count: rising(float_count(count))
    optimizer = optax.chain(descent, accelerate(value))
    ps, xs = trajectory(optimizer, quartic_gradient, START, 300)
    sequence = (lambda t: 0.9) if momentum == "constant" else rising
    ys, expected = reference.nesterov(quartic_gradient, START, falling, sequence, 300)
    np.testing.assert_allclose(ps, ys, rtol=0, atol=1e-12)
    np.testing.assert_allclose(xs, expected, rtol=0, atol=1e-12)


def test_before_the_learning_rate_is_torch(x64: None):
    rate = optax.scale_by_learning_rate(lambda count: falling(float_count(count)))
    optimizer = optax.chain(scale_by_nesterov(0.9), rate)
    ps, _ = trajectory(optimizer, quartic_gradient, START, 300, iterate=False)
    expected = reference.torch_nesterov(quartic_gradient, START, falling, 0.9, 300)
    np.testing.assert_allclose(ps, expected, rtol=0, atol=1e-12)


def test_scale_by_nesterov_is_optax_trace():
    params = jnp.array([1.0, -2.0])
    ours, theirs = scale_by_nesterov(0.9), optax.trace(0.9, nesterov=True)
    state = ours.init(params)
    their_state: Any = theirs.init(params)
    for k in range(5):
        updates, state = ours.update(params * k, state, params)
        their_updates, their_state = theirs.update(params * k, their_state, params)
        np.testing.assert_allclose(updates, their_updates, rtol=1e-6)
        # Their trace before the momentum is applied; our offset after.
        np.testing.assert_allclose(state.offset, 0.9 * their_state.trace, rtol=1e-6)


def test_any_optimizer_can_be_accelerated(x64: None, standard_promotion: None):
    """Nesterov around Adam, written out: the kernel asks nothing of what comes before it."""
    adam = optax.adam(0.01)
    ps, xs = trajectory(optax.chain(adam, accelerate(0.5)), quartic_gradient, START, 50)
    x = y = jnp.asarray(START)
    state = adam.init(x)
    update = jax.jit(adam.update)
    for p, iterate in zip(ps, xs, strict=True):
        step, state = update(quartic_gradient(y), state)
        new = y + step
        x, y = new, new + 0.5 * (new - x)
        np.testing.assert_allclose(p, y, rtol=0, atol=1e-12)
        np.testing.assert_allclose(iterate, x, rtol=0, atol=1e-12)


def test_restart_sets_gamma_to_zero_too():
    rule = MomentumRule(tuple, lambda state, step: ((0.5, 0.7), state))
    optimizer = accelerate(rule, restart="value")
    params = jnp.ones(1)
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params, value=1.0)
    np.testing.assert_allclose(updates, 1 + 0.5 + 0.7, rtol=1e-6)
    updates, state = optimizer.update(params, state, params, value=2.0)
    np.testing.assert_array_equal(updates, 1.0)


@pytest.mark.parametrize("transformation", [accelerate, scale_by_nesterov])
def test_momentum_zero_returns_the_update_itself(transformation: Any):
    optimizer = transformation(0.0, accumulator_dtype=jnp.float32)
    params = {"a": jnp.ones(3, jnp.bfloat16)}
    state = optimizer.init(params)
    assert not jax.tree.leaves(state)
    updates, new = optimizer.update(params, state, params, anything=1)
    assert_trees_equal(updates, params)
    assert_trees_equal(new, state)


def test_an_array_of_zero_keeps_its_buffer():
    """It may be traced, or become another value: only Python's own zero is known to stay."""
    params = jnp.ones(3)
    assert len(arrays_like(accelerate(jnp.array(0.0)).init(params), params)) == 1


def test_units_are_in_the_type_of_the_state():
    params = jnp.ones(3)
    assert isinstance(accelerate().init(params), nag_optax.AccelerateState)
    assert isinstance(scale_by_nesterov().init(params), nag_optax.ScaleByNesterovState)
    assert nag_optax.AccelerateState._fields == nag_optax.ScaleByNesterovState._fields


class TestDtypes:
    @pytest.mark.parametrize(
        ("param", "wanted", "buffer"),
        [
            (jnp.bfloat16, None, jnp.bfloat16),
            (jnp.bfloat16, jnp.float32, jnp.float32),
            (jnp.float32, jnp.bfloat16, jnp.bfloat16),
            (jnp.float16, "float32", jnp.float32),
            (jnp.complex64, None, jnp.complex64),
            (jnp.complex64, jnp.float32, jnp.complex64),
            (jnp.complex64, jnp.bfloat16, jnp.complex64),
        ],
    )
    @pytest.mark.parametrize("gradient", [jnp.float16, jnp.bfloat16, jnp.float32])
    def test_state_and_update(self, param: Any, wanted: Any, buffer: Any, gradient: Any):
        if jnp.issubdtype(param, jnp.complexfloating):
            gradient = param
        optimizer = accelerate(0.9, accumulator_dtype=wanted)
        params = jnp.ones(3, param)
        state = optimizer.init(params)
        assert state.offset.dtype == buffer
        for _ in range(2):
            updates, state = optimizer.update(jnp.ones(3, gradient), state, params)
            assert updates.dtype == gradient
            assert state.offset.dtype == buffer

    def test_computed_wide_and_rounded_last(self):
        """0.9 in bfloat16 is 0.8984: formed there, 1.9 would be 1.8984, not the nearest to 1.9."""
        params = jnp.ones(3, jnp.bfloat16)
        optimizer = accelerate(0.9)
        updates, state = optimizer.update(params, optimizer.init(params), params)
        np.testing.assert_array_equal(updates, jnp.full(3, 1.9, jnp.bfloat16))
        np.testing.assert_array_equal(state.offset, jnp.full(3, 0.9, jnp.bfloat16))
        # The second offset is 0.9·(0.8984375 + 1), rounded once.
        _, state = optimizer.update(params, state, params)
        np.testing.assert_array_equal(state.offset, jnp.full(3, 0.9 * 1.8984375, jnp.bfloat16))

    def test_update_uses_the_offset_before_it_is_rounded(self):
        """A float32 update is not made coarse by a bfloat16 buffer."""
        optimizer = accelerate(0.501)
        state = optimizer.init(jnp.zeros(1, jnp.bfloat16))
        updates, state = optimizer.update(jnp.ones(1), state)
        np.testing.assert_array_equal(updates, np.float32(1) + np.float32(0.501))
        assert state.offset.dtype == jnp.bfloat16
        assert float(state.offset[0]) != np.float32(0.501)

    def test_momentum_near_one_survives_bfloat16(self):
        """In bfloat16, 0.999 is 1: the offset would never decay."""
        params = jnp.ones(1, jnp.bfloat16)
        optimizer = accelerate(0.999, accumulator_dtype=jnp.float32)
        _, state = optimizer.update(params, optimizer.init(params), params)
        np.testing.assert_allclose(state.offset, 0.999, rtol=1e-6)

    def test_double_precision_is_not_lost(self, x64: None):
        params = jnp.ones(1, jnp.float32)
        optimizer = accelerate(0.9, accumulator_dtype=jnp.float64)
        _, state = optimizer.update(params, optimizer.init(params), params)
        assert state.offset.dtype == jnp.float64
        np.testing.assert_allclose(state.offset, 0.9, rtol=1e-15)


class TestErrors:
    @pytest.mark.parametrize(
        ("dtype", "shown"), [(int, "int"), (jnp.int8, "int8"), (bool, "bool"), ("f33", "'f33'"), (3, "3")]
    )
    @pytest.mark.parametrize("transformation", [accelerate, scale_by_nesterov])
    def test_accumulator_dtype(self, transformation: Any, dtype: Any, shown: str):
        with pytest.raises(
            ValueError, match=f"accumulator_dtype must be a floating or complex dtype, or None; got {shown}"
        ):
            transformation(0.9, accumulator_dtype=dtype)

    def test_complex_accumulator_of_a_real_parameter(self):
        optimizer = accelerate(0.9, accumulator_dtype=jnp.complex64)
        with pytest.raises(ValueError, match=r"complex64 is for complex parameters; parameter \['w'\]"):
            optimizer.init({"w": jnp.zeros(2)})

    @pytest.mark.parametrize("dtype", [jnp.int32, bool, jnp.uint8])
    def test_integer_parameters(self, dtype: Any):
        with pytest.raises(TypeError, match=r"parameter \['steps'\] has dtype .*None in its place.*float"):
            accelerate(0.9).init({"steps": jnp.ones(2, dtype), "w": jnp.ones(2)})
        with pytest.raises(TypeError, match="parameter at the root has dtype"):
            accelerate(0.9).init(jnp.ones(2, dtype))

    @pytest.mark.parametrize("steps", [None, jnp.ones(2)], ids=["None", "float"])
    def test_what_is_advised_for_them_works(self, steps: Any):
        whole = {"steps": jnp.ones(2, jnp.int32), "w": jnp.ones(2)}
        trained = {**whole, "steps": steps}

        def loss(trained: dict[str, Any]) -> jax.Array:
            kept = whole["steps"] if trained["steps"] is None else trained["steps"]
            return jnp.sum(kept.astype(float) * trained["w"] ** 2)

        optimizer = nag_optax.nag(0.1)
        state = optimizer.init(trained)
        updates, state = optimizer.update(jax.grad(loss)(trained), state, trained)
        assert loss(nag_optax.eval_params(state, optax.apply_updates(trained, updates))) < loss(trained)

    @pytest.mark.parametrize("value", ["abc", "float32", object()], ids=["text", "dtype", "object"])
    def test_parameters_that_are_no_array(self, value: Any):
        with pytest.raises(
            TypeError, match=r"^parameter \['w'\] must be an array; got .* of type (str|object)$"
        ):
            accelerate(0.9).init({"w": value})

    @pytest.mark.parametrize(
        "updates",
        [
            {"a": 1.0},
            {"a": 1.0, "b": {"c": 1.0}, "d": 1.0},
            [1.0, {"c": 1.0}],
            1.0,
            {"a": 1.0, "b": {"d": 1.0}},
            {"a": 1.0, "b": 1.0},
            {"a": {"x": 1.0}, "b": {"c": 1.0}},
        ],
        ids=["missing", "more", "list", "leaf", "name", "leaf-for-subtree", "subtree-for-leaf"],
    )
    def test_another_tree(self, updates: Any):
        params = {"a": jnp.ones(()), "b": {"c": jnp.ones(())}}
        optimizer = accelerate(0.9)
        with pytest.raises(ValueError, match="parameters"):
            optimizer.update(jax.tree.map(jnp.asarray, updates), optimizer.init(params), params)

    def test_gradient_for_a_none_parameter(self):
        optimizer = accelerate(0.9)
        state = optimizer.init({"a": jnp.ones(2), "b": None})
        with pytest.raises(ValueError, match=r"update \['b'\] is an array, but the parameters have None"):
            optimizer.update({"a": jnp.ones(2), "b": jnp.ones(2)}, state)

    @pytest.mark.parametrize("shape", [(3, 1), (1, 3), (), (4,), (1,)])
    def test_another_shape(self, shape: tuple[int, ...]):
        """Each of these but (4,) would broadcast without a word."""
        optimizer = accelerate(0.9)
        state = optimizer.init({"w": jnp.ones(3)})
        with pytest.raises(ValueError, match=r"update \['w'\] has shape .*has shape \(3,\)"):
            optimizer.update({"w": jnp.ones(shape)}, state)

    def test_under_jit_too(self):
        optimizer = accelerate(0.9)
        state = optimizer.init(jnp.ones(3))
        with pytest.raises(ValueError, match="update at the root has shape"):
            jax.jit(optimizer.update)(jnp.ones(2), state)


def test_python_and_numpy_numbers():
    optimizer = nag_optax.nag(0.1, 0.9, weight_decay=0.1, restart="speed")
    for number in (1.0, np.float64(1.0), np.array(1.0)):
        updates, _ = optimizer.update(number, optimizer.init(number), number)
        np.testing.assert_allclose(updates, -0.1 * 1.9 - 0.01, rtol=1e-6)


def test_a_none_update_for_a_whole_subtree_keeps_it():
    optimizer = accelerate(0.9)
    params = {"frozen": {"a": jnp.ones(2), "b": jnp.ones(3)}, "w": jnp.ones(2)}
    _, state = optimizer.update(params, optimizer.init(params), params)
    updates, new = optimizer.update({"frozen": None, "w": params["w"]}, state, params)
    assert updates["frozen"] is None
    assert_trees_equal(new.offset["frozen"], state.offset["frozen"])


def test_the_update_does_not_read_the_parameters():
    optimizer = accelerate(0.9)
    params = jnp.ones(3)
    state = optimizer.init(params)
    assert_trees_equal(optimizer.update(params, state), optimizer.update(params, state, jnp.full(3, jnp.nan)))


def test_descends_as_documented(x64: None):
    ps, _ = trajectory(optax.chain(optax.sgd(0.15), accelerate(0.8)), quartic_gradient, START, 400)
    assert quartic(ps[-1]) < 1e-8 * quartic(START)
