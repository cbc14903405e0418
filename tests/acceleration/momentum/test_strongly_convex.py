"""The rules for a known condition number: their papers' recursions, bounds, and where these are attained."""

from typing import Any

import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import momentum
from tests import reference
from tests.helpers import START, quartic_gradient, trajectory
from tests.problems import Problem, assert_below, huber, parabola, quadratic, worst_function

STEPS = 100
COUNT = np.arange(1, STEPS + 1)
RULES = {
    "strongly_convex": momentum.strongly_convex,
    "triple_momentum": momentum.triple_momentum,
    "item": momentum.item,
}
PAPERS = {
    "strongly_convex": reference.constant_step_scheme,
    "triple_momentum": reference.triple_momentum,
    "item": reference.item,
}
PROBLEMS = [
    worst_function(convexity=0.03),
    huber(0.05, convexity=0.03),
    huber(0.3, convexity=0.3),
    quadratic(convexity=0.01),
    parabola(3.0, 3.0, 0.03),
    parabola(0.03, 3.0, 0.03),
]
over_problems = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.name}-{p.convexity:g}")


def condition_number(problem: Problem) -> float:
    return problem.smoothness / problem.convexity


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kappa", [1.5, 100, 1e4])
def test_is_the_paper_s_recursion(name: str, kappa: float, x64: None):
    smoothness = 1 / 0.12
    steps = 80 if kappa < 2 else 300  # The A of the paper's ITEM would overflow.
    optimizer = nag_optax.nag(0.12, RULES[name](kappa))
    expected = PAPERS[name](quartic_gradient, START, smoothness / kappa, smoothness, steps)
    for a, b in zip(trajectory(optimizer, quartic_gradient, START, steps), expected[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@over_problems
def test_strongly_convex_bound(problem: Problem, x64: None):
    kappa = condition_number(problem)
    gaps = problem.gaps(problem.solve(momentum.strongly_convex(kappa), STEPS)[1])
    first = problem.gaps(problem.start[None])[0] + problem.convexity * problem.distance**2 / 2
    assert_below(gaps, (1 - 1 / np.sqrt(kappa)) ** COUNT * first)


def triple_momentum_bound(problem: Problem, steps: np.ndarray) -> np.ndarray:
    rho = 1 - 1 / np.sqrt(condition_number(problem))
    return rho ** (2 * steps) * (problem.smoothness * problem.distance) ** 2 / (2 * problem.convexity)


@over_problems
def test_triple_momentum_bound(problem: Problem, x64: None):
    rule = momentum.triple_momentum(condition_number(problem))
    assert_below(problem.gaps(problem.solve(rule, STEPS)[1]), triple_momentum_bound(problem, COUNT))


def test_triple_momentum_attains_its_bound(x64: None):
    """On the steepest parabola, at every step; with the published constant at the fourth."""
    problem = parabola(1.0, 1.0, 0.1)
    gaps = problem.gaps(problem.solve(momentum.triple_momentum(10.0), 30)[1])
    np.testing.assert_allclose(gaps, triple_momentum_bound(problem, np.arange(1, 31)), rtol=1e-9)
    np.testing.assert_allclose(gaps[3], 0.238925, rtol=2e-6)


def numbers(rule: momentum.MomentumRule, steps: int) -> tuple[Any, Any, Any]:
    """(β, γ, e) of the last of `steps`."""
    evaluation: Any = rule.evaluation
    state, pair = rule.init(), None
    for _ in range(steps):
        pair, state = rule.coefficients(state)
    assert pair
    return *pair, evaluation(state)


def test_triple_momentum_coefficients():
    np.testing.assert_allclose(
        numbers(momentum.triple_momentum(100.0), 1), (0.7363636363636363, 0.9, 4.5), rtol=1e-14
    )


def item_bound(problem: Problem, steps: int) -> np.ndarray:
    zeros = np.zeros(1)
    a = reference.item(np.zeros_like, zeros, problem.convexity, problem.smoothness, steps)[2]
    return problem.distance**2 / (1 + np.array(a[1:]) / condition_number(problem))


@over_problems
def test_item_bound(problem: Problem, x64: None):
    _, zs = problem.solve(momentum.item(condition_number(problem)), STEPS)
    distances = np.sum(np.square(zs - problem.solution).reshape(STEPS, -1), axis=1)
    assert_below(distances, item_bound(problem, STEPS))


@pytest.mark.parametrize("curvature", [1.0, 0.001])
def test_item_attains_its_bound_on_both_parabolas(curvature: float, x64: None):
    problem = parabola(curvature, 1.0, 0.001)
    _, zs = problem.solve(momentum.item(1000.0), 15)
    np.testing.assert_allclose(np.square(zs), item_bound(problem, 15), rtol=1e-12)
    np.testing.assert_allclose(np.square(zs[-1]), 0.75660486, rtol=1e-8)


def test_item_tends_to_triple_momentum(x64: None):
    expected = numbers(momentum.triple_momentum(100.0), 1)
    np.testing.assert_allclose(numbers(momentum.item(100.0), 200), expected, rtol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_condition_number_one_is_gradient_descent(name: str, x64: None):
    """Nothing is divided by 1 − q."""
    optimizer = nag_optax.nag(0.12, RULES[name](1))
    ps, xs = trajectory(optimizer, quartic_gradient, START, 20)
    expected, _ = trajectory(optax.sgd(0.12), quartic_gradient, START, 20, iterate=False)
    np.testing.assert_allclose(ps, expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(xs, expected, rtol=0, atol=1e-15)
