"""Restarts: the three schemes against O'Donoghue and Candès, and that they help."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import accelerate, momentum, nag
from nag_optax.acceleration.momentum.restarting import Restart, RestartingState
from tests import reference
from tests.helpers import float_count, rising, rule_from, trajectory

SCHEMES = get_args(Restart)
over_schemes = pytest.mark.parametrize("scheme", SCHEMES)

# Condition number 1000 and no accident of symmetry.
HESSIAN = np.diag(np.geomspace(1e-3, 1.0, 12))
START = np.random.default_rng(2).standard_normal(12)


def objective(p: Any) -> Any:
    return 0.5 * (p @ (HESSIAN @ p))


def gradient(p: Any) -> Any:
    return HESSIAN @ p


def rate(count: Any) -> Any:
    """Changes at every step, and stays below 1/L."""
    return 0.9 / (1.0 + 0.001 * count)


MOMENTA = {
    "float": (0.98, lambda t: 0.98, False),
    "schedule": (lambda count: rising(float_count(count)), rising, False),
    "rule": (rule_from(rising), rising, True),
}


@over_schemes
@pytest.mark.parametrize("kind", MOMENTA)
@pytest.mark.parametrize("accumulate", ["updates", "gradients"])
def test_equals_the_paper_s_sequences(scheme: Restart, kind: str, accumulate: Any, x64: None):
    """A rule begins again; a float and a schedule follow the training step."""
    ours, sequence, resets = MOMENTA[kind]
    scheduled = accumulate == "updates"
    optimizer = nag(
        (lambda count: rate(float_count(count))) if scheduled else 0.9,
        ours,
        restart=scheme,
        accumulate=accumulate,
    )
    ps, xs = trajectory(optimizer, gradient, START, 300, objective=objective, learning_rate=0.9)
    ys, expected, restarts = reference.nesterov_with_restart(
        objective,
        gradient,
        START,
        rate if scheduled else (lambda t: 0.9),
        sequence,
        300,
        scheme,
        resets,
    )
    assert len(restarts) >= 2
    np.testing.assert_allclose(ps, ys, rtol=0, atol=1e-12)
    np.testing.assert_allclose(xs, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", MOMENTA)
def test_is_short_for_a_rule_around_a_rule(kind: str):
    """The same program, and so the same numbers and bytes."""
    ours, params = MOMENTA[kind][0], jnp.asarray(START)

    def program(optimizer: optax.GradientTransformation) -> str:
        update = optax.with_extra_args_support(optimizer).update
        state = optimizer.init(params)
        return str(jax.make_jaxpr(lambda state: update(params, state, params, value=0.0))(state))

    # A value would be that of f alone where fista does not know that it is for a restart.
    fista = partial(nag_optax.fista, 0.1, nag_optax.prox.nonnegative())
    wraps = partial(nag, 0.1), partial(nag_optax.laprop, 0.1), accelerate, fista
    for scheme in SCHEMES:
        rule = momentum.restarting(ours, scheme)
        for wrap in wraps[:3] if scheme == "value" else wraps:
            assert program(wrap(momentum=rule, restart=None)) == program(wrap(momentum=ours, restart=scheme))


def test_momentum_zero_has_nothing_to_restart():
    assert not jax.tree.leaves(accelerate(0.0, restart="value").init(jnp.ones(2)))
    assert momentum.restarting(0.9, None).coefficients(())[0] == (0.9, 0.0)


def steps_to_gap(optimizer: optax.GradientTransformation, gap: float = 1e-9, most: int = 3000) -> int:
    _, xs = trajectory(optimizer, gradient, START, most, objective=objective)
    reached = np.flatnonzero(np.array([objective(x) for x in xs]) <= gap * objective(START))
    assert len(reached), "the gap was not reached"
    return int(reached[0]) + 1


@over_schemes
@pytest.mark.parametrize("kind", ["float", "rule"])
def test_helps_on_an_ill_conditioned_quadratic(scheme: Restart, kind: str, x64: None):
    # 0.999 is too much for this condition number, and FISTA's momentum grows to it.
    value = 0.999 if kind == "float" else MOMENTA["rule"][0]
    without = steps_to_gap(nag(1.0, value), most=20_000)
    restarted = steps_to_gap(nag(1.0, value, restart=scheme))
    assert restarted < without
    # The published ranking: the gradient scheme needs about half the steps of no restart.
    if scheme == "gradient":
        assert restarted < 0.6 * without


@over_schemes
def test_a_restart_drops_the_offset(scheme: Restart):
    """Two steps forth and one back: the third is a plain step."""
    optimizer = accelerate(0.9, restart=scheme)
    params = jnp.zeros(2)
    state = optimizer.init(params)
    for step, value in ((1.0, 3.0), (0.5, 2.0)):
        updates, state = optimizer.update(jnp.full(2, step), state, params, value=jnp.array(value))
        assert not np.array_equal(updates, np.full(2, step))
        assert np.all(np.asarray(state.offset) > 0)
    updates, state = optimizer.update(jnp.full(2, -1.0), state, params, value=jnp.array(4.0))
    np.testing.assert_array_equal(updates, -1.0)
    np.testing.assert_array_equal(state.offset, 0.0)


@over_schemes
def test_does_not_trigger_twice_for_one_cause(scheme: Restart):
    """After a restart the next velocity is one step, and the objective is compared with the new one."""
    optimizer = accelerate(0.9, restart=scheme)
    params = jnp.zeros(1)
    state = optimizer.init(params)
    for step, value in ((1.0, 2.0), (1.0, 1.0), (-1.2, 5.0)):
        _, state = optimizer.update(jnp.full(1, step), state, params, value=jnp.array(value))
    np.testing.assert_array_equal(state.offset, 0.0)
    # Shorter than every step before; downhill; below the value at the restart.
    updates, state = optimizer.update(jnp.full(1, -0.01), state, params, value=jnp.array(4.0))
    np.testing.assert_allclose(updates, -0.019, rtol=1e-5)
    np.testing.assert_allclose(state.offset, -0.009, rtol=1e-5)


@over_schemes
def test_first_step_never_restarts(scheme: Restart):
    optimizer = accelerate(0.9, restart=scheme)
    params = jnp.zeros(1)
    updates, _ = optimizer.update(jnp.ones(1), optimizer.init(params), params, value=jnp.array(1e30))
    np.testing.assert_allclose(updates, 1.9, rtol=1e-6)


@pytest.mark.parametrize("kind", ["schedule", "rule"])
def test_only_a_rule_begins_again(kind: str):
    optimizer = accelerate(MOMENTA[kind][0], restart="value")
    params = jnp.ones(1)
    state = optimizer.init(params)
    counts = []
    for value in (3.0, 2.0, 5.0, 4.0):
        _, state = optimizer.update(params, state, params, value=jnp.array(value))
        counts.append(int(state.rule_state.rule_state))
    assert counts == ([1, 2, 0, 1] if kind == "rule" else [1, 2, 3, 4])


def test_sutskever_begins_again():
    optimizer = accelerate(momentum.sutskever(0.9), restart="value")
    params = jnp.ones(1)
    state = optimizer.init(params)
    late = RestartingState(rule_state=jnp.asarray(1000, jnp.int32), seen=jnp.asarray(0.0))
    state = state._replace(rule_state=late)
    _, state = optimizer.update(params, state, params, value=jnp.array(1.0))
    updates, _ = optimizer.update(params, state, params, value=jnp.array(0.5))
    np.testing.assert_allclose(updates, 1.5)


def test_speed_counts_the_whole_tree():
    """One leaf slows down, the other speeds up by more."""
    optimizer = accelerate(0.5, restart="speed")
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    state = optimizer.init(params)
    _, state = optimizer.update({"a": jnp.ones(1), "b": jnp.ones(1)}, state, params)
    updates, state = optimizer.update({"a": jnp.full(1, -0.5), "b": jnp.ones(1)}, state, params)
    np.testing.assert_allclose(state.offset["b"], 0.75)
    # a: v = 0; b: v = 0.75 + 1.
    np.testing.assert_allclose(state.rule_state.seen, 1.5**2, rtol=1e-6)
    np.testing.assert_allclose(updates["b"], 1.75)


def test_speed_is_summed_wide():
    """In bfloat16 a running sum of ones stops at 256, and 4097 has no place."""
    optimizer = accelerate(0.5, restart="speed")
    params = {"long": jnp.zeros(4096, jnp.bfloat16), "short": jnp.zeros(1, jnp.bfloat16)}
    steps = jax.tree.map(jnp.ones_like, params)
    _, state = optimizer.update(steps, optimizer.init(params), params)
    assert state.rule_state.seen.dtype == jnp.float32
    np.testing.assert_array_equal(state.rule_state.seen, 4097.0)


def test_gradient_is_summed_wide():
    """⟨u, w + u⟩ = 257 − 255 − 1.5 is positive; in bfloat16 257 is 256, and the sum negative."""
    optimizer = accelerate(0.5, restart="gradient")
    offset, step = (jnp.array(v, jnp.bfloat16) for v in ([256.0, 256.0, 2.5], [1.0, -1.0, -1.0]))
    state = optimizer.init(offset)._replace(offset=offset)
    _, state = optimizer.update(step, state)
    np.testing.assert_array_equal(np.asarray(state.offset, np.float32), [128.0, 127.5, 0.75])


@pytest.mark.parametrize("scheme", ["gradient", "speed"])
def test_none_gradient_takes_no_part(scheme: Any):
    optimizer = accelerate(0.9, restart=scheme)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    state = optimizer.init(params)
    _, state = optimizer.update({"a": jnp.ones(1), "b": jnp.ones(1)}, state, params)
    updates, state = optimizer.update({"a": jnp.full(1, 2.0), "b": None}, state, params)
    assert updates["b"] is None
    np.testing.assert_allclose(updates["a"], 2.0 + 0.9 * 2.9, rtol=1e-6)
    np.testing.assert_allclose(state.offset["b"], 0.9, rtol=1e-6)


@pytest.mark.parametrize("optimizer", [accelerate(0.9, restart="value"), nag(0.1, restart="value")])
def test_value_is_named_where_it_is_missing(optimizer: optax.GradientTransformationExtraArgs):
    params = jnp.ones(2)
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"update\(\.\.\., value=loss\)"):
        optimizer.update(params, state, params)
    with pytest.raises(ValueError, match=r"value must be a scalar; got shape \(2,\)"):
        optimizer.update(params, state, params, value=jnp.ones(2))


@pytest.mark.parametrize("value", [2, 2.0, np.float64(2), np.array(2.0), jnp.array(2, jnp.bfloat16)])
def test_value_may_be_any_scalar(value: Any):
    optimizer = accelerate(0.9, restart="value")
    params = jnp.ones(2)
    _, state = optimizer.update(params, optimizer.init(params), params, value=value)
    assert state.rule_state.seen.dtype == jnp.float32
    assert float(state.rule_state.seen) == 2.0


@pytest.mark.parametrize("restart", ["velocity", "", True, 1, ["gradient"]], ids=repr)
def test_unknown_scheme(restart: Any):
    with pytest.raises(ValueError, match=r"restart must be 'gradient', 'speed', 'value' or None; got"):
        accelerate(0.9, restart=restart)
