"""Faults of public momentum optimizers, one test each, so that they are not ours."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import accelerate, adan, eval_params, muon, nadam, nadamw, nag, scale_by_nesterov
from tests import reference
from tests.helpers import assert_trees_equal, float_count, trajectory


def test_momentum_schedule_is_a_type_error():
    """optax.trace multiplies the buffer by the schedule itself."""
    params = jnp.ones(2)
    optimizer = nag(0.1, optax.linear_schedule(0.5, 0.9, 10))
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates, -0.1 * (1 + 0.54), rtol=1e-6)


def fista(steps: int) -> np.ndarray:
    """m_k = (t_k − 1)/t_{k+1}, t₁ = 1; m₀ multiplies nothing."""
    t = [1.0]
    for _ in range(steps):
        t.append((1 + np.sqrt(1 + 4 * t[-1] ** 2)) / 2)
    return np.array([0.0] + [(now - 1) / following for now, following in zip(t, t[1:], strict=False)])


def test_scheduled_momentum_takes_the_wrong_coefficient(x64: None):
    """On diag(1, 100) with FISTA's sequence, after two steps: the objective is 0.478 in Nesterov's
    method, and 0.792 in a library that decays and looks ahead with one m_t."""
    table, hessian, start = fista(40), np.diag([1.0, 100.0]), np.array([1.0, 1.0])

    def momentum(count: Any) -> jax.Array:
        return jnp.asarray(table)[count]

    def gradient(p: Any) -> Any:
        return hessian @ p

    def objective(p: np.ndarray) -> float:
        return 0.5 * float(p @ gradient(p))

    ps, xs = trajectory(nag(0.01, momentum), gradient, start, 30)
    ys, expected = reference.nesterov(gradient, start, lambda t: 0.01, table.__getitem__, 30)
    np.testing.assert_allclose(ps, ys, rtol=0, atol=1e-13)
    np.testing.assert_allclose(xs, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(objective(ps[1]), 0.478, atol=5e-4)

    # optax.sgd with the momentum injected.
    injected = optax.inject_hyperparams(optax.sgd)(0.01, lambda count: momentum(count + 1), nesterov=True)
    wrong, _ = trajectory(injected, gradient, start, 2, iterate=False)
    np.testing.assert_allclose(objective(wrong[1]), 0.792, atol=5e-4)


def test_no_way_to_the_iterate():
    """optax.sgd leaves p; the theorems are about x."""
    optimizer = nag(0.1, 0.9)
    params = jnp.array([1.0])
    updates, state = optimizer.update(jnp.array([1.0]), optimizer.init(params), params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, 0.81, rtol=1e-6)
    np.testing.assert_allclose(eval_params(state, params), 0.9, rtol=1e-6)


def test_state_turns_float32_and_breaks_scan():
    """bfloat16 parameters with float32 gradients: optax.trace's state changes its dtype."""
    params = jnp.ones(2, jnp.bfloat16)
    kernels = accelerate(0.9), scale_by_nesterov(0.9), nag(0.1, 0.9, restart="speed")
    for optimizer in (*kernels, nadam(0.1), adan(0.1)):

        def step(state: Any, _: None) -> Any:
            return optimizer.update(jnp.ones(2), state, params)[::-1]  # noqa: B023

        _, updates = jax.lax.scan(step, optimizer.init(params), length=3)
        assert updates.dtype == jnp.float32


def test_bfloat16_accumulator_stalls():
    """With decay .99 the sum of ones is 99; in bfloat16 it stops where one more is rounded away."""

    def settled(dtype: Any) -> float:
        optimizer = scale_by_nesterov(0.99, accumulator_dtype=dtype)
        params = jnp.zeros(1, jnp.bfloat16)

        def step(state: Any, _: None) -> Any:
            return optimizer.update(jnp.ones(1, jnp.bfloat16), state, params)[::-1]

        state, _ = jax.lax.scan(step, optimizer.init(params), length=3000)
        return float(state.offset[0])

    np.testing.assert_allclose(settled(jnp.float32), 99.0, rtol=1e-4)
    # Between 64 and 128 bfloat16 has halves: 0.99·(74 + 1) = 74.25 rounds back to 74.
    assert settled(None) == 74.0


