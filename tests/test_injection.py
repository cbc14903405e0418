"""Under `optax.inject_hyperparams`, and with a state from before an option was changed."""

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

import nag_optax
from nag_optax import accelerate, nag
from tests import reference
from tests.helpers import (
    START,
    assert_trees_close,
    dtypes,
    float_count,
    quartic_gradient,
    rising,
    sphere,
    train,
    trajectory,
)

IS_MATRIX = lambda params: jax.tree.map(lambda p: p.ndim == 2, params)  # noqa: E731
WITH_BUFFERS = (
    accelerate,
    nag_optax.adan,
    nag_optax.ema_nesterov,
    nag_optax.fista,
    nag_optax.gpa,
    nag_optax.muon,
    nag_optax.nadam,
    nag_optax.nadamw,
    nag,
    nag_optax.scale_by_nesterov,
    nag_optax.snoo,
)


def params_tree() -> dict[str, jax.Array]:
    return {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0], [0.5]])}


def test_values_change_between_steps_without_recompilation():
    optimizer = optax.inject_hyperparams(nag)(learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    params, traces = jnp.array([1.0, -2.0]), []

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        traces.append(None)
        updates, state = optimizer.update(2 * params, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    expected, w = np.array([1.0, -2.0]), np.zeros(2)
    for rate, momentum, decay in ((0.1, 0.9, 0.0), (0.03, 0.5, 0.1), (0.2, 0.0, 0.01)):
        state.hyperparams["learning_rate"] = jnp.asarray(rate)
        state.hyperparams["momentum"] = jnp.asarray(momentum)
        state.hyperparams["weight_decay"] = jnp.asarray(decay)
        params, state = step(params, state)
        u = -rate * 2 * expected
        w = momentum * (w + u)
        expected = expected + u + w - rate * decay * expected
        np.testing.assert_allclose(params, expected, rtol=1e-6)
    assert len(traces) == 1


def test_learning_rate_schedule():
    """Injected, a schedule of the learning rate is what it is in `nag` itself."""
    schedule = optax.exponential_decay(0.1, 10, 0.5)
    injected, _ = train(optax.inject_hyperparams(nag)(schedule, 0.9), params_tree(), sphere, 30)
    direct, _ = train(nag(schedule, 0.9), params_tree(), sphere, 30)
    assert_trees_close(injected, direct, rtol=1e-5, atol=1e-7)


def test_momentum_schedule_is_exact_as_a_static_argument(x64: None):
    def momentum(count: Any) -> jax.Array:
        return rising(float_count(count))

    expected, _ = reference.nesterov(quartic_gradient, START, lambda t: 0.1, rising, 100)
    static = optax.inject_hyperparams(nag, static_args=("momentum",))(0.1, momentum)
    ps, _ = trajectory(static, quartic_gradient, START, 100)
    np.testing.assert_allclose(ps, expected, rtol=0, atol=1e-12)
    # Evaluated by inject_hyperparams it is one step late, as the docstring says.
    late, _ = trajectory(optax.inject_hyperparams(nag)(0.1, momentum), quartic_gradient, START, 100)
    assert np.max(np.abs(late - expected)) > 1e-3


def test_float32_hyperparameters_for_bfloat16_parameters():
    """In bfloat16, 0.999 is 1, and the momentum would never decay."""
    params = jnp.ones(2, jnp.bfloat16)
    wide = optax.inject_hyperparams(nag, hyperparam_dtype=jnp.float32)
    optimizer = wide(0.1, 0.999, accumulator_dtype="float32")
    state = optimizer.init(params)
    assert state.hyperparams["momentum"].dtype == jnp.float32
    updates, state = jax.jit(optimizer.update)(params, state, params)
    assert updates.dtype == jnp.bfloat16
    offset = state.inner_state[1].offset
    u = float(jnp.asarray(-0.1, jnp.bfloat16))
    np.testing.assert_allclose(offset, 0.999 * u, rtol=1e-6)
    assert not np.allclose(offset, u, rtol=1e-4)
    narrow = optax.inject_hyperparams(nag)(0.1, 0.999).init(params)
    assert float(narrow.hyperparams["momentum"]) == 1.0


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        (nag, {"mask": IS_MATRIX, "weight_decay": 0.1}),
        (nag, {"mask": IS_MATRIX, "weight_decay": 0.1, "accumulate": "gradients"}),
        (nag_optax.nadamw, {"mask": IS_MATRIX}),
        (nag_optax.adan, {"mask": IS_MATRIX, "weight_decay": 0.1}),
        (nag_optax.adan, {"mask": IS_MATRIX, "weight_decay": 0.1, "proximal_decay": False}),
        (nag_optax.muon, {"mask": IS_MATRIX, "weight_decay": 0.1}),
        (nag_optax.muon, {"matrices": IS_MATRIX}),
        (nag_optax.muon, {"dtype": jnp.bfloat16}),
        (nag_optax.fista, {"prox": lambda params, step_size=1.0: params}),
        (nag_optax.proximal, {"step_size": 0.1, "prox": lambda params, step_size=1.0: params}),
        (nag_optax.orthogonalize, {"dtype": np.float32}),
        (nag_optax.snoo, {"reduce": lambda delta: delta}),
        *((factory, {"accumulator_dtype": jnp.float32}) for factory in WITH_BUFFERS),
    ],
    ids=lambda value: value.__name__ if callable(value) else ",".join(value),
)
def test_functions_must_be_static(factory: Any, arguments: dict[str, Any]):
    """What can be called is called with the step, for a schedule: another optimizer without a word."""
    name = next(name for name, value in arguments.items() if callable(value))
    given = {"learning_rate": 0.1, "inner": optax.sgd(0.1), **arguments}
    given = {k: v for k, v in given.items() if k in inspect.signature(factory).parameters}
    params = {"w": jnp.ones((2, 2))}
    with pytest.raises((ValueError, TypeError), match=f"^{name} must be .* static_args"):
        optax.inject_hyperparams(factory)(**given).init(params)
    static = optax.inject_hyperparams(factory, static_args=name)(**given)
    direct = optax.with_extra_args_support(factory(**given))
    updates, state = static.update(params, static.init(params), params)
    expected, inner_state = direct.update(params, direct.init(params), params)
    assert_trees_close(updates, expected, rtol=1e-6)
    assert dtypes(state.inner_state) == dtypes(inner_state)


