"""The derivative of a solution: of each kind of tree, at each length, where it is ill-conditioned or none."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import Reason, minimize, prox
from nag_optax.solver import implicit
from nag_optax.solver.implicit import fixed_point_tangent
from tests.helpers import assert_trees_close, exhaustive

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


def test_a_tree_whose_leaves_have_equations_of_their_own(x64: None):
    """Weights under l1, some of them zero, an intercept without a penalty, a box, complex numbers.

    No argument enters the equations of every leaf.
    """
    rng = np.random.default_rng(0)
    features, noise = rng.standard_normal((30, 4)), rng.standard_normal(30)
    target = jnp.asarray(features @ [2.0, 0.0, -1.0, 0.0] + 0.1 * noise)
    start = {"w": jnp.zeros((4, 1)), "b": jnp.zeros([]), "c": jnp.zeros(2), "z": jnp.zeros(2, complex)}
    at = {
        "strength": jnp.array(0.1),
        "shift": jnp.array(0.5),
        "upper": jnp.array(0.4),
        "turn": jnp.array(0.2),
    }

    def loss(p: Any, a: Any) -> jax.Array:
        residual = features @ p["w"][:, 0] + p["b"] - target - jnp.sum(p["c"])
        wave = p["z"] - jnp.array([1.0, 1j]) * a["turn"] - jnp.conj(p["z"]) / 4
        box = jnp.sum((p["c"] - a["shift"] * jnp.array([1.0, 0.3])) ** 2)
        return 0.5 * jnp.mean(residual**2) + box + jnp.sum(jnp.abs(wave) ** 2)

    def solve(a: Any) -> Any:
        operator = prox.separable({"w": prox.l1(a["strength"]), "c": prox.box(0.0, a["upper"])})
        return minimize(loss, start, prox=operator, args=(a,), learning_rate=0.2, tol=1e-13).params

    def real(a: Any) -> Any:
        x = solve(a)
        x = {**x, "z": [x["z"].real, x["z"].imag]}
        return x, x

    h, names = 1e-5, list(at)
    lanes = [at] + [{**at, name: at[name] + step} for name in names for step in (h, -h)]
    both = jax.jit(
        lambda lanes: [jax.vmap(jac(real, has_aux=True))(lanes) for jac in (jax.jacfwd, jax.jacrev)]
    )
    (forward, x), (reverse, _) = both(jax.tree.map(lambda *lane: jnp.stack(lane), *lanes))
    assert 0 < np.sum(np.asarray(x["w"][0]) == 0) < 4 and x["c"][0, 0] == 0.4 and 0 < x["c"][0, 1] < 0.4
    assert_trees_close(reverse, forward, rtol=1e-9, atol=1e-11)
    is_jacobian = lambda node: isinstance(node, dict) and node.keys() == at.keys()  # noqa: E731
    for i, name in enumerate(names):
        difference = jax.tree.map(lambda v, i=i: (v[2 * i + 1] - v[2 * i + 2]) / (2 * h), x)
        slope = jax.tree.map(lambda node, name=name: node[name][0], forward, is_leaf=is_jacobian)
        # Central differences of numbers that are right to 1e-12 or so.
        assert_trees_close(slope, difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtypes", [("complex64", "float32"), ("bfloat16", "float32")], ids="-".join)
def test_leaves_of_two_dtypes(dtypes: tuple[str, str], standard_promotion: None):
    """|2(z − t)|² + (r − 3t)², whose minimum is z = t, r = 3t; bfloat16 holds all of 1.5."""

    def loss(p: Any, t: jax.Array) -> jax.Array:
        d = p["one"] - t
        return 4 * jnp.sum(jnp.real(d * jnp.conj(d))) + jnp.sum((p["other"] - 3 * t) ** 2)

    def solve(t: jax.Array) -> Any:
        start = {"one": jnp.zeros(2, dtypes[0]), "other": jnp.zeros([], dtypes[1])}
        return minimize(loss, start, args=(t,))

    at = jnp.array(1.5)
    solution, moved = jax.jvp(solve, (at,), (jnp.ones([]),))
    assert [solution.params[name].dtype for name in ("one", "other")] == list(map(jnp.dtype, dtypes))
    slopes = jax.grad(lambda t: jnp.sum(jnp.real(solve(t).params["one"])) + solve(t).params["other"])(at)
    # The tolerance of the solution, or a rounding of the coarser leaf.
    within = max(1e-5, float(jnp.finfo(dtypes[0]).eps))
    for found, expected in ((solution.params, at), (moved.params, jnp.ones([]))):
        np.testing.assert_allclose(found["one"].astype(complex), expected, rtol=within)
        np.testing.assert_allclose(found["other"], 3 * expected, rtol=within)
    np.testing.assert_allclose(slopes, 5.0, rtol=within)


def test_leaves_without_a_number():
    def solve(t: jax.Array) -> Any:
        start = {"none": jnp.zeros((0, 3)), "some": jnp.zeros(2)}
        return minimize(lambda p: jnp.sum((p["some"] - t) ** 2) + jnp.sum(p["none"]), start).params

    params, moved = jax.jvp(solve, (jnp.array(1.5),), (jnp.ones([]),))
    assert params["none"].shape == moved["none"].shape == (0, 3)
    np.testing.assert_allclose(params["some"], 1.5, rtol=1e-5)
    np.testing.assert_allclose(moved["some"], 1.0, rtol=1e-5)
    _, nothing = jax.jvp(lambda t: minimize(lambda x: t * jnp.sum(x), jnp.zeros(0)), (1.5,), (1.0,))
    assert nothing.params.shape == (0,) and nothing.value == 0


@pytest.mark.parametrize("dtype", ["float32", exhaustive("float64")])
def test_it_is_linear_at_every_length(dtype: str, x64: None):
    """x = t, so that directions come through as they are; the largest and smallest that are normal, and 0."""
    info = jnp.finfo(dtype)
    lengths = jnp.array([0.0, 8 * float(info.tiny), 1e-30, 1e-8, 1.0, 1e30, float(info.max) / 8], dtype)
    target = jnp.array([1.0, 2.0], dtype)

    def solve(target: jax.Array) -> jax.Array:
        return minimize(lambda x: jnp.sum((x - target) ** 2), jnp.zeros(2, dtype)).params

    @jax.jit
    def along(lengths: jax.Array) -> Any:
        def one(length: jax.Array) -> Any:
            direction = length * jnp.array([1.0, -0.5], dtype)
            return jax.jvp(solve, (target,), (direction,))[1], jax.vjp(solve, target)[1](direction)[0]

        return jax.vmap(one)(lengths)

    expected = np.asarray(lengths)[:, None] * np.array([1.0, -0.5], dtype)
    for found in along(lengths):
        # 100 roundings is what the system is solved to.
        np.testing.assert_allclose(found, expected, rtol=100 * float(info.eps))


@pytest.mark.parametrize("size", [6, 60])
def test_systems_without_symmetry(size: int, x64: None, monkeypatch: pytest.MonkeyPatch):
    """A rotation, where a Krylov space gains nothing until it is whole, and one with restarts."""
    monkeypatch.setattr(implicit, "_KRYLOV_NUMBERS", 1)
    monkeypatch.setattr(implicit, "_LEAST_VECTORS", 20)
    rng = np.random.default_rng(0)
    right = jnp.asarray(rng.standard_normal(size))
    near = np.eye(size) + 0.3 * rng.standard_normal((size, size)) / np.sqrt(size)
    matrices = [near, np.roll(np.eye(size), 1, 0)] if size < 20 else [near]
    for matrix in map(jnp.asarray, matrices):
        image = lambda x, m=matrix: x - m @ x  # noqa: E731
        found = jax.jit(lambda b, f=image: fixed_point_tangent(f, 0 * b, b))(right)
        np.testing.assert_allclose(found, np.linalg.solve(matrix, right), rtol=1e-11, atol=1e-11)


def test_an_inactive_constraint_moves_nothing():
    target = jnp.array([1.0, 2.0])

    def solve(radius: jax.Array) -> jax.Array:
        ball = prox.projection(optax.projections.projection_l2_ball, scale=radius)
        return minimize(lambda x: jnp.sum((x - target) ** 2), jnp.zeros(2), prox=ball).params

    radii = jnp.array([100.0, 1.0])
    inside, active = jax.vmap(lambda r: jax.jvp(solve, (r,), (jnp.ones([]),))[1])(radii)
    np.testing.assert_array_equal(inside, 0.0)
    np.testing.assert_allclose(active, target / jnp.linalg.norm(target), rtol=1e-5)