def test_injected_momentum_becomes_one():
    """0.999 in bfloat16 is 1.0; a float given to `nag` is never rounded to the parameters' dtype."""
    params = jnp.ones(1, jnp.bfloat16)
    optimizer = nag(1.0, 0.999, accumulator_dtype=jnp.float32)
    state = optimizer.init(params)
    _, state = optimizer.update(params, state, params)
    np.testing.assert_allclose(state[1].offset, -0.999, rtol=1e-6)


def test_none_gradient_destroys_its_buffer():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    optimizer = nag(0.1, 0.9)
    _, state = optimizer.update(params, optimizer.init(params), params)
    _, after = optimizer.update({"a": params["a"], "b": None}, state, params)
    assert_trees_equal(after[1].offset["b"], state[1].offset["b"])
    updates, _ = optimizer.update(params, after, params)
    np.testing.assert_allclose(updates["b"], -0.1 - 0.9 * 0.19, rtol=1e-6)


@pytest.mark.parametrize("accumulate", ["updates", "gradients"])
def test_nesterov_flag_is_ignored(accumulate: Any):
    """The first step of Nesterov's method is (1 + m) times that of heavy ball."""
    params = jnp.zeros(1)
    optimizer = nag(0.1, 0.9, accumulate=accumulate)
    updates, _ = optimizer.update(jnp.ones(1), optimizer.init(params), params)
    np.testing.assert_allclose(updates, -0.19, rtol=1e-6)


@pytest.mark.parametrize("accumulate", ["updates", "gradients"])
def test_buffer_starts_from_the_parameters(accumulate: Any):
    """A zero gradient moves nothing, however large the parameters."""
    params = jnp.array([1e6, -3.0])
    optimizer = nag(0.1, 0.9, accumulate=accumulate)
    state = optimizer.init(params)
    updates, state = optimizer.update(jnp.zeros(2), state, params)
    np.testing.assert_array_equal(updates, 0.0)
    assert_trees_equal(eval_params(state, params, learning_rate=0.1), params)


@pytest.mark.parametrize("accumulate", ["updates", "gradients"])
def test_decay_once_a_dtype_group(accumulate: Any):
    """Three dtypes in one tree, and each leaf decays once."""
    params = {name: jnp.ones(2, name) for name in ("float32", "bfloat16", "float16")}
    optimizer = nag(0.5, 0.9, weight_decay=0.25, accumulate=accumulate)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    for update in updates.values():
        np.testing.assert_array_equal(np.asarray(update, np.float32), -0.125)


def test_bfloat16_update_is_skipped():
    params = jnp.ones(4, jnp.bfloat16)
    optimizer = nag(0.25, 0.5)
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    np.testing.assert_array_equal(np.asarray(updates, np.float32), -0.375)


def test_momentum_is_lost_when_the_first_step_overflows():
    """The guard skips the step, and the second one starts the momentum as a first step would."""
    optimizer = optax.apply_if_finite(nag(0.1, 0.9), 5)
    params = jnp.ones(1)
    _, state = optimizer.update(jnp.array([jnp.inf]), optimizer.init(params), params)
    for expected in (-0.19, -0.271):
        updates, state = optimizer.update(jnp.ones(1), state, params)
        np.testing.assert_allclose(updates, expected, rtol=1e-6)