def test_restart_and_value_pass_through():
    optimizer = optax.inject_hyperparams(nag)(0.1, 0.9, restart="value")
    params = jnp.ones(2)
    state = optimizer.init(params)
    for value in (1.0, 2.0):
        updates, state = optimizer.update(params, state, params, value=jnp.array(value))
    np.testing.assert_allclose(updates, -0.1, rtol=1e-6)
    with pytest.raises(ValueError, match="value=loss"):
        optimizer.update(params, state, params)


@pytest.mark.parametrize("factory", WITH_BUFFERS)
def test_restored_state_of_another_dtype_is_named(factory: Any):
    """And cast by the line that the message gives; the state would stay in bfloat16 without a word."""
    given = {"learning_rate": 0.1, "inner": optax.sgd(0.1)}
    given = {k: v for k, v in given.items() if k in inspect.signature(factory).parameters}
    params: Any = {"w": jnp.ones((2, 2), jnp.bfloat16), "z": jnp.ones(2, jnp.complex64)}
    opt_state: Any = optax.with_extra_args_support(factory(**given)).init(params)
    optimizer = optax.with_extra_args_support(factory(**given, accumulator_dtype=jnp.float32))
    with pytest.raises(ValueError, match="is float32, but opt_state has bfloat16.*cast it") as error:
        jax.eval_shape(optimizer.update, params, opt_state, params)
    line = str(error.value).split("cast it, ")[1]
    cast = eval(line, {"jax": jax, "opt_state": opt_state, "optimizer": optimizer, "params": params})
    assert dtypes(jax.eval_shape(optimizer.update, params, cast, params)[1]) == dtypes(optimizer.init(params))
