"""`proximal`, alone and with the accelerator behind it."""

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
from nag_optax import accelerate, proximal
from nag_optax.prox import box, l1, separable
from tests import reference
from tests.helpers import assert_trees_equal, dtypes, falling, float_count, trajectory

_RNG = np.random.default_rng(0)
MATRIX, STRENGTH = _RNG.standard_normal((12, 20)), 3.0
TARGET = MATRIX @ np.where(np.arange(20) < 4, 1.5, 0.0) + 0.1 * _RNG.standard_normal(12)
LIPSCHITZ = float(np.linalg.norm(MATRIX, 2) ** 2)


def gradient(p: Any) -> Any:
    return MATRIX.T @ (MATRIX @ p - TARGET)


def fista_momentum(k: Any) -> Any:
    """(k − 1)/(k + 2) for k = 1, 2, …"""
    return (k - 1.0) / (k + 2.0)


def rate(count: Any) -> Any:
    return falling(count) / (0.12 * LIPSCHITZ)


@pytest.mark.parametrize("scheduled", [False, True], ids=["constant", "schedule"])
@pytest.mark.parametrize("accelerated", [False, True], ids=["ista", "fista"])
def test_a_chain_is_fista(scheduled: bool, accelerated: bool, x64: None):
    learning_rate: Any = (lambda count: rate(float_count(count))) if scheduled else 1.0 / LIPSCHITZ
    # Optax scales by a float32 where a schedule gives one; this is float64 throughout.
    momentum: Any = (lambda count: fista_momentum(float_count(count))) if accelerated else 0.0
    optimizer = optax.chain(
        optax.scale_by_learning_rate(learning_rate),
        proximal(l1(STRENGTH), learning_rate),
        accelerate(momentum),
    )
    ps, xs = trajectory(optimizer, gradient, np.zeros(20), 200)
    ys, expected = reference.lasso_fista(
        MATRIX,
        TARGET,
        STRENGTH,
        rate if scheduled else lambda _: 1.0 / LIPSCHITZ,
        fista_momentum if accelerated else lambda _: 0.0,
        200,
    )
    np.testing.assert_allclose(ps, ys, rtol=0, atol=1e-12)
    np.testing.assert_allclose(xs, expected, rtol=0, atol=1e-12)
    assert 0 < np.sum(expected[-1] != 0.0) < 20


def test_without_acceleration_the_parameters_are_exactly_sparse():
    optimizer = optax.chain(optax.sgd(1.0 / LIPSCHITZ), proximal(l1(STRENGTH), 1.0 / LIPSCHITZ))
    matrix, target = jnp.asarray(MATRIX, jnp.float32), jnp.asarray(TARGET, jnp.float32)
    params: Any = jnp.full(20, 0.3)
    state = optimizer.init(params)
    for _ in range(100):
        updates, state = optimizer.update(matrix.T @ (matrix @ params - target), state, params)
        params = optax.apply_updates(params, updates)
    assert 5 < int(jnp.sum(params == 0.0)) < 20


