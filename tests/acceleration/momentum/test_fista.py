"""FISTA, Chambolle and Dossal, GFISTA: their papers' recursions, and their bounds with and without a prox."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import accelerate, momentum
from tests import reference
from tests.helpers import START, betas, quartic_gradient, trajectory
from tests.problems import Problem, assert_below, elastic_net, huber, quadratic, worst_function

STEPS = 100
COUNT = np.arange(1, STEPS + 1)
RATE = 0.12


def assert_is(rule: momentum.MomentumRule, expected: tuple[np.ndarray, np.ndarray]) -> None:
    actual = trajectory(optax.chain(optax.sgd(RATE), accelerate(rule)), quartic_gradient, START, 300)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


class TestRecursion:
    def test_fista(self, x64: None):
        assert_is(momentum.fista(), reference.fista(quartic_gradient, START, RATE, 300))

    @pytest.mark.parametrize("a", [2, 3.0, 4.5])
    def test_chambolle_dossal(self, a: float, x64: None):
        expected = reference.chambolle_dossal(quartic_gradient, START, RATE, a, 300)
        assert_is(momentum.chambolle_dossal(a), expected)

    @pytest.mark.parametrize("convexities", [(0.05, 0.0), (0.05, 0.2), (0.0, 0.3), (0.0, 0.0)])
    def test_gfista(self, convexities: tuple[float, float], x64: None):
        expected = reference.gfista(quartic_gradient, START, RATE, *convexities, 300)
        assert_is(momentum.gfista(RATE, *convexities), expected)

    def test_with_a_prox(self, x64: None):
        """x is what the prox returned: the theorem is about it."""
        problem = elastic_net(0.1, 0.05)
        step_size = 1 / problem.smoothness
        arguments = problem.gradient, problem.start, step_size
        for rule, expected in (
            (momentum.fista(), reference.fista(*arguments, 200, problem.prox)),
            (
                momentum.gfista(step_size, problem.convexity, 0.05),
                reference.gfista(*arguments, problem.convexity, 0.05, 200, problem.prox),
            ),
        ):
            for a, b in zip(problem.solve(rule, 200), expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)

    def test_gfista_without_strong_convexity_is_fista(self, x64: None):
        expected = reference.fista(quartic_gradient, START, RATE, 300)
        assert_is(momentum.gfista(RATE, 0.0), expected)

    def test_default_is_three(self, x64: None):
        expected = reference.chambolle_dossal(quartic_gradient, START, RATE, 3, 300)
        assert_is(momentum.chambolle_dossal(), expected)


convex_problems = pytest.mark.parametrize(
    "problem", [worst_function(), huber(0.002), huber(0.05), quadratic(), elastic_net()], ids=lambda p: p.name
)


@convex_problems
def test_fista_bound(problem: Problem, x64: None):
    gaps = problem.gaps(problem.solve(momentum.fista(), STEPS)[1])
    t = [1.0]
    for _ in range(STEPS - 1):
        t.append((1 + np.sqrt(1 + 4 * t[-1] ** 2)) / 2)
    bound = problem.smoothness * problem.distance**2 / (2 * np.square(t))
    assert_below(gaps, bound)
    assert_below(bound, 2 * problem.smoothness * problem.distance**2 / (COUNT + 1) ** 2)


@convex_problems
@pytest.mark.parametrize("a", [2.0, 3.0, 5.0])
def test_chambolle_dossal_bound(problem: Problem, a: float, x64: None):
    gaps = problem.gaps(problem.solve(momentum.chambolle_dossal(a), STEPS)[1])
    assert_below(gaps, a**2 * problem.smoothness * problem.distance**2 / (2 * (COUNT + a - 1) ** 2))


@pytest.mark.parametrize("problem", [worst_function(), huber(0.002), quadratic()], ids=lambda p: p.name)
def test_simplified_nesterov_has_a_sharper_bound_without_a_prox(problem: Problem, x64: None):
    gaps = problem.gaps(problem.solve(momentum.chambolle_dossal(2.0), STEPS)[1])
    assert_below(gaps, 2 * problem.smoothness * problem.distance**2 / (COUNT**2 + 5 * COUNT + 6))


@pytest.mark.parametrize("n", [1, 4, 10])
def test_simplified_nesterov_attains_its_bound(n: int, x64: None):
    """On the Huber function on which x_n just reaches the threshold."""
    problem = huber(threshold=4 / (n**2 + 5 * n + 6))
    gaps = problem.gaps(problem.solve(momentum.chambolle_dossal(2.0), n)[1])
    np.testing.assert_allclose(gaps[-1], 2 * problem.smoothness / (n**2 + 5 * n + 6), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 4, 10, 50])
def test_fista_comes_near_its_bound(n: int, x64: None):
    # Where the slope is 1, x_n is n unit steps and what the momentum adds to them.
    slope_one = reference.fista(np.ones_like, np.zeros(1), 1.0, n)[1]
    problem = huber(threshold=float(1 / (1 - 2 * slope_one[-1, 0])))
    gap = problem.gaps(problem.solve(momentum.fista(), n)[1])[-1]
    t = 1.0
    for _ in range(n - 1):
        t = (1 + np.sqrt(1 + 4 * t**2)) / 2
    assert 0.33 < gap / (problem.smoothness / (2 * t**2)) < 1


@pytest.mark.parametrize(
    "problem",
    [
        worst_function(convexity=0.03),
        huber(convexity=0.03),
        quadratic(),
        elastic_net(),
        elastic_net(0.1, 0.2),
        huber(0.002),
    ],
    ids=lambda p: f"{p.name}-{p.convexity:g}",
)
def test_gfista_bound(problem: Problem, x64: None):
    tau, mu_f, mu_g = 1 / problem.smoothness, problem.convexity, problem.prox_convexity
    gaps = problem.gaps(problem.solve(momentum.gfista(tau, mu_f, mu_g), STEPS)[1])
    q = tau * (mu_f + mu_g) / (1 + tau * mu_g)
    rate = np.minimum(4 / (COUNT + 1) ** 2, (1 + np.sqrt(q)) * (1 - np.sqrt(q)) ** COUNT)
    assert_below(gaps, rate * (1 + tau * mu_g) * problem.distance**2 / (2 * tau))


class TestGfistaAtTheEdge:
    def test_condition_number_one_is_gradient_descent(self, x64: None):
        """q = 1 would divide zero by zero in the paper's form."""
        rule = momentum.gfista(1 / 3, 3.0)
        np.testing.assert_array_equal(betas(rule, 10), 0.0)

    @pytest.mark.parametrize("product", [1 - 1e-6, 1 - 1e-7, 1.0, 1 + 1e-7, 2.0])
    def test_rounding_near_it_does_no_harm(self, product: float):
        """Arrays are not checked, and q may round to either side of 1."""

        rule = momentum.gfista(jnp.asarray(product), 1.0)
        np.testing.assert_allclose(betas(rule, 100), 0.0, atol=1e-5)

    def test_a_step_that_is_too_long(self):
        with pytest.raises(ValueError, match=r"step_size·strong_convexity must be at most 1.*; got 0.5·2.1"):
            momentum.gfista(0.5, 2.1)