def test_nan_poisons_momentum_for_ever():
    """Unguarded, as in every momentum method; guarded, one bad step leaves no trace."""
    params = jnp.ones(1)
    bad = jnp.array([jnp.nan])
    plain, guarded = nag(0.1, 0.9), optax.apply_if_finite(nag(0.1, 0.9), 5)
    for optimizer, poisoned in ((plain, True), (guarded, False)):
        state = optimizer.init(params)
        for gradient in (params, bad, params):
            updates, state = optimizer.update(gradient, state, params)
        assert bool(jnp.isnan(updates[0])) is poisoned
        if not poisoned:
            np.testing.assert_allclose(updates, -0.271, rtol=1e-6)


def test_guard_leaves_the_counters_behind():
    """A skipped step does not advance a schedule."""
    schedule = optax.exponential_decay(0.1, 1, 0.5)
    optimizer = optax.apply_if_finite(nag(schedule, lambda count: 0.1 * float_count(count)), 5)
    params = jnp.ones(1)
    state = optimizer.init(params)
    _, state = optimizer.update(jnp.array([jnp.nan]), state, params)
    updates, _ = optimizer.update(params, state, params)
    np.testing.assert_allclose(updates, -0.1 * (1 + 0.1), rtol=1e-6)


def test_validation_branches_on_a_traced_value():
    """TracerBoolConversionError, in a factory under jit, vmap, grad or inject_hyperparams."""
    params = jnp.ones(2)

    def first_update(rate: Any, momentum: Any, decay: Any) -> Any:
        optimizer = nag(rate, momentum, weight_decay=decay)
        return optimizer.update(params, optimizer.init(params), params)[0]

    expected = first_update(0.1, 0.9, 0.01)
    numbers = jnp.array(0.1), jnp.array(0.9), jnp.array(0.01)
    np.testing.assert_allclose(jax.jit(first_update)(*numbers), expected, rtol=1e-6)
    lanes = jax.vmap(first_update)(*(jnp.stack([n, n]) for n in numbers))
    np.testing.assert_allclose(lanes, jnp.stack([expected, expected]), rtol=1e-6)
    slope = jax.grad(lambda rate: jnp.sum(first_update(rate, *numbers[1:])))(numbers[0])
    np.testing.assert_allclose(slope, -2 * 1.91, rtol=1e-6)
    optimizer = optax.inject_hyperparams(nag)(0.1, 0.9, weight_decay=0.01)
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates, expected, rtol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_state_aliases_the_parameters(momentum: float):
    """Donated together they would be the same buffer twice."""
    optimizer = nag(0.1, momentum, weight_decay=0.1, restart="speed")
    params = {"a": jnp.zeros(8), "b": jnp.zeros(8)}
    state = optimizer.init(params)
    leaves = jax.tree.leaves((params, state))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)

    def step(params: Any, state: Any) -> Any:
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    donated = jax.jit(step, donate_argnums=(0, 1))
    for _ in range(2):
        params, state = donated(params, state)
    assert all(leaf.is_deleted() for leaf in leaves)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("accumulate", ["updates", "gradients"])
def test_decay_is_coupled(momentum: float, accumulate: Any, x64: None):
    """Two steps of g = 0 at lr = λ = .1 from 1: .9801 decoupled; .954261 in the momentum."""
    decoupled = nag(0.1, momentum, weight_decay=0.1, accumulate=accumulate)
    ps, _ = trajectory(decoupled, jnp.zeros_like, np.float64(1.0), 2, iterate=False)
    np.testing.assert_allclose(ps[-1], 0.9801, rtol=1e-12)


def test_eval_params_fails_inside_a_chain():
    """An AttributeError where the state is nested, as schedule-free's function has."""
    optimizer = optax.chain(optax.clip(1.0), optax.chain(optax.identity(), nag(0.1, 0.9)))
    params = jnp.ones(2)
    assert_trees_equal(eval_params(optimizer.init(params), params), params)