@pytest.mark.parametrize("param", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("incoming", [jnp.bfloat16, jnp.float32])
def test_dtypes(param: Any, incoming: Any):
    params = {"a": jnp.array([1.0, -0.3], param)}
    updates = {"a": jnp.array([-0.01, 0.001], incoming)}
    transformation = proximal(l1(0.1), 1.0)
    new, _ = transformation.update(updates, transformation.init(params), params)
    assert dtypes(new) == dtypes(updates)
    # In float32 and rounded last.
    p, u = params["a"].astype(jnp.float32), updates["a"].astype(jnp.float32)
    assert_trees_equal(new["a"], (l1(0.1)(p + u, 1.0) - p).astype(incoming))


def test_none_updates_stay_and_the_prox_does_not_see_them():
    params = {"a": jnp.array([2.0]), "b": jnp.array([2.0]), "c": None}
    updates = {"a": jnp.array([-0.5]), "b": None, "c": None}
    for prox in (l1(1.0), l1({"a": 1.0, "b": 5.0, "c": 1.0}), separable({"a": l1(1.0), "b": l1(5.0)})):
        transformation = proximal(prox, 1.0)
        new, _ = transformation.update(updates, transformation.init(params), params)
        assert_trees_equal(new, {"a": jnp.array([-1.5]), "b": None, "c": None})


def test_masked():
    params = {"a": jnp.array([2.0]), "b": jnp.array([2.0])}
    transformation = optax.masked(proximal(l1(1.0), 1.0), {"a": True, "b": False})
    new, _ = transformation.update(params, transformation.init(params), params)
    assert_trees_equal(new, {"a": jnp.array([1.0]), "b": jnp.array([2.0])})


def test_the_schedule_is_read_as_scale_by_learning_rate_reads_it():
    schedule = lambda count: 1.0 / (1.0 + float_count(count))  # noqa: E731
    transformation = optax.chain(optax.scale_by_learning_rate(schedule), proximal(l1(1.0), schedule))
    params, sizes = jnp.array(10.0), []
    state = transformation.init(params)
    for _ in range(3):
        updates, state = transformation.update(jnp.array(0.0), state, params)
        sizes.append(-float(updates))
    np.testing.assert_allclose(sizes, [1.0, 0.5, 1.0 / 3.0], rtol=1e-6)


def test_a_number_needs_no_state():
    assert jax.tree.leaves(proximal(l1(1.0), 0.1).init(jnp.ones(3))) == []


def test_any_callable_is_a_prox():
    transformation = proximal(lambda params, step_size: params * step_size, 0.5)
    new, _ = transformation.update(
        jnp.array(1.0), transformation.init(jnp.array(3.0)), jnp.array(3.0), value=1.0
    )
    assert float(new) == -1.0


def test_feasible_under_inject_hyperparams():
    inject = optax.inject_hyperparams(proximal, static_args=("prox",))
    transformation = inject(box(-1.0, 1.0), step_size=0.1)
    params: Any = jnp.array([0.9, 0.0])
    new, _ = transformation.update(jnp.array([5.0, 0.5]), transformation.init(params), params)
    np.testing.assert_allclose(params + new, [1.0, 0.5], rtol=1e-6)


def test_differentiable_and_mapped_over_strengths(x64: None):
    def after(strength: jax.Array) -> jax.Array:
        optimizer = optax.chain(
            optax.sgd(1.0 / LIPSCHITZ), proximal(l1(strength), 1.0 / LIPSCHITZ), nag_optax.accelerate(0.5)
        )
        params = jnp.zeros(20)
        carry = params, optimizer.init(params)

        def step(carry: Any, _: None) -> Any:
            params, state = carry
            updates, state = optimizer.update(gradient(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jnp.sum(jax.lax.scan(step, carry, length=20)[0][0] ** 2)

    strengths, h = jnp.array([1.0, 3.0]), 1e-6
    run = jax.jit(jax.vmap(after))
    slopes = (run(strengths + h) - run(strengths - h)) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(after)))(strengths), slopes, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: proximal(None, 0.1), TypeError, "prox must be an operator .*got None of type NoneType"),
        (lambda: proximal(l1, 0.1), TypeError, r"got the function l1 .* nag_optax\.prox\.l1\(\.\.\.\)"),
        (
            lambda: proximal(optax.projections.projection_simplex, 0.1),
            TypeError,
            r"write nag_optax.prox.projection\(optax.projections.projection_simplex, ",
        ),
        (
            lambda: proximal(jax.jit(optax.projections.projection_l2_ball), 0.1),
            TypeError,
            r"write nag_optax.prox.projection\(optax.projections.projection_l2_ball, ",
        ),
        (
            lambda: proximal(l1(1.0), -0.1),
            ValueError,
            r"step_size must be a number in \[0, inf\) or an Optax schedule; got -0.1",
        ),
        (lambda: proximal(l1(1.0), "0.1"), TypeError, "step_size must be .*got '0.1'"),
    ],
)
def test_bad_arguments(make: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make()


P = {"a": jnp.ones(2), "b": jnp.ones(3)}


@pytest.mark.parametrize(
    ("prox", "updates", "params", "error", "message"),
    [
        (
            l1(1.0),
            P,
            None,
            ValueError,
            r"proximal needs the parameters: call update\(updates, state, params\)",
        ),
        (l1(1.0), {"a": jnp.ones(2)}, P, ValueError, "the updates and the parameters have different trees"),
        (
            l1(1.0),
            {**P, "a": jnp.ones(1)},
            P,
            ValueError,
            r"update \['a'\] has shape \(1,\), .* has shape \(2,\)",
        ),
        (
            l1(1.0),
            P,
            {**P, "a": {}},
            ValueError,
            r"update \['a'\] is an array, but the parameters have \{\} there",
        ),
        (lambda p, s: p["a"], P, P, ValueError, "prox must return the tree that it is given"),
        (
            lambda p, s: {**p, "b": p["b"][:1]},
            P,
            P,
            ValueError,
            r"prox must keep shapes: \['b'\] has \(3,\), got \(1,\)",
        ),
        (
            lambda p, s: {**p, "b": p["b"].astype(jnp.bfloat16)},
            P,
            P,
            TypeError,
            r"prox must keep dtypes: \['b'\] .*bfloat16",
        ),
    ],
)
def test_bad_updates(prox: Any, updates: Any, params: Any, error: type[Exception], message: str):
    transformation = proximal(prox, 0.1)
    with pytest.raises(error, match=message):
        transformation.update(updates, transformation.init(P), params)
