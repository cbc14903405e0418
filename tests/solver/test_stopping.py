"""When `minimize` stops: warm starts, slow problems, flat ones, domains, and steps that are too long."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import Reason, eval_params, fista, minimize, prox

CENTRE = jnp.array([0.3, 0.6])
SIMPLEX = prox.projection(optax.projections.projection_simplex, scale=2.0)


def bowl(x: jax.Array, factor: jax.Array) -> jax.Array:
    return 0.5 * factor * jnp.sum((x - CENTRE) ** 2)


@pytest.mark.parametrize("operator", [None, prox.box(0.0, 1.0)], ids=["smooth", "box"])
@pytest.mark.parametrize("factor", [1.0, 0.0], ids=["bowl", "flat"])
def test_a_start_at_the_solution(operator: Any, factor: float):
    """Its gradient is 0, and gives no scale to the rounding that is left."""
    solution = minimize(bowl, CENTRE, prox=operator, args=(jnp.asarray(factor),))
    assert bool(solution.converged) and int(solution.steps) == 1
    np.testing.assert_array_equal(solution.params, CENTRE)


@pytest.mark.parametrize("learning_rate", [None, 0.1], ids=["search", "fixed"])
def test_a_constant(learning_rate: float | None):
    """JAX gives the result of a trace that depends on nothing as a number of Python."""
    solution = minimize(lambda x: jnp.array(2.0), CENTRE, learning_rate=learning_rate)
    assert bool(solution.converged) and float(solution.value) == 2.0
    np.testing.assert_array_equal(solution.params, CENTRE)


class TestPaths:
    """Ridge regression and the lasso, from strong to weak, each from the solution before."""

    RNG = np.random.default_rng(0)
    MATRIX = RNG.standard_normal((60, 8)).astype(np.float32)
    TARGET = MATRIX @ RNG.standard_normal(8).astype(np.float32)
    STRENGTHS = jnp.geomspace(1.0, 1e-3, 20)

    @staticmethod
    @jax.jit
    def path(ridge: float, lasso: float, warm: bool, carries: bool) -> Any:
        """Traced, so that one program serves them all."""
        matrix, target = jnp.asarray(TestPaths.MATRIX), jnp.asarray(TestPaths.TARGET)

        def step(carry: Any, strength: jax.Array) -> Any:
            x, scale = carry

            def loss(x: jax.Array) -> jax.Array:
                return 0.5 * jnp.mean((matrix @ x - target) ** 2) + 0.5 * ridge * strength * jnp.sum(x**2)

            found = minimize(loss, x, prox=prox.l1(lasso * strength), gradient_scale=scale)
            kept = jnp.where(warm, found.params, 0.0), jnp.where(carries, found.gradient_scale, 0.0)
            return kept, found

        return jax.lax.scan(step, (jnp.zeros(8), jnp.zeros([])), TestPaths.STRENGTHS)[1]

    @pytest.mark.parametrize(("ridge", "lasso"), [(1.0, 0.0), (0.0, 1.0)], ids=["ridge", "lasso"])
    def test_warm_starts(self, ridge: float, lasso: float):
        warm, cold = self.path(ridge, lasso, True, False), self.path(ridge, lasso, False, False)
        assert np.all(warm.converged) and np.all(cold.converged)
        assert np.sum(warm.steps) < np.sum(cold.steps)
        # M ≤ 1e-6·scale, over the least curvature, which is above 0.3.
        scale = np.linalg.norm(self.MATRIX.T @ self.TARGET) / 60
        np.testing.assert_allclose(warm.params, cold.params, rtol=0, atol=2e-6 * scale / 0.3)

    def test_a_scale_that_the_path_carries(self):
        """Each problem is solved to the accuracy of the first, in the largest units so far."""
        carried = self.path(1.0, 0.0, True, True)
        assert np.all(carried.converged) and np.all(np.diff(carried.gradient_scale) >= 0)
        assert np.all(carried.gradient_mapping_norm <= 1e-6 * carried.gradient_scale)
        np.testing.assert_allclose(
            carried.gradient_scale[0], np.linalg.norm(self.MATRIX.T @ self.TARGET) / 60, rtol=1e-5
        )


def slope(x: jax.Array, offset: jax.Array) -> jax.Array:
    """Least at (1, 1000): from zero, a step of descent gains 5e-7, and a thousand accelerated ones all."""
    return 0.5 * jnp.sum((jnp.array([1.0, 1e-3], x.dtype) * x - 1.0) ** 2) + offset


class TestSlowIsNotStalled:
    @pytest.mark.parametrize("rate", [None, 1.0], ids=["search", "rate"])
    def test_steps_below_the_rounding_of_f(self, rate: float | None):
        solution = minimize(slope, jnp.zeros(2), learning_rate=rate, tol=1e-4, args=(jnp.zeros([]),))
        assert bool(solution.converged) and float(solution.value) < 1e-3

    def test_a_constant_in_f(self, x64: None):
        solution = minimize(slope, jnp.zeros(2), tol=1e-6, args=(jnp.array(1e8),))
        np.testing.assert_allclose(solution.params, [1.0, 1000.0], rtol=1e-2)

    def test_momentum_along_a_gradient_that_stays(self):
        """For 1e5 of x no gradient is smaller than the last, and a gain is below ten roundings of f."""

        def far(x: jax.Array) -> jax.Array:
            return 1e6 * optax.losses.huber_loss(x, 1e5) + 1e15

        solution = minimize(far, jnp.zeros([]), learning_rate=1e-6, tol=1e-2)
        assert bool(solution.converged)
        # M ≤ 1e-2·1e6, and two roundings of x.
        np.testing.assert_allclose(solution.params, 1e5, rtol=0, atol=0.03)


def test_a_cycle_of_roundings_is_no_gain():
    """One run in seventy ends where M is 0 at times, and momentum then moves x by a rounding, for ever."""
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((400, 60, 20)) * np.geomspace(1, 0.03, 20)
    rates = np.linalg.norm(matrices, 2, axis=(1, 2)) ** -2

    def solve(matrix: jax.Array, target: jax.Array, rate: jax.Array) -> Any:
        def loss(x: jax.Array) -> jax.Array:
            return 0.5 * jnp.sum((matrix @ x - target) ** 2)

        return minimize(loss, jnp.zeros(20), prox=prox.l1(0.05), learning_rate=rate)

    data = matrices, rng.standard_normal((400, 60)), rates
    solutions = jax.jit(jax.vmap(solve))(*(jnp.asarray(a, jnp.float32) for a in data))
    assert not np.any(solutions.reason == Reason.MAX_STEPS)


@pytest.mark.parametrize(
    ("operator", "linear", "constant"),
    [
        (prox.l1(3.0), [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        (SIMPLEX, [0.0, 0.0, 2.0], [2 / 3, 2 / 3, 2 / 3]),
        (prox.elastic_net(0.0, 1.0), [-1.0, -2.0, -0.5], [0.0, 0.0, 0.0]),
    ],
    ids=["l1", "simplex", "squares"],
)
def test_no_curvature(operator: Any, linear: list[float], constant: list[float]):
    """Nothing bounds the step size but what it is good for."""

    def plane(x: jax.Array, slope: jax.Array, offset: jax.Array) -> jax.Array:
        return slope @ x + offset

    for slope, offset, right in (
        ([1.0, 2.0, 0.5], 0.0, linear),
        ([0.0, 0.0, 0.0], 0.0, constant),
        ([0.0, 0.0, 0.0], 5.0, constant),
    ):
        args = jnp.array(slope), jnp.array(offset)
        solution = minimize(plane, jnp.ones(3), prox=operator, args=args)
        assert Reason(int(solution.reason)) is not Reason.NAN
        np.testing.assert_allclose(solution.params, right, rtol=0, atol=1e-2)


def barrier(x: jax.Array) -> jax.Array:
    """Least at 1, and no number below 0."""
    return jnp.sum(x - jnp.log(x))


class TestDomain:
    """The lookahead leaves the domain of f, and x does not."""

    @pytest.mark.parametrize("rate", [None, 0.5], ids=["search", "rate"])
    def test_minimize(self, rate: float | None, x64: None):
        start = jnp.full(2, 1e6 if rate is None else 100.0)
        solution = minimize(barrier, start, learning_rate=rate)
        assert bool(solution.converged)
        # ∇f = 1 − 1/x, within 1e-6·√2.
        np.testing.assert_allclose(solution.params, 1.0, atol=2e-6)

    def test_fista(self, x64: None):
        optimizer = fista()

        def step(carry: Any, _: None) -> Any:
            params, state = carry
            value, grad = jax.value_and_grad(barrier)(params)
            updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=barrier)
            return (optax.apply_updates(params, updates), state), jnp.isfinite(value)

        def run(start: jax.Array) -> Any:
            (params, state), inside = jax.lax.scan(step, (start, optimizer.init(start)), length=300)
            return eval_params(state, params), inside

        x, inside = jax.jit(run)(jnp.full(2, 1e6))
        assert not np.all(inside)
        np.testing.assert_allclose(x, 1.0, atol=1e-6)


def test_a_learning_rate_above_all_reason():
    """In a bounded set M ≤ diameter/s: for s = 1e9, M is small at every point."""
    solution = minimize(bowl, jnp.ones(2), prox=prox.box(0.0, 1.0), learning_rate=1e9, args=(jnp.ones([]),))
    assert float(solution.gradient_mapping_norm) < 1e-6
    assert not solution.converged
