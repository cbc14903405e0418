"""Rounding at random: the bits of the transcription, the mean, and what it leaves alone."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOperatorIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import stochastic_rounding
from nag_optax.transforms.stochastic_rounding import random_bits, to_bfloat16, uniform
from tests import reference
from tests.helpers import assert_trees_equal

QUARTER = 2.0**-9  # of the distance between 1 and the next bfloat16


@pytest.mark.parametrize("shape", [(), (5000,), (70, 33), (3, 3, 8, 16)], ids=str)
def test_random_numbers_are_the_transcription_s(shape: tuple[int, ...]):
    for step, leaf in ((0, 0), (1, 0), (2**31 - 1, 7)):
        u = jax.jit(lambda t: uniform(random_bits(shape, t, leaf, 0)))(jnp.int32(step))  # noqa: B023
        np.testing.assert_array_equal(np.ravel(u), reference.counter_uniform(u.size, step, leaf))


def test_the_seed_may_be_an_array():
    """As it is under `optax.inject_hyperparams`."""
    params, updates = jnp.ones(64, jnp.bfloat16), jnp.full(64, QUARTER)
    direct = stochastic_rounding(seed=7)
    injected = optax.inject_hyperparams(stochastic_rounding)(seed=7)
    expected, _ = direct.update(updates, direct.init(params), params)
    found, _ = jax.jit(injected.update)(updates, injected.init(params), params)
    assert_trees_equal(found, expected)
    assert 0 < jnp.count_nonzero(found) < found.size


def test_random_numbers_look_uniform():
    """Mean, spread and neighbours of 2¹⁶ draws, each within four standard errors."""
    u = np.asarray(uniform(random_bits((256, 256), jnp.int32(5), 3, seed=11)), np.float64)
    n = u.size
    assert abs(u.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / n)
    following = np.asarray(uniform(random_bits((256, 256), jnp.int32(6), 3, seed=11)), np.float64)
    others = {"index": np.roll(u, 1), "step": following, "row": np.roll(u, 1, axis=0)}
    for name, other in others.items():
        assert abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(n), name


def test_rounding_is_the_transcription_s():
    x = np.random.default_rng(0).standard_normal(4096).astype(np.float32) * np.geomspace(1e-30, 1e30, 4096)
    x = x.astype(np.float32)
    bits = random_bits(x.shape, jnp.int32(1), 0, 0)
    rounded = jax.jit(to_bfloat16)(jnp.asarray(x), bits).astype(jnp.float32)
    np.testing.assert_array_equal(rounded, reference.to_bfloat16(x, np.asarray(bits)))


def test_numbers_without_a_fraction_and_no_numbers_stay():
    x = jnp.array([0.0, -0.0, 1.0, -3.5, jnp.inf, -jnp.inf, jnp.nan])
    ones = jnp.full(x.shape, 0xFFFFFFFF, jnp.uint32)
    np.testing.assert_array_equal(to_bfloat16(x, ones).astype(jnp.float32), x)


def run(optimizer: optax.GradientTransformation, updates: jax.Array, steps: int) -> jax.Array:
    params = jnp.ones(updates.shape, jnp.bfloat16)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        update, state = optimizer.update(updates, state, params)
        return (optax.apply_updates(params, update), state), None

    carry = params, optimizer.init(params)
    return jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0][0])(carry)


@pytest.mark.usefixtures("standard_promotion")  # optax.apply_updates mixes bfloat16 and float32
def test_small_updates_add_up():
    """10,000 steps of a quarter of a rounding, or of less once the parameter has grown."""
    steps, lanes = 10_000, 64
    moved = np.asarray(run(stochastic_rounding(), jnp.full(lanes, QUARTER), steps), np.float64) - 1.0
    # A step of the fraction f of the distance d between neighbours has the variance f(1 − f)·d² ≤ QUARTER·d.
    # d is at most 1/8 where the sum, 19.5, ends.
    error = np.sqrt(steps * QUARTER / 8 / lanes)
    assert abs(moved.mean() - steps * QUARTER) < 3 * error
    assert (np.asarray(run(stochastic_rounding(1), jnp.full(lanes, QUARTER), steps)) != moved + 1.0).any()
    unmoved = run(optax.identity(), jnp.full(lanes, QUARTER), steps)
    np.testing.assert_array_equal(unmoved, jnp.ones(lanes, jnp.bfloat16))


@pytest.mark.usefixtures("standard_promotion")
def test_apply_updates_lands_on_a_neighbour():
    params = jnp.asarray(np.random.default_rng(0).standard_normal(1000), jnp.bfloat16)
    updates = jnp.asarray(np.random.default_rng(1).standard_normal(1000) * 0.1, jnp.float32)
    optimizer = stochastic_rounding()
    update, _ = optimizer.update(updates, optimizer.init(params), params)
    assert update.dtype == jnp.float32
    landed = np.asarray(optax.apply_updates(params, update), np.float64)
    exact = np.asarray(params.astype(jnp.float32) + updates, np.float64)
    # bfloat16 has 8 bits.
    assert (np.abs(landed - exact) < 2.0**-7 * np.abs(exact)).all()
    assert np.abs(landed - exact).max() > 0


def test_a_step_that_is_not_finite_moves_nothing():
    """Behind `optax.apply_if_finite`, which refuses a float32 update of a bfloat16 gradient within it."""
    inner = optax.apply_if_finite(optax.sgd(1.0), 5)
    optimizer = optax.chain(inner, stochastic_rounding())
    params = jnp.ones(256, jnp.bfloat16)
    grads = jnp.full(256, -QUARTER, jnp.bfloat16)
    step, state = jax.jit(optimizer.update), optimizer.init(params)
    for moved, g in ((True, grads), (False, grads.at[0].set(jnp.nan))):
        updates, state = step(g, state, params)
        assert updates.dtype == jnp.float32 and bool(updates.any()) == moved
    within = optax.apply_if_finite(optax.chain(optax.sgd(1.0), stochastic_rounding()), 5)
    with pytest.raises(TypeError, match="cond"):
        within.update(grads, within.init(params), params)


def test_other_leaves_are_left_alone():
    params = {"wide": jnp.ones(3), "half": jnp.ones(3, jnp.float16), "none": jnp.ones(2, jnp.bfloat16)}
    updates = {"wide": jnp.full(3, 1e-3), "half": jnp.full(3, 1e-3, jnp.float16), "none": None}
    optimizer = stochastic_rounding()
    new, state = optimizer.update(updates, optimizer.init(params), params)
    assert_trees_equal(new, updates)
    assert int(state.step) == 1


def test_errors():
    with pytest.raises(ValueError, match=r"seed must be an integer in \[0, 4294967296\); got -1"):
        stochastic_rounding(-1)
    optimizer = stochastic_rounding()
    with pytest.raises(ValueError, match=r"needs the parameters: call update\(updates, state, params\)"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
