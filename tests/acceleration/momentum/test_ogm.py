"""OGM: its paper's recursion, its bounds, which it attains, and what follows the last step."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import accelerate, momentum
from tests import reference
from tests.helpers import START, quartic_gradient, trajectory
from tests.problems import Problem, assert_below, huber, parabola, quadratic, worst_function

STEPS = 60
PROBLEMS = [worst_function(), huber(0.003), huber(0.05), quadratic(), parabola(3.0, 3.0, 0.0)]
over_problems = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)


def thetas(steps: int, last: bool) -> np.ndarray:
    return np.array(reference.ogm(np.zeros_like, np.zeros(1), 1.0, steps, last)[2])


def test_at_any_time_is_the_paper_s_recursion(x64: None):
    optimizer = optax.chain(optax.sgd(0.12), accelerate(momentum.ogm()))
    ps, xs = trajectory(optimizer, quartic_gradient, START, 300)
    expected, ys, _ = reference.ogm(quartic_gradient, START, 1 / 0.12, 300, last=False)
    np.testing.assert_allclose(ps, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(xs, ys, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_with_its_last_step_is_the_paper_s_recursion(steps: int, x64: None):
    optimizer = optax.chain(optax.sgd(0.12), accelerate(momentum.ogm(steps)))
    ps, xs = trajectory(optimizer, quartic_gradient, START, steps)
    expected, ys, _ = reference.ogm(quartic_gradient, START, 1 / 0.12, steps, last=True)
    np.testing.assert_allclose(ps, expected, rtol=0, atol=1e-12)
    # p after the last step, the primary iterate before it.
    np.testing.assert_allclose(xs, [*ys[:-1], expected[-1]], rtol=0, atol=1e-12)


@over_problems
def test_bound_at_any_time(problem: Problem, x64: None):
    gaps = problem.gaps(problem.solve(momentum.ogm(), STEPS)[1])
    theta = thetas(STEPS, last=False)[:-1]
    assert_below(gaps, problem.smoothness * problem.distance**2 / (4 * theta**2))


@over_problems
def test_bound_after_the_last_step(problem: Problem, x64: None):
    """Of each number of steps, each a run of its own."""
    for steps in (1, 2, 3, 5, 10, 25, STEPS):
        _, xs = problem.solve(momentum.ogm(steps), steps)
        theta = thetas(steps, last=True)[-1]
        bound = problem.smoothness * problem.distance**2 / (2 * theta**2)
        assert_below(problem.gaps(xs[-1:]), np.array([bound]))
        assert bound <= problem.smoothness * problem.distance**2 / (steps + 1) ** 2


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_attains_its_bound_on_two_functions(steps: int, x64: None):
    theta = thetas(steps, last=True)[-1]
    for problem in (parabola(3.0, 3.0, 0.0), huber(threshold=1 / theta**2)):
        _, xs = problem.solve(momentum.ogm(steps), steps)
        np.testing.assert_allclose(problem.gaps(xs[-1:]), 3.0 / (2 * theta**2), rtol=1e-12)


def test_published_constant(x64: None):
    problem = parabola(3.0, 3.0, 0.0)
    _, xs = problem.solve(momentum.ogm(4), 4)
    np.testing.assert_allclose(problem.gaps(xs)[-1], 0.0767518, rtol=1e-6)


def test_a_step_after_the_last_begins_a_new_run(x64: None):
    ps, xs = trajectory(nag_optax.nag(0.12, momentum.ogm(5)), quartic_gradient, START, 15)
    start = START
    for begin in (0, 5, 10):
        again = trajectory(nag_optax.nag(0.12, momentum.ogm(5)), quartic_gradient, start, 5)
        np.testing.assert_allclose(ps[begin : begin + 5], again[0], rtol=0, atol=1e-14)
        np.testing.assert_allclose(xs[begin : begin + 5], again[1], rtol=0, atol=1e-14)
        start = ps[begin + 4]


def test_a_restart_before_the_last_step_has_all_steps_ahead():
    optimizer = accelerate(momentum.ogm(3), restart="value")
    state: Any = optimizer.init(jnp.ones(1))
    for value in (1.0, 0.9, 2.0):
        _, state = optimizer.update(jnp.ones(1), state, value=value)
    assert int(state.rule_state.rule_state.steps) == 0
    assert float(state.rule_state.rule_state.theta) == 1.0
