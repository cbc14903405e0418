"""Scheduled restart: the paper's recursion, and Nesterov's bound within each period."""

import numpy as np
import optax
import pytest

from nag_optax import accelerate, momentum
from tests import reference
from tests.helpers import START, betas, quartic_gradient, trajectory
from tests.problems import Problem, assert_below, elastic_net, huber, quadratic, worst_function


@pytest.mark.parametrize("period", [1, 7, 40, 1000])
def test_is_the_paper_s_recursion(period: int, x64: None):
    optimizer = optax.chain(optax.sgd(0.12), accelerate(momentum.scheduled_restart(period)))
    ps, xs = trajectory(optimizer, quartic_gradient, START, 300)
    ws, vs = reference.scheduled_restart(quartic_gradient, START, 0.12, period, 300)
    np.testing.assert_allclose(ps, ws, rtol=0, atol=1e-12)
    np.testing.assert_allclose(xs, vs, rtol=0, atol=1e-12)


def test_by_hand():
    np.testing.assert_allclose(
        betas(momentum.scheduled_restart(3), 8), [0, 1 / 4, 2 / 5, 0, 1 / 4, 2 / 5, 0, 1 / 4], rtol=1e-6
    )
    np.testing.assert_array_equal(betas(momentum.scheduled_restart(1), 4), 0.0)


@pytest.mark.parametrize(
    "problem", [worst_function(), huber(0.002), quadratic(), elastic_net()], ids=lambda p: p.name
)
def test_each_period_has_the_bound_of_nesterov(problem: Problem, x64: None):
    """From p where it begins: the first β is 0, so that no offset is carried over."""
    period = 25
    ps, xs = problem.solve(momentum.scheduled_restart(period), 4 * period)
    count = np.arange(1, period + 1)
    start = problem.start
    for begin in range(0, 4 * period, period):
        gaps = problem.gaps(xs[begin : begin + period])
        distance = np.linalg.norm(start - problem.solution)
        assert_below(gaps, 2 * problem.smoothness * distance**2 / (count + 1) ** 2)
        start = ps[begin + period - 1]
