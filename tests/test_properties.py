"""What holds for any shape, dtype, schedule and tree."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import accelerate, eval_params, nag
from tests import reference
from tests.helpers import assert_trees_equal, dtypes

# The same examples in every run, and none that fails for the time that it compiles.
few = hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)
# `x64` is set for the whole test, which is what its examples want too.
few_x64 = hypothesis.settings(few, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])

shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
momenta = st.floats(0.01, 0.99)
rates = st.floats(1e-3, 0.5)
finite = st.floats(-4.0, 4.0, width=32)
trees = st.recursive(
    shapes,
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.dictionaries(st.sampled_from("abc"), children, max_size=3),
        st.tuples(children, children),
        st.tuples(children, st.none()),
    ),
    max_leaves=5,
)
float_dtypes = st.sampled_from(["float16", "bfloat16", "float32"])


def is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(n, int) for n in node)


def filled(tree: Any, dtype: Any, seed: int) -> Any:
    """A tree of shapes, filled. () is a scalar here, never an empty tuple."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: jnp.asarray(rng.standard_normal(shape), dtype), tree, is_leaf=is_shape)


@few_x64
@hypothesis.given(
    st.lists(rates, min_size=6, max_size=6),
    st.lists(momenta, min_size=7, max_size=7),
    shapes,
    st.integers(0, 9),
)
def test_any_pair_of_schedules_is_nesterov(
    x64: None, rates: list[float], momenta: list[float], shape: tuple[int, ...], seed: int
):
    start = np.random.default_rng(seed).standard_normal(shape)
    optimizer = nag(lambda count: jnp.asarray(rates)[count], lambda count: jnp.asarray(momenta)[count])
    params: Any = jnp.asarray(start)
    state = optimizer.init(params)
    ys, xs = reference.nesterov(lambda p: p + 0.1, start, rates.__getitem__, momenta.__getitem__, 6)
    for y, x in zip(ys, xs, strict=True):
        updates, state = optimizer.update(params + 0.1, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, y, rtol=0, atol=1e-13)
        np.testing.assert_allclose(eval_params(state, params), x, rtol=0, atol=1e-13)


@pytest.mark.exhaustive
@few
@hypothesis.given(
    trees, float_dtypes, float_dtypes, st.one_of(st.none(), float_dtypes), momenta, st.booleans()
)
def test_shapes_and_dtypes(
    tree: Any, param: str, gradient: str, wanted: str | None, momentum: float, gradients: bool
):
    params, grads = filled(tree, param, 0), filled(tree, gradient, 1)
    accumulate = "gradients" if gradients else "updates"
    optimizer = nag(0.1, momentum, accumulate=accumulate, accumulator_dtype=wanted)
    state = optimizer.init(params)
    updates, new = optimizer.update(grads, state, params)
    offset = state[0 if gradients else 1].offset
    assert jax.tree.structure(offset) == jax.tree.structure(params)
    assert {w.dtype for w in jax.tree.leaves(offset)} <= {jnp.dtype(wanted or param)}
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    assert dtypes(updates) == dtypes(grads)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert dtypes(new) == dtypes(state)
    x = eval_params(new, params, learning_rate=0.1)
    assert jax.tree.structure(x) == jax.tree.structure(params)
    assert dtypes(x) == dtypes(params)


@few
@hypothesis.given(trees, momenta, st.integers(1, 4))
def test_iterate_is_parameters_less_offset(tree: Any, momentum: float, steps: int):
    params = filled(tree, jnp.float32, 0)
    optimizer = accelerate(momentum)
    state = optimizer.init(params)
    for k in range(steps):
        updates, state = optimizer.update(filled(tree, jnp.float32, k + 1), state, params)
        params = optax.apply_updates(params, updates)
    assert_trees_equal(eval_params(state, params), jax.tree.map(lambda p, w: p - w, params, state.offset))


@few
@hypothesis.given(st.lists(finite, min_size=2, max_size=2), momenta, st.lists(finite, min_size=4, max_size=4))
def test_update_is_linear(factors: list[float], momentum: float, steps: list[float]):
    """Why the learning rate may stand on either side: the response to a sum is the sum."""

    def response(sequence: np.ndarray) -> np.ndarray:
        optimizer = accelerate(momentum)
        state = optimizer.init(jnp.zeros([]))
        updates = []
        for step in sequence:
            update, state = optimizer.update(jnp.asarray(step, jnp.float32), state)
            updates.append(update)
        return np.array(updates)

    one, other = np.array(steps), np.array(steps)[::-1]
    mixed = response(factors[0] * one + factors[1] * other)
    # float32 rounding of numbers up to 4·4·2·(1 + 4 steps of momentum).
    np.testing.assert_allclose(
        mixed, factors[0] * response(one) + factors[1] * response(other), rtol=0, atol=1e-4
    )


@few
@hypothesis.given(trees, momenta, st.sampled_from(["gradient", "speed", "value", None]))
def test_a_tree_is_its_leaves(tree: Any, momentum: float, restart: Any):
    """Nothing depends on how the leaves are arranged."""
    params = filled(tree, jnp.float32, 0)
    optimizer = nag(0.1, momentum, restart=restart, weight_decay=0.1)
    leaves = jax.tree.leaves(params)
    updates, state = optimizer.update(params, optimizer.init(params), params, value=1.0)
    flat, flat_state = optimizer.update(leaves, optimizer.init(leaves), leaves, value=1.0)
    assert_trees_equal(jax.tree.leaves(updates), flat)
    assert_trees_equal(jax.tree.leaves(state), jax.tree.leaves(flat_state))


@pytest.mark.exhaustive
@few
@hypothesis.given(momenta, st.integers(0, 3000))
def test_sutskever(ceiling: float, count: int):
    rule = nag_optax.momentum.sutskever(ceiling)
    (beta, gamma), following = rule.coefficients(jnp.asarray(count, jnp.int32))
    np.testing.assert_allclose(beta, reference.sutskever_momentum(count + 1, ceiling), rtol=1e-6)
    assert gamma == 0.0
    assert int(following) == count + 1


@few
@hypothesis.given(st.floats(allow_nan=True, allow_infinity=True))
@hypothesis.example(1 - 2.0**-24)
@hypothesis.example(1 - 2.0**-25)
def test_every_float_is_a_momentum_or_an_error(momentum: float):
    allowed = 0.0 <= momentum < 1 - 2.0**-25  # From there on float32 rounds to 1.
    try:
        accelerate(momentum)
    except ValueError as error:
        assert not allowed
        assert "momentum must be a number in [0, 1)" in str(error)
        assert str(momentum) in str(error)
    else:
        assert allowed
