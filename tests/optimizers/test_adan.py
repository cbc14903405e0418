"""`adan` against its paper, and what optax.adan gets wrong."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import adan
from tests import reference
from tests.helpers import (
    START,
    assert_trees_close,
    assert_trees_equal,
    falling,
    float_count,
    quartic_gradient,
    trajectory,
)
from tests.test_contracts import compiled_update

STEPS = 200
EXACT = 1e-12  # float64 rounding over 200 steps of a contraction, with a margin
PAPER = (lambda t: 0.02), (lambda t: 0.08), (lambda t: 0.01)


def falling_rate(count: Any) -> jax.Array:
    return falling(float_count(count))


def residual(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.dtype == expected.dtype == np.float64
    return float(np.max(np.abs(actual - expected)))


def points(optimizer: optax.GradientTransformation, gradient: Any, start: Any, steps: int) -> np.ndarray:
    return trajectory(optimizer, gradient, start, steps, iterate=False)[0]


def updates_of(optimizer: optax.GradientTransformation, gradients: Any) -> np.ndarray:
    """The updates for these gradients of one parameter, in one scan."""
    params = jnp.ones(1)

    def step(state: Any, gradient: jax.Array) -> Any:
        return optimizer.update(gradient[None], state, params)[::-1]

    return np.asarray(jax.lax.scan(step, optimizer.init(params), jnp.asarray(gradients))[1])[:, 0]


class TestPaper:
    @pytest.mark.parametrize("proximal", [True, False], ids=["proximal", "decoupled"])
    @pytest.mark.parametrize("restart_every", [None, 7])
    def test_trajectory(self, proximal: bool, restart_every: Any, x64: None):
        optimizer = adan(
            falling_rate, weight_decay=0.2, proximal_decay=proximal, restart_every=restart_every, eps=1e-4
        )
        actual = points(optimizer, quartic_gradient, START, STEPS)
        expected = reference.adan(
            quartic_gradient, START, falling, PAPER, 1e-4, STEPS, 0.2, proximal, restart_every
        )
        assert residual(actual, expected) < EXACT

    def test_schedules_of_everything(self, x64: None):
        """Products in place of powers, also after a restart."""

        def beta(low: float) -> Any:
            return lambda t: 1.0 / (t + 2.0) + low

        betas = [beta(low) for low in (0.02, 0.05, 0.01)]
        schedules = [lambda count, b=b: 1.0 - b(float_count(count)) for b in betas]
        actual = points(adan(falling_rate, *schedules, restart_every=60), quartic_gradient, START, STEPS)
        expected = reference.adan(
            quartic_gradient, START, falling, tuple(betas), 1e-8, STEPS, restart_every=60
        )
        assert residual(actual, expected) < EXACT

    @pytest.mark.parametrize("proximal", [True, False], ids=["proximal", "decoupled"])
    def test_schedule_of_the_decay(self, proximal: bool, x64: None):
        """Of g = 0, with λ = 0.1 and then 0.3 at lr = 0.5."""
        optimizer = adan(
            0.5, weight_decay=lambda count: 0.1 + 0.2 * float_count(count), proximal_decay=proximal
        )
        actual = points(optimizer, jnp.zeros_like, np.float64(1.0), 2)
        expected = 1 / 1.05 / 1.15 if proximal else 0.95 * 0.85
        np.testing.assert_allclose(actual[-1], expected, rtol=1e-12)

    def test_proximal_decay_cannot_overshoot(self, x64: None):
        """lr·λ = 3: (1 + 3)⁻¹ against 1 − 3."""
        for proximal, expected in ((True, 0.25), (False, -2.0)):
            optimizer = adan(3.0, weight_decay=1.0, proximal_decay=proximal)
            actual = points(optimizer, jnp.zeros_like, np.float64(1.0), 1)
            np.testing.assert_allclose(actual[0], expected, rtol=1e-12)

    def test_first_step_is_the_learning_rate(self):
        """d = 0, though g_prev starts at 0."""
        updates = updates_of(adan(0.1), [7.0])
        np.testing.assert_allclose(updates, [-0.1], rtol=1e-6)

    def test_second_update_as_published(self, standard_promotion: None):
        """g = 1, then 2: .907. With 1 − b2 in place of b2, as in optax.adan, .946."""
        gradients = [1.0, 2.0]
        np.testing.assert_allclose(updates_of(adan(1.0), gradients), [-1, -0.907], atol=5e-4)
        np.testing.assert_allclose(updates_of(optax.adan(1.0), gradients), [-1, -0.946], atol=5e-4)

    def test_steady_gradient_in_float32(self):
        """m̂ and √n̂ are then the gradient itself, at every step."""
        np.testing.assert_allclose(updates_of(adan(1.0), [3.0] * 500), -1.0, rtol=3e-6)


class TestRestart:
    def test_is_a_new_beginning(self, x64: None):
        """After it, a new optimizer from the same point takes the same steps."""
        whole = points(adan(0.1, restart_every=20), quartic_gradient, START, 40)
        first = points(adan(0.1), quartic_gradient, START, 20)
        second = points(adan(0.1), quartic_gradient, first[-1], 20)
        assert residual(whole, np.concatenate([first, second])) < EXACT
        # It does something.
        assert residual(whole, points(adan(0.1), quartic_gradient, START, 40)) > 1e-3

    def test_ends_a_nan(self):
        gradients = [1.0, np.nan, 1.0, 1.0, 1.0]
        updates = updates_of(adan(1.0, restart_every=3), gradients)
        np.testing.assert_array_equal(np.isnan(updates), [False, True, True, False, False])
        np.testing.assert_allclose(updates[3:], -1.0, rtol=1e-6)

    def test_every_step_is_sign_descent(self):
        updates = updates_of(adan(0.1, restart_every=1), [5.0, -3.0, 0.2])
        np.testing.assert_allclose(updates, [-0.1, 0.1, -0.1], rtol=1e-6)


class TestNumbers:
    def test_complex_coordinates_are_pairs(self):
        """Re and Im each have their own root; |g|² would make both updates smaller than lr."""
        optimizer = adan(0.1)
        params = jnp.array([1.0 + 100.0j])
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        np.testing.assert_allclose(updates, [-0.1 - 0.1j], rtol=1e-6)

    @pytest.mark.parametrize("eps", [1e-8, 0.0])
    def test_coordinate_without_gradient_stays(self, eps: float):
        params = jnp.array([1.0, 5.0])
        optimizer = adan(0.1, eps=eps)
        updates, _ = optimizer.update(jnp.array([1.0, 0.0]), optimizer.init(params), params)
        np.testing.assert_allclose(updates, [-0.1, 0.0], rtol=1e-6)

    def test_wide_buffers_of_narrow_gradients(self):
        """The difference of two bfloat16 gradients, and a slow average of squares, keep their digits."""
        rng = np.random.default_rng(0)
        gradients = jnp.asarray(1.0 + 0.1 * rng.standard_normal(300), jnp.bfloat16)
        params = jnp.zeros(1, jnp.bfloat16)

        def second_moment(accumulator_dtype: Any, gradient_dtype: Any) -> float:
            optimizer = adan(1.0, b3=0.999, accumulator_dtype=accumulator_dtype)

            def step(state: Any, gradient: jax.Array) -> Any:
                return optimizer.update(gradient[None], state, params)[::-1]

            state, _ = jax.lax.scan(step, optimizer.init(params), gradients.astype(gradient_dtype))
            return float(state[0].second_moment[0])

        exact = second_moment(jnp.float32, jnp.float32)
        assert second_moment(jnp.float32, jnp.bfloat16) == exact
        assert abs(second_moment(None, jnp.bfloat16) / exact - 1) > 0.01

    def test_moves_no_more_bytes_than_optax(self, standard_promotion: None):
        def bytes_accessed(optimizer: optax.GradientTransformation) -> float:
            return compiled_update(optimizer, 65_536).cost_analysis()["bytes accessed"]

        # One pass over the leaf is 262 144 bytes; scalars of the state are a few.
        assert bytes_accessed(adan(0.1)) <= bytes_accessed(optax.adan(0.1)) + 256
        # A restart happens where the buffers are read and written anyway.
        assert bytes_accessed(adan(0.1, restart_every=9)) <= bytes_accessed(optax.adan(0.1)) + 256
        decayed = adan(0.1, weight_decay=0.1)
        assert bytes_accessed(decayed) <= bytes_accessed(optax.adan(0.1, weight_decay=0.1)) + 256


class TestWeightDecay:
    @pytest.mark.parametrize("proximal", [True, False], ids=["proximal", "decoupled"])
    def test_mask(self, proximal: bool):
        params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2), "c": {"d": jnp.ones(1)}}
        mask = {"w": True, "b": False, "c": True}
        optimizer = adan(0.5, weight_decay=2.0, proximal_decay=proximal, mask=mask)
        gradients = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2), "c": {"d": None}}
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        expected = {"w": jnp.full((2, 2), -0.5 if proximal else -1.0), "b": jnp.zeros(2), "c": {"d": None}}
        assert_trees_close(updates, expected, rtol=1e-6)

    def test_masked_leaves_move_as_without_decay(self):
        params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
        optimizer = adan(0.5, weight_decay=2.0, mask={"w": True, "b": False})
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        # (1 − 0.5)/(1 + 1) − 1, and −lr.
        np.testing.assert_allclose(updates["w"], -0.75, rtol=1e-6)
        np.testing.assert_allclose(updates["b"], -0.5, rtol=1e-6)

    def test_needs_the_parameters(self):
        params = jnp.ones(2)
        optimizer = adan(0.1, weight_decay=0.1)
        with pytest.raises(ValueError, match="weight_decay needs the parameters"):
            optimizer.update(params, optimizer.init(params))

    def test_none_needs_no_parameters(self):
        params = jnp.ones(2)
        optimizer = adan(0.1)
        updates, _ = optimizer.update(params, optimizer.init(params))
        np.testing.assert_allclose(updates, -0.1, rtol=1e-6)


def test_none_gradient_keeps_the_previous_one():
    """1, none, 2: the difference is to the last gradient that there was."""
    params = {"a": jnp.ones(1), "b": jnp.ones(1)}
    optimizer = adan(1.0)
    state = optimizer.init(params)
    _, state = optimizer.update(params, state, params)
    _, state = optimizer.update({"a": params["a"], "b": None}, state, params)
    np.testing.assert_array_equal(state[0].previous["b"], 1.0)
    _, state = optimizer.update({"a": params["a"], "b": 2 * params["b"]}, state, params)
    np.testing.assert_allclose(state[0].difference["b"], 0.08, rtol=1e-5)


def test_before_its_first_gradient_a_leaf_has_those_of_zero():
    optimizer = adan(0.1)
    gradient = [jnp.array([1.0, -2.0])]

    def second_update(first: Any) -> Any:
        _, state = optimizer.update([first], optimizer.init([jnp.ones(2)]))
        return optimizer.update(gradient, state)[0]

    assert_trees_equal(second_update(None), second_update(jnp.zeros(2)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rate": -0.1}, ValueError, "learning_rate must be .*; got -0.1"),
        ({"b1": 1.0}, ValueError, r"b1 must be a number in \[0, 1\) or an Optax schedule; got 1.0"),
        ({"b2": -0.1}, ValueError, "b2 must be .*; got -0.1"),
        ({"b3": "0.9"}, TypeError, "b3 must be"),
        ({"eps": -1.0}, ValueError, "eps must be .*; got -1.0"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be"),
        ({"restart_every": 0}, ValueError, r"restart_every must be an integer in .* or None; got 0"),
        ({"restart_every": 2**31}, ValueError, "restart_every must be an integer .*got 2147483648"),
        ({"restart_every": 2.0}, TypeError, "restart_every must be an integer"),
        ({"proximal_decay": 1}, TypeError, "proximal_decay must be True or False; got 1"),
        ({"accumulator_dtype": jnp.int32}, ValueError, "accumulator_dtype"),
    ],
)
def test_arguments_out_of_range(options: dict, error: Any, message: str):
    with pytest.raises(error, match=message):
        adan(**{"learning_rate": 0.1, **options})
