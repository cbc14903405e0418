"""`scale_by_gradient_norm` against its definition, and each sentence of its docstring."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import nag, scale_by_gradient_norm
from tests import reference
from tests.helpers import assert_trees_close, assert_trees_equal, sphere, train

DIRECTION = np.array([0.6, -0.8])  # Of length 1
RNG = np.random.default_rng(0)


def outputs(optimizer: optax.GradientTransformation, gradients: np.ndarray) -> tuple[np.ndarray, Any]:
    """The update of each gradient, and the state of each step."""
    optimizer = optax.with_extra_args_support(optimizer)
    params = jnp.zeros_like(gradients[0])

    def step(state: Any, gradient: jax.Array) -> Any:
        updates, state = optimizer.update(gradient, state, params)
        return state, (updates, state)

    _, (updates, states) = jax.jit(lambda g: jax.lax.scan(step, optimizer.init(params), g))(
        jnp.asarray(gradients)
    )
    return np.asarray(updates), states


def scales(optimizer: optax.GradientTransformation, norms: Any) -> np.ndarray:
    """s of each step, from gradients of these norms."""
    norms = np.asarray(norms, float)
    return outputs(optimizer, norms[:, None] * DIRECTION)[0] @ DIRECTION / norms


# Norms over several orders of magnitude, with spikes beyond every limit.
NORMS = np.exp(RNG.standard_normal(80))
NORMS[[10, 11, 40]] *= [1e3, 1e4, 1e-5]


@pytest.mark.parametrize(
    ("decay", "exponent", "low", "high"),
    [
        (0.9, 1.0, 0.1, 10.0),
        (0.99, 0.5, 0.2, 3.0),
        (0.0, 2.0, 0.01, math.inf),
        (0.8, 1.0, 0.0, 1.0),
        (0.9, 0.0, 0.1, 10.0),
    ],
)
def test_the_definition(decay: float, exponent: float, low: float, high: float, x64: None):
    actual = scales(scale_by_gradient_norm(decay, exponent, low, high), NORMS)
    if exponent == 0:
        expected = np.ones(80)
    else:
        expected = reference.gradient_norm_scales(NORMS, decay, exponent, low, high)
        assert np.any(expected == high) == (high < math.inf) and np.any(expected == low) == (low > 0)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_the_defaults(x64: None):
    expected = reference.gradient_norm_scales(NORMS, 0.9, 1.0, 0.1, 10.0)
    np.testing.assert_allclose(scales(scale_by_gradient_norm(), NORMS), expected, rtol=1e-12)


class TestSpike:
    def test_moves_the_parameters_by_less(self):
        """100 times the usual gradient moves them 10 times as far, and not 100 times."""
        gradients = np.tile(DIRECTION, (20, 1)).astype(np.float32)
        gradients[15] *= 100
        smaller, _ = outputs(optax.chain(scale_by_gradient_norm(), nag(0.1, 0.9)), gradients)
        plain, _ = outputs(nag(0.1, 0.9), gradients)
        np.testing.assert_allclose(smaller[:15], plain[:15], rtol=1e-5)
        moved, unguarded = (np.linalg.norm(u[15:].sum(0)) for u in (smaller, plain))
        assert moved < 0.2 * unguarded

    @pytest.mark.parametrize("height", [1e2, 1e8])
    def test_lengthens_the_next_step_by_a_bounded_factor(self, height: float, x64: None):
        after = scales(scale_by_gradient_norm(), [1.0] * 100 + [height] + [1.0] * 60)[100:]
        rate = 0.1 / (1 - 0.9**101)
        np.testing.assert_allclose(after[:2], [0.1, 1 + (1 / 0.1 - 1) * rate], rtol=1e-12)
        # Over after some 1/(1 − decay) = 10 steps: one e-folding each.
        assert np.all(np.diff(after[1:]) < 0)
        np.testing.assert_allclose(after[11] - 1, (after[1] - 1) * 0.9**10, rtol=1e-3)
        np.testing.assert_allclose(after[-1], 1, atol=5e-3)

    def test_a_lasting_rise_is_followed(self, x64: None):
        """1000 times the norm from then on is the usual norm after some dozen steps."""
        after = scales(scale_by_gradient_norm(), [1.0] * 50 + [1e3] * 70)[50:]
        assert after[0] == 0.1 and np.all(np.diff(after) >= 0)
        np.testing.assert_allclose(after[-1], 1, atol=5e-3)


class TestRelations:
    def test_clipping_at_the_average(self, x64: None):
        actual, states = outputs(scale_by_gradient_norm(0.9, 1.0, 0.0, 1.0), NORMS[:, None] * DIRECTION)
        for t in range(1, 80):
            clip = optax.clip_by_global_norm(float(states.average[t - 1]))
            gradient = jnp.asarray(NORMS[t] * DIRECTION)
            expected, _ = clip.update(gradient, clip.init(gradient))
            np.testing.assert_allclose(actual[t], expected, rtol=1e-12)

    def test_without_limits_a_step_has_the_length_of_the_average(self, x64: None):
        actual, states = outputs(scale_by_gradient_norm(0.9, 1.0, 0.0, math.inf), NORMS[:, None] * DIRECTION)
        np.testing.assert_allclose(np.linalg.norm(actual[1:], axis=1), states.average[:-1], rtol=1e-12)

    def test_adagrad_norm_forgets_nothing(self, x64: None):
        """Its step is g/√Σn²: it shrinks at a constant norm, and 10 times after a spike of 100 times."""
        norms = np.array([1.0] * 100 + [100.0] + [1.0] * 100)
        adagrad = 1 / np.sqrt(np.cumsum(norms**2))
        ours = scales(scale_by_gradient_norm(), norms)
        np.testing.assert_allclose(ours[:100], 1, rtol=1e-12)
        np.testing.assert_allclose(adagrad[:100], np.arange(1, 101) ** -0.5, rtol=1e-12)
        assert adagrad[200] < 0.1 * adagrad[99]
        np.testing.assert_allclose(ours[200], 1, atol=1e-3)

    def test_before_and_after_descent_are_the_same(self, x64: None):
        gradients = NORMS[:, None] * DIRECTION
        before, _ = outputs(optax.chain(scale_by_gradient_norm(), optax.sgd(0.05)), gradients)
        after, _ = outputs(optax.chain(optax.sgd(0.05), scale_by_gradient_norm()), gradients)
        np.testing.assert_allclose(before, after, rtol=1e-12)

    def test_in_front_of_adam_it_changes_the_weight_of_a_spike(self, standard_promotion: None):
        gradients = (1 + 0.1 * RNG.standard_normal((60, 1))) * DIRECTION
        gradients[30] *= 100

        def largest_change(last: int) -> float:
            scaled, _ = outputs(optax.chain(scale_by_gradient_norm(), optax.adam(0.1)), gradients[:last])
            plain, _ = outputs(optax.adam(0.1), gradients[:last])
            return float(np.max(np.abs(scaled / plain - 1)))

        assert largest_change(30) < 0.15
        assert largest_change(60) > 0.5


class TestNorm:
    def test_is_taken_over_all_leaves(self):
        tree = {"a": jnp.array([3.0, 0.0]), "b": (jnp.array([[4.0]]), None, jnp.zeros((0, 2))), "c": {}}
        transformation = scale_by_gradient_norm()
        _, state = transformation.update(tree, transformation.init(tree), value=1.0)
        np.testing.assert_allclose(state.average, 5.0, rtol=1e-6)
        updates, _ = transformation.update(jax.tree.map(lambda g: 2 * g, tree), state)
        assert_trees_close(updates, tree, rtol=1e-6)

    def test_of_complex_numbers(self):
        transformation = scale_by_gradient_norm()
        z = jnp.array([3.0 + 4.0j])
        _, state = transformation.update(z, transformation.init(z))
        np.testing.assert_allclose(state.average, 5.0, rtol=1e-6)

    def test_of_narrow_numbers_is_computed_wide(self):
        """4096 ones: a sum in bfloat16 would stop at 256."""
        transformation = scale_by_gradient_norm()
        ones = jnp.ones(4096, jnp.bfloat16)
        updates, state = transformation.update(ones, transformation.init(ones))
        assert updates.dtype == jnp.bfloat16 and state.average.dtype == jnp.float32
        np.testing.assert_allclose(state.average, 64.0, rtol=1e-6)

    def test_overflow_is_a_spike(self):
        """Where the squares overflow, the gradient itself does not."""
        actual, states = outputs(scale_by_gradient_norm(), np.array([[1.0], [1e30], [1.0]], np.float32))
        np.testing.assert_allclose(actual[:, 0], [1.0, 1e29, 1.0], rtol=1e-6)
        np.testing.assert_array_equal(states.num_norms, [1, 1, 2])


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("first", [True, False])
def test_zero_and_non_finite_gradients_leave_the_average(bad: float, first: bool):
    good = np.array([[1.0, 1.0], [2.0, 0.0], [0.5, 0.5]], np.float32)
    place = 0 if first else 2
    actual, states = outputs(scale_by_gradient_norm(), np.insert(good, place, [bad, 1.0 if bad else 0.0], 0))
    expected, expected_states = outputs(scale_by_gradient_norm(), good)
    np.testing.assert_array_equal(np.delete(actual, place, 0), expected)
    np.testing.assert_array_equal(states.average[-1], expected_states.average[-1])
    assert states.num_norms[-1] == 3
    # NaN and infinity stay, for a guard to see. Finite numbers stay finite.
    np.testing.assert_array_equal(actual[place, 0], bad)
    assert np.isfinite(actual[place, 1])


def test_derivative_at_zero():
    """Finite, and so is all that it is computed from."""
    transformation = scale_by_gradient_norm()

    def loss(gradient: jax.Array) -> jax.Array:
        return jnp.sum(transformation.update(gradient, transformation.init(gradient))[0])

    with jax.debug_nans(True):
        np.testing.assert_array_equal(jax.grad(loss)(jnp.zeros(3)), 1.0)


def test_all_arguments_may_be_injected():
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0], [0.5]])}
    injected = optax.inject_hyperparams(scale_by_gradient_norm)(0.5, 0.7, 0.3, 2.0)
    assert len(injected.init(params).hyperparams) == 4
    actual, _ = train(optax.chain(injected, optax.sgd(0.1)), params, sphere, 15)
    direct = optax.chain(scale_by_gradient_norm(0.5, 0.7, 0.3, 2.0), optax.sgd(0.1))
    expected, _ = train(direct, params, sphere, 15)
    assert_trees_close(actual, expected, rtol=1e-5)
    plain, _ = train(optax.sgd(0.1), params, sphere, 15)
    assert not np.allclose(plain["a"], expected["a"], rtol=0.1)


def test_state_keeps_its_tree():
    params = {"a": jnp.ones(2)}
    transformation = scale_by_gradient_norm()
    state = transformation.init(params)
    assert_trees_equal(jax.tree.map(jnp.zeros_like, state), state)
    assert len(jax.tree.leaves(state)) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"decay": 1.0}, ValueError, r"decay must be a number in \[0, 1\); got 1.0"),
        ({"decay": "slow"}, TypeError, "decay must be a number"),
        ({"exponent": -1.0}, ValueError, r"exponent must be a number in \[0, inf\); got -1.0"),
        ({"min_scale": 1.5}, ValueError, r"min_scale must be a number in \[0, 1\); got 1.5"),
        ({"max_scale": 0.5}, ValueError, r"max_scale must be a number in \[1, inf\); got 0.5"),
        ({"max_scale": -math.inf}, ValueError, "max_scale must be a number"),
    ],
    ids=str,
)
def test_refuses(arguments: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=f"^{message}"):
        scale_by_gradient_norm(**arguments)