def test_wrong_product_of_momentum(x64: None):
    """torch.optim.NAdam once multiplied μ_t into ∏μ twice; and it keeps the product in float32. Here
    a step has one factor, in double precision if that is on, whatever the parameters' dtype."""
    mu = [0.9 * (1 - 0.5 * 0.96 ** (t * 4e-3)) for t in (1, 2, 3)]
    # m = 0.1 after the first gradient 1, and √v̂ = 1.
    right, wrong = (mu[1] * 0.1 / (1 - product) + 1.0 for product in (mu[0] * mu[1], mu[0] ** 2 * mu[1]))
    assert abs(right - wrong) > 5e-3
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        params = {name: jnp.ones(2, dtype) for name in "abc"}
        optimizer = nadam(1.0, eps=0.0, variant="dozat")
        updates, state = optimizer.update(params, optimizer.init(params), params)
        for update in updates.values():
            np.testing.assert_allclose(-update.astype(float), right, rtol=2 * float(jnp.finfo(dtype).eps))
        for _ in range(2):
            _, state = optimizer.update(params, state, params)
        np.testing.assert_allclose(state[0].momentum_decay.product, np.prod(mu), rtol=1e-14)


def test_gradient_differences_have_the_wrong_factor(x64: None):
    """optax.adan has 1 − b2 where the paper has b2; at b2 = ½ they are one."""
    gradients = jnp.array([1.0, 2.0, 0.5])

    def updates(optimizer: optax.GradientTransformation) -> np.ndarray:
        def step(state: Any, gradient: jax.Array) -> Any:
            return optimizer.update(gradient, state, gradient)[::-1]

        return np.asarray(jax.lax.scan(step, optimizer.init(jnp.ones([])), gradients)[1])

    with jax.numpy_dtype_promotion("standard"):
        same, wrong = (updates(optax.adan(1.0, b2=b2, eps_root=0.0)) for b2 in (0.5, 0.92))
    np.testing.assert_allclose(updates(adan(1.0, b2=0.5)), same, rtol=1e-12)
    np.testing.assert_allclose(updates(adan(1.0))[:2], [-1.0, -0.9073595], rtol=1e-6)
    np.testing.assert_allclose(wrong[:2], [-1.0, -0.9462995], rtol=1e-6)


def test_decay_enters_the_adaptive_moments(x64: None):
    """With L2 in front, a coordinate without gradient moves by lr, however small λ is."""
    params = jnp.array([2.0])
    coupled = optax.chain(optax.add_decayed_weights(1e-4), nadam(0.1, variant="algoperf"))
    for optimizer, expected in (
        (coupled, -0.19),
        (nadamw(0.1, weight_decay=1e-4, variant="algoperf"), -0.1 * 1e-4 * 2.0),
        (adan(0.1, weight_decay=1e-4), -0.1 * 1e-4 * 2.0 / (1 + 0.1 * 1e-4)),
    ):
        updates, _ = optimizer.update(jnp.zeros(1), optimizer.init(params), params)
        np.testing.assert_allclose(updates, expected, rtol=1e-4)


def test_biased_early_directions(x64: None):
    """Muon with the buffer corrected for t + 1 steps and the gradient for t gives the gradient the
    weight 1.46 at t = 2. The direction is g₂ + m·(m·g₁ + g₂)."""
    m, (first, second) = 0.95, np.random.default_rng(0).standard_normal((2, 3, 4))
    optimizer = muon(1.0, m, fallback=optax.identity(), shape_scaling=None)
    _, state = optimizer.update(jnp.asarray(first), optimizer.init(jnp.zeros((3, 4))))
    updates, _ = optimizer.update(jnp.asarray(second), state)

    def direction(weight: float) -> np.ndarray:
        matrix = weight * second + m * (m * first + second)
        return -reference.newton_schulz(matrix, 5, np.tile([3.4445, -4.7750, 2.0315], (5, 1)))

    np.testing.assert_allclose(updates, direction(1.0), rtol=0, atol=1e-12)
    biased = (1 - m**3) / (1 - m**2)
    np.testing.assert_allclose(biased, 1.46, atol=5e-3)
    assert np.max(np.abs(direction(biased) - direction(1.0))) > 1e-2
