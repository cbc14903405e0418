"""The derivative of a solution: of an ill-conditioned one, of an undetermined one, of a complex one."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false

import jax
import jax.numpy as jnp
import numpy as np

from nag_optax import Reason, minimize

EPS = np.finfo(np.float64).eps


def test_an_ill_conditioned_one_is_right(x64: None):
    """x = H⁻¹c is linear in c, so that its derivative along c is x, forward and, H being symmetric, back."""
    size, condition, rng = 100, 1e6, np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    hessian = basis @ np.diag(np.geomspace(1 / condition, 1, size)) @ basis.T
    hessian = jnp.asarray((hessian + hessian.T) / 2)
    linear = jnp.asarray(rng.standard_normal(size))
    expected = np.linalg.solve(hessian, linear)

    def loss(x: jax.Array, linear: jax.Array) -> jax.Array:
        return 0.5 * x @ (hessian @ x) - linear @ x

    def solve(linear: jax.Array) -> jax.Array:
        return minimize(loss, jnp.asarray(expected), args=(linear,), tol=1e-3).params

    _, forward = jax.jvp(solve, (linear,), (linear,))
    _, pull = jax.vjp(solve, linear)
    # A residual of 100 roundings, times the condition; twice, for ‖b‖ + ‖x‖.
    within = 200 * EPS * condition * np.linalg.norm(expected)
    assert np.linalg.norm(forward - expected) < within
    assert np.linalg.norm(pull(linear)[0] - expected) < within


def test_an_undetermined_one_is_nan():
    """f = x₀²/2 − c·x has no minimum along x₁, and ∂x₁/∂c₁ is no number."""

    def solve(linear: jax.Array) -> jax.Array:
        def loss(x: jax.Array, linear: jax.Array) -> jax.Array:
            return 0.5 * x[0] ** 2 - linear @ x

        return minimize(loss, jnp.zeros(2), args=(linear,), learning_rate=0.5, max_steps=3).params

    linear = jnp.array([1.0, 1.0])
    assert np.all(np.isnan(jax.jvp(solve, (linear,), (jnp.array([1.0, 1.0]),))[1]))
    assert np.all(np.isnan(jax.grad(lambda linear: jnp.sum(solve(linear)))(linear)))
    # Along c₀ the system has a solution, and the answer is one.
    np.testing.assert_allclose(jax.jvp(solve, (linear,), (jnp.array([1.0, 0.0]),))[1], [1.0, 0.0], rtol=1e-5)


def test_a_complex_one(x64: None):
    """|z − t(1 + 2i)|² + Re(z²)/2 of z = a + bi is (a − t)² + (b − 2t)² + (a² − b²)/2: a = 2t/3, b = 4t."""

    def loss(z: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.sum(jnp.abs(z - jax.lax.complex(t, 2 * t)) ** 2 + 0.5 * jnp.real(z * z))

    def solve(t: jax.Array) -> jax.Array:
        return minimize(loss, jnp.zeros(1, complex), args=(t,), tol=1e-12).params

    solution = minimize(loss, jnp.zeros(1, complex), args=(jnp.ones([]),), tol=1e-12)
    assert Reason(int(solution.reason)) is Reason.CONVERGED
    np.testing.assert_allclose(solution.params, [2 / 3 + 4j], rtol=1e-11)
    _, forward = jax.jvp(solve, (jnp.ones([]),), (jnp.ones([]),))
    np.testing.assert_allclose(forward, [2 / 3 + 4j], rtol=1e-11)
    np.testing.assert_allclose(jax.grad(lambda t: solve(t)[0].real)(1.0), 2 / 3, rtol=1e-11)
    np.testing.assert_allclose(jax.grad(lambda t: solve(t)[0].imag)(1.0), 4.0, rtol=1e-11)
